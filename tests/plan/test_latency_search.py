"""The search for a latency: which network it finds, in how few measurements, and what it makes of noise and steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from toy_latency import timed

from bench.errors import BenchError
from bench.measure.latency_report import LatencyReport
from bench.plan.latency_search import MOST, TOLERANCE, Measurement, find, search_record
from bench.plan.target import Goal

DENSE = 10**9
TARGETS = (0.9, 0.75, 0.6, 0.45, 0.3)


class RemovalOrder:
    """Numbers 0 to `last`, with a share of the MACs each."""

    def __init__(self, last: int = 1000, step: int = 1, most: float = 1.0):
        self.last, self.step, self.most = last, step, most

    def __len__(self) -> int:
        return self.last

    def cost(self, number: int) -> SimpleNamespace:
        left = 1 - number // self.step * self.step / (self.last + 1)
        return SimpleNamespace(macs=round(DENSE * self.most * left**2))

    def limits(self) -> str:
        return "`min_keep=0.02`"


class Clock:
    """Times the networks of a family by a formula over their share of the MACs, and counts."""

    def __init__(self, family: RemovalOrder, latency: Callable[[float], float], noise: float = 0.0, seed: int = 0):
        self.family, self.latency, self.noise = family, latency, noise
        self.random = np.random.default_rng(seed)
        self.calls: list[tuple[int, float]] = []

    def true(self, number: int) -> float:
        return self.latency(self.family.cost(number).macs / DENSE)

    def __call__(self, number: int, effort: float) -> LatencyReport:
        self.calls.append((number, effort))
        # The mean of five times as many rounds has less than half the noise.
        error = self.noise * self.random.standard_normal() / np.sqrt(effort / 0.2)
        return timed(self.true(number) * (1 + error), spread=2 * self.noise + 1e-6)


def search(clock: Clock, value: float, kind: str = "latency") -> int:
    number, measured = find(clock.family, DENSE, Goal(kind, value), clock)
    assert [(point.number, point.is_long) for point in measured] == [(n, e == 0.5) for n, e in clock.calls]
    return number


SMOOTH = {
    "proportional": lambda macs: macs,
    "overhead": lambda macs: 0.15 + 0.85 * macs,
    "bent up": lambda macs: 0.05 + 0.95 * macs**0.5,
    "bent down": lambda macs: 0.1 + 0.9 * macs**1.6,
}


@pytest.mark.parametrize("share", TARGETS)
@pytest.mark.parametrize("shape", SMOOTH)
def test_smooth_latencies_take_few_measurements(shape: str, share: float) -> None:
    clock = Clock(RemovalOrder(), SMOOTH[shape])
    number = search(clock, share)
    assert clock.true(number) == pytest.approx(share, rel=TOLERANCE)
    assert len(clock.calls) <= 7
    # The smallest network comes first, the longer measurement last and once.
    assert clock.calls[0] == (1000, 0.2)
    assert clock.calls[-1] == (number, 0.5)
    assert sum(effort == 0.5 for _, effort in clock.calls) == 1


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", TARGETS)
def test_noise_of_three_percent_costs_little_accuracy(share: float, seed: int) -> None:
    clock = Clock(RemovalOrder(), SMOOTH["overhead"], noise=0.03, seed=seed)
    assert clock.true(search(clock, share)) == pytest.approx(share, rel=0.06)
    assert len(clock.calls) <= MOST


def test_a_wrong_turn_is_undone() -> None:
    family = RemovalOrder()
    latency = SMOOTH["proportional"]
    clock = Clock(family, latency)
    first = 293

    def spoilt(number: int, effort: float) -> LatencyReport:
        report = clock(number, effort)
        # Where the way is found by, the first measurement is 5 % too slow, but admits that it may be.
        return timed(1.05 * latency(clock.family.cost(number).macs / DENSE), spread=0.1) if number == first else report

    clock.calls.clear()
    _, plain = find(family, DENSE, Goal("latency", 0.5), clock)
    assert plain[1].number == first
    assert not plain[1].is_long
    _, measured = find(family, DENSE, Goal("latency", 0.5), spoilt)
    assert [(point.number, point.is_long) for point in measured[1:3]] == [(first, False), (first, True)]


@pytest.mark.parametrize("share", TARGETS)
def test_steps_are_approached_from_the_closer_side(share: float) -> None:
    clock = Clock(RemovalOrder(), lambda macs: (np.floor(8 * macs) + 1) / 9)
    number = search(clock, share)
    possible = (np.arange(9) + 1) / 9
    assert abs(clock.true(number) - share) == pytest.approx(np.abs(possible - share).min())
    assert len(clock.calls) <= MOST


def test_a_jagged_latency_is_met_by_a_network_on_the_right_tooth() -> None:
    # Every other network is 3 % slower than its neighbours.
    family = RemovalOrder()
    macs = {family.cost(number).macs: number for number in range(len(family) + 1)}
    clock = Clock(family, lambda share: share * (1 + 0.03 * (macs[round(share * DENSE)] % 2)))
    for share in TARGETS:
        assert clock.true(search(clock, share)) == pytest.approx(share, rel=TOLERANCE)
        clock.calls.clear()


def test_a_latency_that_rises_on_the_way_down_is_met_all_the_same() -> None:
    def latency(macs: float) -> float:
        return float(np.interp(macs, [0, 0.2, 0.36, 0.5, 0.64, 1], [0.1, 0.5, 0.3, 0.7, 0.4, 1]))

    for share in TARGETS:
        clock = Clock(RemovalOrder(), latency)
        assert clock.true(search(clock, share)) == pytest.approx(share, rel=TOLERANCE)


@pytest.mark.parametrize("step", [40, 150])
def test_rounded_families_end_at_the_closest_network(step: int) -> None:
    for share in TARGETS:
        clock = Clock(RemovalOrder(step=step), SMOOTH["overhead"])
        number = search(clock, share)
        errors = [abs(clock.true(n) / share - 1) for n in range(len(clock.family) + 1)]
        assert errors[number] <= max(TOLERANCE, min(errors) + 1e-9)
        # No network is measured twice under two numbers, and none again but at length.
        assert len({(clock.true(n), effort) for n, effort in clock.calls}) == len(clock.calls)


def test_a_time_is_a_share_of_what_the_baseline_takes() -> None:
    clock = Clock(RemovalOrder(), SMOOTH["overhead"])
    assert 20 * clock.true(search(clock, 12.0, "milliseconds")) == pytest.approx(12, rel=TOLERANCE)
    assert search(Clock(RemovalOrder(), SMOOTH["overhead"]), 20.5, "milliseconds") == 0


def test_nothing_asked_is_nothing_measured() -> None:
    assert find(RemovalOrder(), DENSE, Goal("latency", 1.0), pytest.fail) == (0, [])


def test_a_latency_out_of_reach_names_the_best() -> None:
    clock = Clock(RemovalOrder(), lambda macs: 0.5 + 0.5 * macs)
    best = r"cannot get down to 30\.0% of the latency: 50\.0% of the latency is the least that was measured, with "
    best += "`min_keep"
    with pytest.raises(BenchError, match=best):
        search(clock, 0.3)
    # It was looked at twice, and nothing else was.
    assert clock.calls == [(1000, 0.2), (1000, 0.5)]
    with pytest.raises(BenchError, match=r"cannot get down to 6 ms: 10 ms is the least that was measured"):
        search(Clock(RemovalOrder(), lambda macs: 0.5 + 0.5 * macs), 6.0, "milliseconds")


def test_the_smallest_network_will_do_where_it_is_nearly_fast_enough() -> None:
    assert search(Clock(RemovalOrder(), lambda macs: 0.5 + 0.5 * macs), 0.48) == 1000


def test_a_flattering_short_measurement_is_not_chosen() -> None:
    steps = {0: 1.0, 150: 0.8, 300: 0.55, 450: 0.45}
    family = RemovalOrder(last=450, step=150)

    def measure(number: int, effort: float) -> LatencyReport:
        # Of two networks about 10 % off, what seems the closer one may as well be much further off.
        first = number // 150 * 150
        return timed(steps[first], spread=0.09 if first == 450 else 0.001)

    assert find(family, DENSE, Goal("latency", 0.497), measure)[0] // 150 == 2


def test_groups_with_ratios_of_their_own_may_leave_too_little() -> None:
    clock = Clock(RemovalOrder(most=0.5), SMOOTH["proportional"])
    assert clock.true(search(clock, 0.4)) == pytest.approx(0.4, rel=TOLERANCE)
    for share in (0.8, 0.99, 1.0):
        clock = Clock(RemovalOrder(most=0.5), SMOOTH["proportional"])
        with pytest.raises(
            BenchError, match=rf"cannot keep {share:.1%} of the latency: `ratio_of` alone leaves 50\.0%"
        ):
            search(clock, share)
    # A time is a limit that what is left keeps.
    assert search(Clock(RemovalOrder(most=0.5), SMOOTH["proportional"]), 30.0, "milliseconds") == 0


@pytest.mark.parametrize(
    ("goal", "verified", "error", "missed"),
    [
        (Goal("latency", 0.5), timed(0.52), 4.0, False),
        (Goal("latency", 0.5), timed(0.53), 6.0, True),
        (Goal("latency", 0.5), timed(0.47), -6.0, True),
        (Goal("milliseconds", 10.0), timed(0.5, baseline_ms=20.8), 4.0, False),
        (Goal("milliseconds", 10.0), timed(0.55), 10.0, True),
        (Goal("milliseconds", 10.0), timed(0.44), -12.0, True),
        (Goal("milliseconds", 30.0), timed(1.0), -100 / 3, False),
    ],
)
def test_a_miss_is_said_and_recorded(
    capsys: pytest.CaptureFixture[str], goal: Goal, verified: LatencyReport, error: float, missed: bool
) -> None:
    point = Measurement(3, 0.5, 0.6, 0.59, 0.61, 20.0, 20, is_long=True)
    record = search_record(goal, [point], verified)
    assert (record["error_percent"], record["missed"]) == (pytest.approx(error), missed)
    assert record["reached"] == pytest.approx(goal.value * (1 + error / 100))
    assert record["measured"][0]["latency"] == 0.6
    assert record["verified"] == asdict(verified)
    said = capsys.readouterr().out
    assert said.startswith(f"TARGET MISSED: {goal} was asked for" if missed else f"{goal} was asked for")
