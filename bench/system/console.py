"""The console: messages on stdout, progress on stderr (and only on a terminal)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


@cache
def console() -> Console:
    """The rich console every message and table goes through; silent in all processes but the first."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, quiet=not _is_first_process())


def say(message: str) -> None:
    """Prints one message."""
    console().print(message, markup=False)


def progress(items: Iterable[Item], label: str, total: int | None = None, **shown: Any) -> Iterable[Item]:
    """Wraps an iterable in a progress bar; quiet where stderr is not a terminal."""
    from tqdm import tqdm

    # disable=None lets tqdm ask whether stderr is a terminal.
    disable = None if _is_first_process() else True
    return tqdm(items, desc=label, total=total, disable=disable, leave=False, dynamic_ncols=True, **shown)
