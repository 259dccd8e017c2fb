"""Plans that weigh importance against cost: what goes first, that nothing of an order's promises is lost, how good."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import toy_networks as toys
from exact_plans import BestPlan, kept_importance
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.errors import BenchError
from bench.models import ModelSpec, build_model
from bench.plan.cost_model import CostModel, exact_cost
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import PruningPlan, Scores, make_plan, removal_order_of
from bench.plan.refinement import refine
from bench.plan.target import Goal, Target
from bench.plan.weighed_order import Objective

SIZE = (16, 24)
FIELDS = {"macs": "macs", "params": "parameters"}


class Stairs:
    """A cost that falls only where the width of the group passes a multiple of 8, and by more the second time."""

    name, grain, looks_ahead = "stairs", 8, True

    def __init__(self, groups: int, first: float = 1.0, later: float = 10.0):
        self.neighbours = [np.array([group]) for group in range(groups)]
        self._first, self._later = first, later

    def cost(self, kept: np.ndarray) -> float:
        return float(self._of(kept).sum())

    def savings(self, kept: np.ndarray, groups: np.ndarray, fewer: np.ndarray) -> np.ndarray:
        return self._of(kept[groups]) - self._of(fewer)

    def _of(self, width: np.ndarray) -> np.ndarray:
        steps = -(-width // 8)
        return np.where(steps > 2, self._later * 2 + self._first * (steps - 2), self._later * steps)


class Network:
    """A network with all that planning needs, and scores."""

    def __init__(self, model: nn.Module, seed: int = 0):
        self.model = model
        self.groups: list[ChannelGroup] = find_groups(model)
        self.table = CostTable(model, self.groups, SIZE)
        generator = torch.Generator().manual_seed(seed)
        self.scores: Scores = {
            group.name: torch.empty(group.channels).exponential_(generator=generator)
            * float(torch.empty(1).exponential_(generator=generator))
            for group in prunable(self.groups)
        }

    def worth_their_cost(self, name: str, seed: int) -> None:
        """Gives the groups scores in proportion to the cost of a channel, but for a factor between 1/2 and 2."""
        generator, whole = torch.Generator().manual_seed(seed), self.table.channels
        everyone = np.arange(len(whole))
        saved = exact_cost(self.table, name).savings(whole, everyone, whole - 1)
        for group, worth in zip(self.groups, saved.tolist(), strict=True):
            if group.name in self.scores:
                factor = 2 ** float(2 * torch.rand(1, generator=generator) - 1)
                noise = 0.2 + torch.rand(group.channels, generator=generator)
                self.scores[group.name] = factor * worth * noise

    def objective(self, name: str, **settings: object) -> Objective:
        return Objective(exact_cost(self.table, name), **settings)

    def plan(self, goal: Goal, objective: Objective | None, **target: object) -> PruningPlan:
        kept = target.pop("kept", None)
        return make_plan(self.groups, self.scores, self.table, Target(goal, **target), kept, objective)

    def order(self, objective: Objective, **target: object) -> list[np.ndarray]:
        order = removal_order_of(
            self.groups, self.scores, self.table, Target(Goal("channels", 0), **target), None, objective
        )
        return [order.left(number) for number in range(len(order) + 1)]


def unet() -> nn.Module:
    return build_model(ModelSpec("unet_small", 12, {"depth": 2, "width": 16}))


class Wide(nn.Module):
    """A trunk that two blocks add to, a narrower layer at half the size, and a concatenation of both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = toys.conv(3, 48), toys.conv(48, 32), toys.conv(32, 48)
        self.deep, self.fuse = toys.conv(48, 64), toys.conv(112, 40)
        self.head = nn.Conv2d(40, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        trunk = self.stem(images).relu()
        trunk = (trunk + self.outer(self.inner(trunk).relu())).relu()
        deep = nn.functional.interpolate(self.deep(nn.functional.max_pool2d(trunk, 2)).relu(), trunk.shape[-2:])
        return self.head(self.fuse(torch.cat([deep, trunk], dim=1)).relu())


@pytest.fixture(scope="module")
def networks() -> list[Network]:
    torch.manual_seed(0)
    return [Network(model) for model in (toys.Residual(), toys.Unpooled(), Wide(), unet())]


# --- what a channel costs


@pytest.mark.parametrize("name", FIELDS)
def test_a_cost_is_what_the_table_predicts_and_a_saving_what_it_differs_by(networks: list[Network], name: str) -> None:
    for network in networks:
        cost, table = exact_cost(network.table, name), network.table
        for seed in range(3):
            plan = toys.random_plan(network.groups, seed)
            kept = np.array([len(plan.kept.get(group.name, range(group.channels))) for group in network.groups])
            assert cost.cost(kept) == getattr(table.predict(kept), FIELDS[name])
            fewer = (kept + 1) // 2
            saved = cost.savings(kept, np.arange(len(kept)), fewer)
            for group in range(len(kept)):
                less = np.where(np.arange(len(kept)) == group, fewer, kept)
                assert saved[group] == cost.cost(kept) - cost.cost(less)


def test_neighbours_are_those_whose_savings_change(networks: list[Network]) -> None:
    for network in networks:
        cost, everyone = exact_cost(network.table, "macs"), np.arange(len(network.groups))
        whole = network.table.channels
        before = cost.savings(whole, everyone, whole - 1)
        for group in prunable(network.groups):
            number = network.groups.index(group)
            kept = np.where(everyone == number, whole // 2, whole)
            changed = np.flatnonzero(cost.savings(kept, everyone, kept - 1) != before)
            assert set(changed.tolist()) <= set(cost.neighbours[number].tolist())
            assert number in cost.neighbours[number]


# --- what goes first


def test_of_equally_important_channels_the_dearest_go_first() -> None:
    """Two layers of 8: 27 * 8 and 8 * 8 * 9 weights; the first costs 27 + 72 a channel, the second 72 + 4."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 4, 1)
    )
    network = Network(model)
    network.scores = {name: torch.ones(8) for name in network.scores}
    steps = network.order(network.objective("params"))
    assert [tuple(step[:2].tolist()) for step in steps[:3]] == [(8, 8), (7, 8), (6, 8)]
    # With 6 channels before it, one of the second layer is worth 6 * 9 + 4 = 58, one of the first 27 + 72 = 99.
    network.scores = {"0": torch.full((8,), 99.0), "1": torch.full((8,), 75.0)}
    # 99 / 99 = 1 and 75 / 76 < 1: the second; then 99 / (27 + 63) > 1 and 75 / 76: the second all the way.
    steps = network.order(network.objective("params"))
    assert [tuple(step[:2].tolist()) for step in steps[1:4]] == [(8, 7), (8, 6), (8, 5)]


def test_each_step_is_the_cheapest_by_the_table(networks: list[Network]) -> None:
    """The greedy rule, followed with predictions of whole networks."""
    for network in networks[:3]:
        steps = network.order(network.objective("macs"), min_keep=0.0)
        ranked = {
            number: network.scores[group.name].double().sort().values.numpy()
            for number, group in enumerate(network.groups)
            if group.protected is None
        }
        for before, after in itertools.pairwise(steps):
            now, prices = network.table.predict(before).macs, {}
            for number, scores in ranked.items():
                if before[number] > 1:
                    less = before.copy()
                    less[number] -= 1
                    gone = len(scores) - before[number]
                    prices[number] = scores[gone] / (now - network.table.predict(less).macs)
            (taken,) = np.flatnonzero(before != after)
            assert prices[taken] == pytest.approx(min(prices.values()), rel=1e-9)


def test_a_run_over_stairs_is_weighed_as_one() -> None:
    """The first stair saves little and the second much: both together are cheaper than either of the others' first."""
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 1), nn.Conv2d(32, 4, 1))
    network = Network(model)
    network.scores = {"0": torch.full((32,), 1.0), "1": torch.full((32,), 3.0)}
    steps = network.order(Objective(Stairs(3)))
    widths = [tuple(step[:2].tolist()) for step in steps]
    # Three stairs down lose 24 for 1 + 1 + 10; the first alone 8 for 1.
    assert widths[24] == (8, 32)
    assert all(width[1] == 32 for width in widths[:25])


