"""A latency from layer times: interpolation by hand, the staircase, and that savings are differences."""

from __future__ import annotations

import numpy as np
import pytest
import toy_networks as toys
from torch import nn

from bench.channels.groups import find_groups, prunable
from bench.measure.width_latencies import LayerTimes
from bench.plan.cost_table import CostTable
from bench.plan.latency_model import LatencyCost
from bench.plan.pruning_plan import make_plan
from bench.plan.target import Goal, Target
from bench.plan.weighed_order import Objective


def chain() -> nn.Sequential:
    """3 -> 32 -> 20 -> 4 channels."""
    return nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 20, 1), nn.Conv2d(20, 4, 1))


TIMES = {
    "0": LayerTimes([3], [8, 16, 32], [[1.0, 2.0, 6.0]]),
    "1": LayerTimes([8, 32], [8, 20], [[1.0, 2.0], [4.0, 8.0]]),
    "2": LayerTimes([8, 20], [4], [[0.5], [1.0]]),
}


@pytest.fixture
def cost() -> LatencyCost:
    model = chain()
    return LatencyCost(CostTable(model, find_groups(model), (4, 4)), TIMES)


def of(cost: LatencyCost, first: int, second: int) -> float:
    return cost.cost(np.array([first, second, 4]))


def test_what_was_timed_is_what_it_costs(cost: LatencyCost) -> None:
    assert of(cost, 32, 20) == 6 + 8 + 1
    assert of(cost, 8, 8) == 1 + 1 + 0.5
    assert of(cost, 8, 20) == 1 + 2 + 1


def test_between_widths_both_sides_are_interpolated(cost: LatencyCost) -> None:
    # 24 is half-way from 16 to 32, and two thirds from 8 to 32; 16 is two thirds from 8 to 20.
    assert of(cost, 24, 20) == pytest.approx(4 + (2 + 2 / 3 * 6) + 1)
    at_8, at_20 = 1 + 2 / 3 * 3, 2 + 2 / 3 * 6
    assert of(cost, 24, 16) == pytest.approx(4 + (at_8 + 2 / 3 * (at_20 - at_8)) + (0.5 + 2 / 3 * 0.5))


def test_a_width_costs_what_the_next_multiple_of_eight_does(cost: LatencyCost) -> None:
    for second in (1, 7, 8):
        assert of(cost, 16, second) == of(cost, 16, 8)
    assert of(cost, 16, 8) < of(cost, 16, 9) == of(cost, 16, 16) < of(cost, 16, 17) == of(cost, 16, 20)
    assert of(cost, 25, 8) == of(cost, 32, 8)


def test_noise_makes_nothing_narrower_slower() -> None:
    model = chain()
    noisy = TIMES | {"0": LayerTimes([3], [8, 16, 32], [[3.0, 2.0, 6.0]])}
    cost = LatencyCost(CostTable(model, find_groups(model), (4, 4)), noisy)
    # 3, 3 and 6 ms count, not 3, 2 and 6.
    assert of(cost, 16, 20) == pytest.approx(3 + (2 + 1 / 3 * 6) + 1)
    values = [of(cost, width, 20) for width in range(1, 33)]
    assert (np.diff(values) >= 0).all()


@pytest.mark.parametrize("net", [toys.Residual, toys.Unpooled, toys.Transposed, toys.Flattened])
def test_a_saving_is_the_difference_of_two_costs(net: type[nn.Module]) -> None:
    model, random = net(), np.random.default_rng(0)
    groups = find_groups(model)
    table = CostTable(model, groups, (16, 24))
    times = {}
    for name, sides in table.layers.items():
        read, made = (sides[side].dense if side in sides else 1 for side in ("in", "out"))
        times[name] = LayerTimes([read], [made], [[1.0]]) if read < 3 else _grid(read, made, random)
    cost = LatencyCost(table, times)
    everyone = np.arange(len(groups))
    for seed in range(3):
        plan = toys.random_plan(groups, seed)
        kept = np.array([len(plan.kept.get(group.name, range(group.channels))) for group in groups])
        fewer = (kept + 1) // 2
        saved = cost.savings(kept, everyone, fewer)
        for group in everyone:
            less = np.where(everyone == group, fewer, kept)
            assert saved[group] == pytest.approx(cost.cost(kept) - cost.cost(less), abs=1e-12)
            touched = np.flatnonzero(cost.savings(less, everyone, np.minimum(less, 1)) != 0)
            assert group in cost.neighbours[group] and len(touched) <= len(groups)
        # Each change by itself, whatever else is asked at the same time.
        twice = cost.savings(kept, np.array([0, 0]), np.array([fewer[0], kept[0]]))
        assert twice[0] == saved[0] and twice[1] == 0


def _grid(read: int, made: int, random: np.random.Generator) -> LayerTimes:
    """Times at one width less and all of it."""
    ms = np.sort(np.sort(random.random((2, 2)), axis=0), axis=1)
    return LayerTimes([read - 1, read], [made - 1, made], ms.tolist())


def test_a_plan_stops_on_the_stairs() -> None:
    model = chain()
    groups = find_groups(model)
    table = CostTable(model, groups, (4, 4))
    scores = {name: score + 1 for name, score in toys.random_scores(groups).items()}
    objective = Objective(LatencyCost(table, TIMES))
    for removed in (8, 16):
        plan = make_plan(groups, scores, table, Target(Goal("channels", removed / 52)), None, objective)
        widths = [len(plan.kept[group.name]) for group in prunable(groups)]
        assert widths[0] == 32 - removed and widths[1] == 20
