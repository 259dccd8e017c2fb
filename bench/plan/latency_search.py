"""Search for the network that takes a wanted time, by few measurements on the device at hand.

How long a network takes is not the sum over its layers that its MACs are: kernels like some widths better than
others, and what is not a convolution takes time too. So networks of the order are cut and timed beside the
baseline. The search keeps the first two neighbours among those measured that are slower and faster than wanted, and
goes between them, by interpolation over their MACs. What looks right after a short measurement is measured again,
longer, and so is what a short one leaves undecided.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.errors import BenchError
from bench.measure.latency_report import LatencyReport
from bench.plan.removal_order import RemovalOrder
from bench.plan.target import Goal
from bench.system.console import say

TOLERANCE = 0.02
"""The search ends this close to what is wanted."""

PROMISE = 0.05
"""A network further off than this is said to have missed its target."""

MOST = 10
"""Measurements a search may take."""

# Shares of a full measurement: one to find the way, one to confirm an arrival.
_SHORT, _LONG = 0.2, 0.5

Measure = Callable[[int, float], LatencyReport]
"""Number of a network, and the share of a full measurement to spend -> it as `candidate` beside `baseline`."""


@dataclass(frozen=True)
class Measurement:
    """One network of the order, timed.

    Attributes:
        number: which one.
        macs: its share of the dense network's MACs.
        latency: its share of the baseline's latency, the median of paired ratios.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        baseline_ms: the baseline's latency beside it, in milliseconds.
        rounds: timed passes of each.
        is_long: whether it was a measurement to confirm an arrival.
    """

    number: int
    macs: float
    latency: float
    low: float
    high: float
    baseline_ms: float
    rounds: int
    is_long: bool


def find(order: RemovalOrder, dense_macs: int, goal: Goal, measure: Measure) -> tuple[int, list[Measurement]]:
    """Searches the network that takes the wanted time.

    Args:
        order: ever smaller networks.
        dense_macs: MACs of the baseline.
        goal: the wanted share of the baseline's latency or the wanted time.
        measure: times a network of the order.

    Returns:
        The network's number, and all measurements in the order they were made.

    Raises:
        BenchError: the goal is out of reach (saying the best that was measured).
    """
    search = _Search(order, dense_macs, goal)
    measured: list[Measurement] = []
    step = search.begin()
    while step is not None and len(measured) < MOST:
        number, is_long = step
        report = measure(number, _LONG if is_long else _SHORT)
        baseline, candidate = (report.networks[name] for name in ("baseline", "candidate"))
        latency, low, high = (1 / s for s in (candidate.speedup, candidate.speedup_high, candidate.speedup_low))
        measured.append(
            Measurement(
                number, search.macs(number), latency, low, high, baseline.median_ms, report.rounds, is_long=is_long
            )
        )
        step = search.next(measured)
    return search.chosen(measured), measured


class _Search:
    """What to measure next, and what has been found."""

    def __init__(self, order: RemovalOrder, dense_macs: int, goal: Goal):
        self._order, self._dense_macs, self._goal = order, dense_macs, goal

    def macs(self, number: int) -> float:
        return self._order.cost(number).macs / self._dense_macs

    def begin(self) -> tuple[int, bool] | None:
        """The first step: the smallest network shows what can be reached."""
        nothing_asked = self._goal == Goal("latency", 1.0) and self.macs(0) == 1
        return None if nothing_asked else (len(self._order), False)

    def next(self, measured: Sequence[Measurement]) -> tuple[int, bool] | None:
        """A network to measure and whether to do it at length; None at the end."""
        known, wanted = self._known(measured), self._wanted(measured)
        for point in (point for point in known if point.number >= 0):
            if _error(point, wanted) <= TOLERANCE:
                return None if point.is_long else (point.number, True)
            if point.low <= wanted <= point.high and not point.is_long:
                return point.number, True
        pairs = ((a, b) for a, b in itertools.pairwise(known) if a.latency >= wanted > b.latency)
        slower, faster = next(pairs, (None, None))
        if slower is None:
            # Nothing is slower: the baseline does. Nothing is faster: unless noise hid it, nothing will be.
            least = known[-1]
            return None if wanted > 1 or least.is_long else (least.number, True)
        # Along a bend, interpolation creeps up from one side. The Illinois rule: each further step there halves the
        # weight of the other side.
        sides = [point.latency > wanted for point in measured if not point.is_long]
        weight = 0.5 ** (len(list(itertools.takewhile(lambda side: side == sides[-1], reversed(sides)))) - 1)
        over = (slower.latency - wanted) * (1 if sides[-1] else weight)
        under = (wanted - faster.latency) * (weight if sides[-1] else 1)
        between = self._between(slower, faster, under / (over + under))
        return None if between is None else (between, False)

    def _between(self, slower: Measurement, faster: Measurement, part: float) -> int | None:
        """The network at a part of the way up from the faster one's MACs, or next to it; None where there is none."""
        aim = faster.macs + part * (slower.macs - faster.macs)
        smaller = self._first_at(aim)
        # With rounding, many numbers are one network, known by its MACs.
        found = [n for n in (max(0, smaller - 1), smaller) if faster.macs < self.macs(n) < slower.macs]
        return min(found, key=lambda n: abs(self.macs(n) - aim)) if found else None

    def _known(self, measured: Sequence[Measurement]) -> list[Measurement]:
        """The last measurement of each network, the largest network first.

        The baseline, of which all latencies are shares, has number -1 where groups with ratios of their own keep it
        out of the order.
        """
        baseline = Measurement(0 if self.macs(0) == 1 else -1, 1.0, 1.0, 1.0, 1.0, 0.0, 0, is_long=True)
        latest = {baseline.number: baseline} | {point.number: point for point in measured}
        return [latest[number] for number in sorted(latest)]

    def _first_at(self, macs: float) -> int:
        """The first network with at most a share of the MACs."""
        return bisect.bisect_left(range(len(self._order)), True, key=lambda number: self.macs(number) <= macs)

    def _wanted(self, measured: Sequence[Measurement]) -> float:
        """The goal as a share of the baseline's latency."""
        if self._goal.kind == "latency":
            return self._goal.value
        return self._goal.value / statistics.median(point.baseline_ms for point in measured)

    def chosen(self, measured: Sequence[Measurement]) -> int:
        """The network that is closest even at the worse end of its interval: a short measurement may flatter."""
        if not measured:
            return 0
        wanted = self._wanted(measured)
        if wanted >= 1 and self._goal.kind == "milliseconds":
            return 0
        known = [point for point in self._known(measured) if point.number >= 0]
        best = min(known, key=lambda point: max(point.high / wanted - 1, 1 - point.low / wanted))
        if best.latency > wanted * (1 + PROMISE) and best.latency == min(point.latency for point in known):
            raise BenchError(
                f"cannot get down to {self._text(wanted, measured)}: {self._text(best.latency, measured)} is the least "
                f"that was measured, with {self._order.limits()}; ask for more or loosen that"
            )
        if best.number == 0 and best.latency < wanted * (1 - PROMISE):
            raise BenchError(
                f"cannot keep {self._text(wanted, measured)}: `ratio_of` alone leaves "
                f"{self._text(best.latency, measured)}; ask for less of either"
            )
        return best.number

    def _text(self, share: float, measured: Sequence[Measurement]) -> str:
        if self._goal.kind == "latency":
            return f"{share:.1%} of the latency"
        return f"{share * statistics.median(point.baseline_ms for point in measured):.4g} ms"


