"""How far a sweep is: a line a cell, with the time that the others may take, and on a terminal a bar over all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.system.console import overall, say


@dataclass
class SweepProgress:
    """Counts cells.

    Attributes:
        total: how many there are.
        workers: how many are run at once.
        known: seconds that cells took, in this run.
        finished: how many are over.
    """

    total: int
    workers: int = 1
    known: list[float] = field(default_factory=list)
    finished: int = 0
    _bar: Any = None

    @contextlib.contextmanager
    def shown(self) -> Iterator[SweepProgress]:
        """Shows the bar in the block."""
        with overall(self.total, "cells") as self._bar:
            yield self

    def finish(self, line: str, seconds: float | None) -> None:
        """Counts a cell and says what came of it.

        Args:
            line: that.
            seconds: what this run of the command, or another one meanwhile, spent on it; None for a cell that was done.
        """
        self.finished += 1
        if seconds is not None:
            self.known.append(seconds)
        # A line between the bars would be drawn over.
        with self._bar.external_write_mode() if self._bar is not None else contextlib.nullcontext():
            say(f"[{self.finished}/{self.total}] {line}{self.left()}")
        if self._bar is not None:
            self._bar.update()

    def left(self) -> str:
        """How long the other cells may take, judged by those of this run; empty where nothing is known."""
        left = self.total - self.finished
        if not (left and self.known):
            return ""
        return f"; {left} left, about {duration(left * sum(self.known) / len(self.known) / self.workers)}"


def duration(seconds: float) -> str:
    """A time for people: `'40 s'`, `'12 min'`, `'3.4 h'`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
