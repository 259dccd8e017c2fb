"""The console: messages on stdout; how far the work is, as bars on a terminal's stderr or as lines in a log."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")

_LOG_WIDTH = 1000

QUIET_SECONDS = 10.0
"""A log hears of work that takes longer after so many seconds without a line."""


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


@cache
def console() -> Console:
    """The rich console every message and table goes through; silent in all processes but the first."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, quiet=not _is_first_process())
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # A log has no edge: cut to the 80 columns that rich takes then, tables lose digits.
        console.width = _LOG_WIDTH
    return console


def say(message: str) -> None:
    """Prints one message."""
    _log().last = time.monotonic()
    console().print(message, markup=False)


def announce(stage: str) -> None:
    """Says in a log what begins; nothing on a terminal, where bars show it, and nothing outside of a command.

    A stage that comes again is only named where nothing was said for a while.
    """
    log, kind = _log(), re.sub(r"\d+", "", stage)
    if log.is_wanted and (kind not in log.stages or log.is_due()):
        log.stages.add(kind)
        say(f"{stage} ...")


def progress(items: Iterable[Item], label: str, total: int | None = None, **shown: Any) -> Iterable[Item]:
    """Wraps an iterable in a progress bar; where there is no terminal, a log has a line of it now and then.

    Args:
        items: what is gone through.
        label: what is done meanwhile.
        total: how many there are, where `items` does not tell.
        shown: further settings of the bar.
    """
    from tqdm import tqdm

    total = len(items) if total is None and hasattr(items, "__len__") else total
    # disable=None lets tqdm ask whether stderr is a terminal.
    disable = None if _is_first_process() else True
    told = _told(items, label, total)
    return tqdm(told, desc=label, total=total, disable=disable, leave=False, dynamic_ncols=True, **shown)


@contextlib.contextmanager
def overall(total: int, unit: str) -> Iterator[Any]:
    """A bar over all that a command does, above those of its stages; `update()` moves it. None without a terminal.

    Args:
        total: the length.
        unit: what is counted.
    """
    from tqdm import tqdm

    if not (_is_first_process() and sys.stderr is not None and sys.stderr.isatty()):
        yield None
        return
    with tqdm(desc="sweep", total=total, unit=f" {unit}", leave=False, dynamic_ncols=True) as bar:
        yield bar


@contextlib.contextmanager
def stages_told() -> Iterator[None]:
    """Lets the stages of a command be told in the block, unless both its streams are a terminal."""
    streams = (sys.stdout, sys.stderr)
    log = _log()
    log.is_wanted, log.stages = not all(stream is not None and stream.isatty() for stream in streams), set()
    try:
        yield
    finally:
        log.is_wanted = False


@dataclass
class _Log:
    is_wanted: bool = False
    last: float = 0.0
    stages: set[str] = field(default_factory=set)

    def is_due(self) -> bool:
        return time.monotonic() - self.last >= QUIET_SECONDS


@cache
def _log() -> _Log:
    return _Log()


def _told(items: Iterable[Item], label: str, total: int | None) -> Iterator[Item]:
    announce(label)
    log = _log()
    for number, item in enumerate(items):
        if log.is_wanted and number and log.is_due():
            say(f"{label}: {number}" + (f" of {total}" if total else ""))
        yield item