def test_multipliers_make_a_group_dearer(networks: list[Network]) -> None:
    network = networks[3]
    plain = network.plan(Goal("macs", 0.5), network.objective("macs"))
    name = min(plain.kept, key=lambda group: len(plain.kept[group]) / len(network.scores[group]))
    spared = network.plan(Goal("macs", 0.5), network.objective("macs", multipliers={name: 1000.0}))
    assert len(spared.kept[name]) == len(network.scores[name]) > len(plain.kept[name])


def test_curves_replace_the_scores_but_not_their_order(networks: list[Network]) -> None:
    network = networks[3]
    curves = {name: np.linspace(1, 2, len(score)) for name, score in network.scores.items()}
    names = list(curves)
    curves[names[0]] = curves[names[0]] * 1e6
    plan = network.plan(Goal("macs", 0.5), network.objective("macs", curves=curves))
    assert len(plan.kept[names[0]]) == len(network.scores[names[0]])
    for name, kept in plan.kept.items():
        worst = network.scores[name].argsort()[: len(network.scores[name]) - len(kept)].tolist()
        assert set(kept).isdisjoint(worst)
    scaled = {name: 1e-9 * score.double().exp() for name, score in network.scores.items()}
    again = make_plan(
        network.groups,
        scaled,
        network.table,
        Target(Goal("macs", 0.5)),
        None,
        network.objective("macs", curves=curves),
    )
    assert again.kept == plan.kept
    del curves[names[1]]
    with pytest.raises(BenchError, match=rf"^the sensitivity curves do not tell about {names[1]}; measure them"):
        network.plan(Goal("macs", 0.5), network.objective("macs", curves=curves))


