"""How long the stages of one pruning took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Adds up the seconds of each stage of a pruning.

    Attributes:
        seconds: stage -> seconds, in the order the stages were first entered.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def restart(self) -> None:
        """Begins anew, for the next pruning."""
        self.seconds = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the block; one that fails does not count."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)