def _error(point: Measurement, wanted: float) -> float:
    return abs(point.latency / wanted - 1)


def search_record(goal: Goal, measured: Sequence[Measurement], verified: LatencyReport) -> dict[str, Any]:
    """What the record says of a search; the console hears what came of it.

    Args:
        goal: what was wanted.
        measured: what `find` measured.
        verified: the finished network as `candidate` beside the `baseline`, measured anew.

    Returns:
        Plain data: the latency in the goal's unit, its distance from the goal in percent, whether that is a miss,
        the search's measurements and the verification.
    """
    baseline, candidate = (verified.networks[name] for name in ("baseline", "candidate"))
    share = 1 / candidate.speedup
    in_time = goal.kind == "milliseconds"
    # By the paired ratio, as everywhere, and not the median of another moment.
    milliseconds = baseline.median_ms * share
    reached = milliseconds if in_time else share
    error = reached / goal.value - 1
    # A baseline that is fast enough as it is misses nothing.
    is_missed = error > PROMISE or (error < -PROMISE and not (in_time and baseline.median_ms <= goal.value))
    say(
        f"{'TARGET MISSED: ' if is_missed else ''}{goal} was asked for, {milliseconds:.4g} ms measured, "
        f"{share:.3f} of the baseline's latency ({100 * error:+.1f} %)"
    )
    return {
        "reached": reached,
        "error_percent": 100 * error,
        "missed": is_missed,
        "measured": [asdict(point) for point in measured],
        "verified": asdict(verified),
    }
