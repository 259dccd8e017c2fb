"""How much time and memory it may take to find the groups of a network; what is not done by then stays whole."""

from __future__ import annotations

import time

MOST_SECONDS = 60.0
"""Processor time of this thread for following a network and trying its groups out."""

# Labels of a network, and positions of an axis that has some. Every array of all labels then takes 128 MB, and of those
# there are a few.
MOST_LABELS, MOST_POSITIONS = 1 << 24, 1 << 20

# Ways in which code takes axes apart that hang together: how they agree takes the square of that time.
MOST_SPLITS = 2000


class Budget:
    """The time for one network, from now on.

    Attributes:
        seconds: how much there is.
    """

    def __init__(self) -> None:
        # Not the clock on the wall: a busy machine finds the same groups.
        self.seconds = MOST_SECONDS
        self._end = time.thread_time() + self.seconds

    @property
    def is_spent(self) -> bool:
        """Whether nothing more is to begin."""
        return time.thread_time() > self._end