def test_negative_scores_count_from_the_least(networks: list[Network]) -> None:
    network = networks[2]
    wanted = network.plan(Goal("macs", 0.4), network.objective("macs"))
    least = min(float(score.min()) for score in network.scores.values())
    moved = {name: score.double() - least - 5 for name, score in network.scores.items()}
    objective, target = network.objective("macs"), Target(Goal("macs", 0.4))
    plan = make_plan(network.groups, moved, network.table, target, None, objective)
    from_zero = {name: score.double() - least for name, score in network.scores.items()}
    assert plan.kept == make_plan(network.groups, from_zero, network.table, target, None, objective).kept
    assert wanted.removes_channels


# --- what an order promises


CASES: dict[str, dict] = {
    "plain": {},
    "rounded": {"round_to": 4},
    "limits": {"min_keep": 0.3, "max_ratio": 0.6},
    "isomorphic": {"scope": "isomorphic"},
    "rounded limits": {"round_to": 8, "min_keep": 0.2},
}


def cost_of(network: Network, name: str) -> CostModel:
    return Stairs(len(network.groups)) if name == "stairs" else exact_cost(network.table, name)


@pytest.mark.parametrize("name", [*FIELDS, "stairs"])
@pytest.mark.parametrize("case", CASES)
def test_networks_are_nested_and_within_limits(networks: list[Network], name: str, case: str) -> None:
    limits = CASES[case]
    for network in networks:
        target = Target(Goal("channels", 0), **limits)
        objective = Objective(cost_of(network, name))
        order = removal_order_of(network.groups, network.scores, network.table, target, None, objective)
        plain = removal_order_of(network.groups, network.scores, network.table, target)
        assert len(order) == len(plain)
        assert order.left(len(order)).tolist() == plain.left(len(plain)).tolist()
        assert (np.diff(order.keys) > 0).all()
        before, costs = None, []
        for number in range(0, len(order) + 1, max(1, len(order) // 40)):
            kept = order.kept(number)
            for group, channels in zip(network.groups, kept, strict=True):
                assert len(channels) >= max(1, group.channels * max(limits.get("min_keep", 0.02), 0)) - 1e-9
                assert len(channels) >= group.channels * (1 - limits.get("max_ratio", 1.0)) - 1e-9
                multiple = limits.get("round_to", 1)
                assert len(channels) % multiple == 0 or group.channels in (len(channels), *range(multiple))
            if before is not None:
                assert all(set(now) <= set(then) for now, then in zip(kept, before, strict=True))
            before = kept
            costs.append(order.cost(number))
        assert all(new <= old for old, new in itertools.pairwise(costs))


@pytest.mark.parametrize("name", [*FIELDS, "stairs"])
@pytest.mark.parametrize("round_to", [1, 8])
def test_what_is_predicted_is_counted(networks: list[Network], name: str, round_to: int) -> None:
    network = networks[3]
    for kind, value in (("channels", 0.4), ("macs", 0.5), ("params", 0.3), ("size", 40_000)):
        plan = network.plan(Goal(kind, value), Objective(cost_of(network, name)), round_to=round_to)
        assert plan.threshold is None
        smaller = toys.cut_copy(network.model, network.groups, plan)
        assert plan.predicted == toys.measured(smaller, SIZE)
        if kind in FIELDS:
            share = getattr(plan.predicted, FIELDS[kind]) / getattr(plan.dense, FIELDS[kind])
            assert share == pytest.approx(value, abs=0.06 if round_to == 8 else 0.02)
        if kind == "channels":
            assert value - 0.08 < plan.channel_ratio <= value
        if kind == "size":
            assert plan.predicted.bytes <= value


@pytest.mark.parametrize("name", FIELDS)
def test_groups_with_a_ratio_of_their_own_keep_to_it(networks: list[Network], name: str) -> None:
    network = networks[3]
    first, second = list(network.scores)[:2]
    ratios = {first: 0.5, second: 0.0}
    plan = network.plan(Goal("macs", 0.5), network.objective(name), ratio_of=ratios)
    assert len(plan.kept[first]) == len(network.scores[first]) // 2
    assert len(plan.kept[second]) == len(network.scores[second])
    assert plan.predicted.macs / plan.dense.macs == pytest.approx(0.5, abs=0.02)


def test_nothing_is_left_where_every_group_has_a_ratio(networks: list[Network]) -> None:
    network = networks[3]
    objective = network.objective("macs")
    plan = network.plan(Goal("channels", 0.0), objective, ratio_of={"*": 0.5})
    assert plan.kept == network.plan(Goal("channels", 0.0), None, ratio_of={"*": 0.5}).kept


@pytest.mark.parametrize("name", FIELDS)
def test_several_cuts_bring_no_channel_back(networks: list[Network], name: str) -> None:
    network = networks[3]
    curves = {group: np.sort(score.double().numpy()) for group, score in network.scores.items()}
    kept = {group.name: list(range(group.channels)) for group in prunable(network.groups)}
    for share in (0.8, 0.6, 0.4):
        scores = {group: network.scores[group][there] for group, there in kept.items()}
        objective = network.objective(name, curves=curves)
        plan = make_plan(network.groups, scores, network.table, Target(Goal("macs", share)), kept, objective)
        assert plan.predicted.macs / plan.dense.macs == pytest.approx(share, abs=0.02)
        assert all(set(plan.kept[group]) <= set(there) for group, there in kept.items())
        kept = plan.kept
    # The scores stayed the same, so that the way in steps is the way at once, but for the step at each stop.
    at_once = network.plan(Goal("macs", 0.4), network.objective(name))
    assert sum(abs(len(kept[group]) - len(at_once.kept[group])) for group in kept) <= 4


def test_pools_lose_the_same_share(networks: list[Network]) -> None:
    network = networks[3]
    pools = {name: "up" for name in network.scores if name.startswith("up")}
    target = Target(Goal("channels", 0), pools=pools)
    order = removal_order_of(network.groups, network.scores, network.table, target, None, network.objective("macs"))
    widths, free = network.table.channels, [group.protected is None for group in network.groups]
    is_up = np.array([group.name in pools for group in network.groups])
    for number in range(0, len(order) // 2, 7):
        gone = widths - order.left(number)
        up, rest = (gone[part].sum() / widths[part].sum() for part in (is_up, ~is_up & np.array(free)))
        assert up == pytest.approx(rest, abs=1 / widths[is_up].sum() + 1e-9)


# --- how good it is


NETS: dict[str, Callable[[], nn.Module]] = {"trunk": Wide, "unet": unet}


def test_the_program_finds_what_enumeration_finds() -> None:
    """So that the optimum below is one."""
    torch.manual_seed(0)
    network = Network(Wide())
    for field in FIELDS.values():
        best = BestPlan(network.groups, network.scores, network.table, field)
        for share in (0.7, 0.4):
            budget = share * getattr(network.table.dense(), field)
            assert best.solved(budget) == pytest.approx(best.enumerated(budget), rel=1e-6)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", FIELDS)
def test_plans_keep_nearly_what_the_best_plan_keeps(net: str, name: str) -> None:
    torch.manual_seed(0)
    network, ranked = Network(NETS[net]()), []
    for seed in range(3):
        network.worth_their_cost(name, seed)
        best = BestPlan(network.groups, network.scores, network.table, FIELDS[name])
        for share in (0.75, 0.5, 0.25):
            weighed = network.plan(Goal(name, share), network.objective(name), round_to=8)
            plain = network.plan(Goal(name, share), None, round_to=8)
            parts = [
                kept_importance(plan, network.scores) / best.solved(getattr(plan.predicted, FIELDS[name]))
                for plan in (weighed, plain)
            ]
            assert parts[0] >= 0.97
            ranked.append(parts[1])
    # By importance alone it would not be so.
    assert min(ranked) < 0.97


@pytest.mark.parametrize("name", FIELDS)
def test_refined_plans_do_as_well(name: str) -> None:
    """Judged by the importance that is lost, within the cost of the first plan."""
    torch.manual_seed(0)
    network = Network(unet())
    network.worth_their_cost(name, 1)
    best = BestPlan(network.groups, network.scores, network.table, FIELDS[name])
    for share in (0.5, 0.25):
        goal = Goal(name, share)
        first = network.plan(goal, network.objective(name), round_to=8)
        budget = getattr(first.predicted, FIELDS[name])
        refined, _ = refine(
            list(network.scores),
            lambda by, goal=goal: network.plan(goal, network.objective(name, multipliers=by), round_to=8),
            lambda plan: -kept_importance(plan, network.scores),
            lambda plan, budget=budget: getattr(plan.predicted, FIELDS[name]) <= budget,
            trials=15,
            seed=0,
        )
        kept = kept_importance(refined, network.scores)
        assert kept >= kept_importance(first, network.scores)
        assert getattr(refined.predicted, FIELDS[name]) <= budget
        assert kept >= 0.97 * best.solved(budget)
