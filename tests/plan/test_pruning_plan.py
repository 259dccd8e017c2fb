"""Plans: what goes for which target, and that the cost table knows what the network will cost."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.errors import BenchError, UsageError
from bench.measure.cost import measure_cost
from bench.models import ModelSpec, build_model
from bench.plan.cost_table import CostTable, Prediction
from bench.plan.pruning_plan import PruningPlan, make_plan, original_channels, renumbered
from bench.plan.removal_order import fixed_ratios, nearest_allowed
from bench.plan.target import Goal, Target

# The table of these is read off and checked in a second.
SMALL = ("unet_small", "simple_segnet", "resnet18_seg", "resnet50_seg")
SIZE = (16, 24)


class Bare:
    """Groups without a network, for choices that need none."""

    def __init__(self, *widths: int):
        model = nn.Sequential(
            *(nn.Conv2d(a, b, 1) for a, b in zip((3, *widths), (*widths, 2), strict=True)),
        )
        self.groups = find_groups(model)
        self.table = CostTable(model, self.groups, (4, 4))

    def plan(self, scores: Sequence[Sequence[float]], kind: str, value: float, **target: object) -> PruningPlan:
        named = {str(number): torch.tensor(score) for number, score in enumerate(scores)}
        goal = Goal(kind, value, target.pop("within", None))
        return make_plan(self.groups, named, self.table, Target(goal, **target))

    def kept(self, scores: Sequence[Sequence[float]], ratio: float, **target: object) -> list[list[int]]:
        return list(self.plan(scores, "channels", ratio, **target).kept.values())


def removed(plan: PruningPlan, groups: Sequence[ChannelGroup]) -> set[tuple[str, int]]:
    return {
        (group.name, channel)
        for group in prunable(groups)
        for channel in set(range(group.channels)) - set(plan.kept[group.name])
    }


# --- the cost table


@pytest.fixture(scope="module", params=SMALL)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, list[ChannelGroup]]:
    torch.manual_seed(0)
    model = build_model(ModelSpec(request.param, 12))
    return model, find_groups(model)


@pytest.mark.parametrize("size", [(64, 64), (45, 99)])
def test_predictions_are_what_is_measured(network: tuple[nn.Module, list[ChannelGroup]], size: tuple[int, int]) -> None:
    model, groups = network
    table, cost = CostTable(model, groups, size), measure_cost(model, size)
    assert table.dense() == toys.measured(model, size) == (cost.parameters, cost.macs, cost.state_bytes)
    for seed in range(2):
        plan = toys.random_plan(groups, seed)
        kept = [len(plan.kept.get(group.name, range(group.channels))) for group in groups]
        assert table.predict(torch.tensor(kept).numpy()) == toys.measured(toys.cut_copy(model, groups, plan), size)


@pytest.mark.parametrize(
    "model",
    [
        toys.Residual(),
        toys.Unpooled(),
        toys.Transposed(),
        toys.Auxiliary(),
        toys.ImageAgain(),
        toys.Flattened(),
        toys.Between(nn.Conv2d(8, 8, 3, padding=1, groups=8)),
        toys.Between(nn.Conv2d(8, 8, 3, padding=1, groups=2)),
        toys.Between(nn.PReLU(8)),
        toys.Between(nn.BatchNorm2d(8, affine=False)),
    ],
    ids=["residual", "unpooled", "transposed", "aux", "image", "flat", "depthwise", "grouped", "slopes", "bare norm"],
)
def test_predictions_for_each_coupling(model: nn.Module) -> None:
    groups = find_groups(model)
    table = CostTable(model, groups, SIZE)
    assert table.dense() == toys.measured(model, SIZE)
    for seed in range(5):
        plan = toys.random_plan(groups, seed)
        kept = [len(plan.kept.get(group.name, range(group.channels))) for group in groups]
        assert table.predict(torch.tensor(kept).numpy()) == toys.measured(toys.cut_copy(model, groups, plan), SIZE)


def test_a_prediction_by_hand() -> None:
    bare = Bare(4, 5)
    # 3 -> 2 -> 5 -> 2 channels with biases, 1x1 filters, 16 pixels, 4 bytes a parameter.
    assert bare.table.predict(torch.tensor([2, 5, 2]).numpy()) == Prediction(35, 416, 140)


def test_a_layer_run_twice_counts_twice() -> None:
    class Twice(toys.Between):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.layer(self.layer(self.first(images))))

    model = Twice(nn.Conv2d(8, 8, 3, padding=1))
    groups = find_groups(model)
    table = CostTable(model, groups, SIZE)
    assert table.dense() == toys.measured(model, SIZE)
    plan = toys.random_plan(groups)
    kept = [len(plan.kept.get(group.name, range(group.channels))) for group in groups]
    assert kept[0] < 8
    assert table.predict(torch.tensor(kept).numpy()) == toys.measured(toys.cut_copy(model, groups, plan), SIZE)


# --- a share of the channels


def test_globally_the_smallest_scores_go() -> None:
    kept = Bare(4, 3).kept([[0.4, 0.1, 0.6, 0.2], [0.5, 0.3, 0.7]], 0.5)
    assert kept == [[0, 2], [0, 2]]


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.29, 0.3, 0.5, 0.77, 0.9])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "all equal"])
def test_a_global_share_is_exact_and_never_exceeded(ratio: float, ties: bool) -> None:
    bare = Bare(40, 60)
    generator = torch.Generator().manual_seed(0)
    scores = [torch.ones(width) if ties else torch.rand(width, generator=generator) for width in (40, 60)]
    plan = bare.plan([score.tolist() for score in scores], "channels", ratio)
    count = round(ratio * 100)
    assert plan.channels == (100 - count, 100)
    assert plan.channel_ratio == pytest.approx(ratio)
    assert plan.removes_channels == (ratio > 0)
    assert len(removed(plan, bare.groups)) == count
    worst = sorted(value for score in scores for value in score.tolist())[:count]
    gone = [scores[int(name)][channel].item() for name, channel in removed(plan, bare.groups)]
    assert sorted(gone) == worst


def test_a_global_share_is_rounded_down() -> None:
    bare = Bare(4, 3)
    scores = [[0.4, 0.1, 0.6, 0.2], [0.5, 0.3, 0.7]]
    assert bare.plan(scores, "channels", 0.42).channels == (5, 7)
    assert bare.plan(scores, "channels", 3 / 7).channels == (4, 7)


@pytest.mark.parametrize(
    ("ratio", "counts"), [(0.3, (3, 2, 1)), (0.5, (5, 4, 2)), (0.55, (6, 4, 2)), (0.9, (9, 6, 2)), (0.02, (0, 0, 0))]
)
def test_locally_each_group_loses_its_rounded_share(ratio: float, counts: tuple[int, ...]) -> None:
    bare = Bare(10, 7, 3)
    scores = [torch.rand(width, generator=torch.Generator().manual_seed(width)) for width in (10, 7, 3)]
    plan = bare.plan([score.tolist() for score in scores], "channels", ratio, scope="local")
    for score, kept, count in zip(scores, plan.kept.values(), counts, strict=True):
        assert kept == sorted(score.argsort()[count:].tolist())


def test_local_ranking_ignores_the_scale_of_a_group() -> None:
    bare = Bare(4, 4)
    assert bare.kept([[4, 1, 2, 3], [400, 100, 200, 300]], 0.5, scope="local") == [[0, 3], [0, 3]]
    assert bare.kept([[4, 1, 2, 3], [400, 100, 200, 300]], 0.375) == [[0], [0, 1, 2, 3]]


def test_the_floor_rescues_a_layer_that_a_threshold_would_empty() -> None:
    # Network Slimming's threshold takes the third smallest |gamma|, 0.2, and keeps what is above it.
    gammas = [[0.1, 0.9, 0.5], [0.2, 0.05]]
    assert Bare(3, 2).kept(gammas, 0.4) == [[1, 2], [0]]
    assert Bare(3, 2).kept(gammas, 0.6) == [[1], [0]]


@pytest.mark.parametrize("scope", ["global", "local"])
def test_the_floor_of_every_group_is_kept(scope: str) -> None:
    bare = Bare(10, 6)
    scores = [[0.0] * 10, [1.0] * 6]
    kept = bare.kept(scores, 0.5, scope=scope, min_keep=0.35)
    assert [len(channels) for channels in kept] == ([4, 4] if scope == "global" else [5, 3])
    kept = bare.kept(scores, 0.6, scope=scope, min_keep=0.35)
    assert [len(channels) for channels in kept] == [4, 3]


@pytest.mark.parametrize("scope", ["global", "local"])
def test_smaller_shares_are_contained_in_larger_ones(scope: str) -> None:
    model = toys.Residual()
    groups = find_groups(model)
    table, scores = CostTable(model, groups, SIZE), toys.random_scores(groups)
    gone: set[tuple[str, int]] = set()
    for ratio in (0.1, 0.25, 0.4, 0.6, 0.8):
        more = removed(make_plan(groups, scores, table, Target(Goal("channels", ratio), scope)), groups)
        assert gone < more
        gone = more


@pytest.mark.parametrize("scope", ["global", "local"])
def test_a_share_of_nothing_keeps_all(scope: str) -> None:
    plan = Bare(4, 3).plan([[0, 0, 0, 0], [0, 0, 0]], "channels", 0.0, scope=scope)
    assert plan.kept == {"0": [0, 1, 2, 3], "1": [0, 1, 2]}
    assert plan.predicted == plan.dense
    assert not plan.removes_channels


# --- groups of the same structure


def test_isomorphic_groups_are_ranked_together_and_others_apart() -> None:
    model = nn.Sequential(
        *toys.conv(3, 4), nn.ReLU(), *toys.conv(4, 4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )  # fmt: skip
    groups = find_groups(model)
    assert [group.name for group in groups] == ["0", "3", "6", "8"]
    assert groups[0].structure == groups[1].structure == ("BatchNorm2d out", "Conv2d in", "Conv2d out")
    assert groups[2].structure == ("Conv2d in", "Conv2d out")
    # Between the first two the smaller scores go; the scores of the third are of another kind.
    scores = {
        "0": torch.tensor([0.1, 0.2, 0.3, 0.8]),
        "3": torch.tensor([0.4, 0.5, 0.6, 0.7]),
        "6": torch.tensor([10.0, 30.0, 20.0, 40.0]),
    }
    table = CostTable(model, groups, SIZE)

    def kept(scope: str) -> list[list[int]]:
        return list(make_plan(groups, scores, table, Target(Goal("channels", 0.5), scope)).kept.values())

    assert kept("isomorphic") == [[3], [1, 2, 3], [1, 3]]
    assert kept("global") == [[3], [3], [0, 1, 2, 3]]
    assert kept("local") == [[2, 3], [2, 3], [1, 3]]


def test_without_another_of_its_structure_a_group_is_ranked_alone() -> None:
    model = toys.Residual()
    groups = find_groups(model)
    classes = [group.structure for group in prunable(groups)]
    alone = [group for group in prunable(groups) if classes.count(group.structure) == 1]
    assert {group.name for group in alone} == {"stem.0"}
    table, scores = CostTable(model, groups, SIZE), toys.random_scores(groups)
    trunk = make_plan(groups, scores, table, Target(Goal("channels", 0.5), "isomorphic")).kept["stem.0"]
    assert trunk == sorted(scores["stem.0"].argsort()[4:].tolist())


def test_each_pool_of_a_global_ranking_loses_the_same_share() -> None:
    bare = Bare(4, 6, 4, 5)
    # The scores of the second and the third group are of another size.
    scores = [[1, 4, 2, 3], [70, 10, 60, 20, 50, 40], [15, 30, 80, 25], [5, 9, 6, 7, 8]]
    pools = {"0": "a", "1": "b", "2": "b"}
    assert bare.kept(scores, 0.4, pools=pools) == [[1, 2, 3], [0, 2, 4, 5], [1, 2], [1, 3, 4]]
    assert bare.kept(scores, 0.4, pools=pools | {"3": "a"}) == [[1], [0, 2, 4, 5], [1, 2], [0, 1, 2, 3, 4]]
    assert bare.kept(scores, 0.4) == [[1], list(range(6)), list(range(4)), [1]]
    for scope in ("local", "isomorphic"):
        assert bare.kept(scores, 0.4, scope=scope, pools=pools) == bare.kept(scores, 0.4, scope=scope)


@pytest.mark.parametrize(("kind", "value"), [("channels", 0.35), ("macs", 0.6), ("params", 0.4), ("size", 10**6)])
@pytest.mark.parametrize("network", ["unet_small"], indirect=True)
def test_pools_hold_for_every_kind_of_target(
    network: tuple[nn.Module, list[ChannelGroup]], kind: str, value: float
) -> None:
    model, groups = network
    scores = toys.random_scores(groups)
    pools = {group.name: group.name.split(".")[0] for group in prunable(groups)}
    for name in scores:
        scores[name] *= {"downs": 1, "bottleneck": 100, "ups": 1e-6}[pools[name]]
    plan = make_plan(groups, scores, CostTable(model, groups, SIZE), Target(Goal(kind, value), pools=pools))
    lost = {}
    for pool in ("downs", "bottleneck", "ups"):
        members = [group for group in prunable(groups) if pools[group.name] == pool]
        width = sum(group.channels for group in members)
        lost[pool] = (1 - sum(len(plan.kept[group.name]) for group in members) / width, 1 / width)
    assert all(share > 0.1 for share, _ in lost.values())
    for share, step in lost.values():
        assert share == pytest.approx(lost["ups"][0], abs=step + lost["ups"][1])


# --- limits of a group


def test_no_group_loses_more_than_its_largest_share() -> None:
    bare = Bare(10, 6)
    scores = [[0.0] * 10, [1.0] * 6]
    assert [len(kept) for kept in bare.kept(scores, 0.3, max_ratio=0.4)] == [6, 6]
    assert [len(kept) for kept in bare.kept(scores, 6 / 16, max_ratio=0.4)] == [6, 4]
    assert [len(kept) for kept in bare.kept(scores, 0.4, max_ratio=0.4, scope="local")] == [6, 4]
    for scope in ("global", "local"):
        with pytest.raises(BenchError, match=r"at most 37\.5% can go with `min_keep=0\.02` and `max_ratio=0\.4`"):
            bare.plan(scores, "channels", 0.5, max_ratio=0.4, scope=scope)


def test_a_share_of_a_width_is_not_lost_to_binary_fractions() -> None:
    # 0.07 * 100 and (1 - 0.93) * 100 are a little above 7.
    scores = [[1.0] * 100]
    assert len(Bare(100).kept(scores, 0.93, min_keep=0.07)[0]) == 7
    assert len(Bare(100).kept(scores, 0.93, max_ratio=0.93)[0]) == 7


def test_globally_rounding_never_exceeds_the_share() -> None:
    bare = Bare(16, 12, 6)
    ranked = [[*range(16)], [*range(100, 112)], [*range(200, 206)]]
    counts = {
        # Half of a step of the first group is not enough for a whole one.
        ratio: [len(kept) for kept in bare.kept(ranked, ratio, round_to=8)]
        for ratio in (0.0, 0.2, 8 / 34, 0.3, 12 / 34, 14 / 34)
    }
    assert counts == {
        0.0: [16, 12, 6],
        0.2: [16, 12, 6],
        8 / 34: [8, 12, 6],
        0.3: [8, 12, 6],
        12 / 34: [8, 8, 6],
        # The third group is narrower than a multiple, so any count will do.
        14 / 34: [8, 8, 4],
    }


def test_locally_each_group_keeps_the_nearest_multiple() -> None:
    bare = Bare(32, 20, 6)
    scores = [[*range(32)], [*range(20)], [*range(6)]]

    def counts(ratio: float) -> list[int]:
        return [len(kept) for kept in bare.kept(scores, ratio, round_to=8, scope="local")]

    # 32 to 29, 26, 22, 16, 10; 20 to 18, 16, 14, 10, 6; half-way the larger count.
    assert counts(0.1) == [32, 20, 5]
    assert counts(0.2) == [24, 16, 5]
    assert counts(0.3) == [24, 16, 4]
    assert counts(0.5) == [16, 8, 3]
    assert counts(0.7) == [8, 8, 2]


def test_which_counts_a_group_may_keep() -> None:
    width = np.array([12, 16, 7, 8])
    floor = np.array([1, 9, 2, 1])
    rounded = [
        nearest_allowed(np.maximum(width - lost, floor), width, floor, 8).tolist() for lost in range(12)
    ]  # fmt: skip
    # Multiples and the whole width; not below the floor; freely where there is no multiple.
    assert [counts[0] for counts in rounded] == [12, 12, 12, 8, 8, 8, 8, 8, 8, 8, 8, 8]
    assert {counts[1] for counts in rounded} == {16}
    assert [counts[2] for counts in rounded] == [7, 6, 5, 4, 3, 2, 2, 2, 2, 2, 2, 2]
    assert {counts[3] for counts in rounded} == {8}


@pytest.mark.parametrize("multiple", [1, 2, 7, 8, 32])
def test_rounding_is_monotone_near_and_within_bounds(multiple: int) -> None:
    generator = np.random.default_rng(multiple)
    width = generator.integers(1, 70, 500)
    floor = np.minimum(width, generator.integers(1, 20, 500))
    before = width
    for lost in range(70):
        kept = np.maximum(width - lost, floor)
        rounded = nearest_allowed(kept, width, floor, multiple)
        assert ((floor <= rounded) & (rounded <= before)).all()
        is_allowed = (rounded % multiple == 0) | (rounded == width) | (width < multiple)
        assert is_allowed.all()
        free = (kept >= floor + multiple) & (width >= multiple)
        assert (2 * np.abs(rounded - kept)[free] <= multiple).all()
        before = rounded
    assert multiple == 1 or (before < width).any()


# --- shares of single groups


def test_a_named_group_loses_its_own_share() -> None:
    bare = Bare(10, 20, 10)
    scores = [[1.0] * 10, [*range(20)], [2.0] * 10]
    plan = bare.plan(scores, "channels", 0.5, ratio_of={"1": 0.25})
    # Half of the others' twenty channels, from the worse-scored group first.
    assert [len(kept) for kept in plan.kept.values()] == [1, 15, 9]
    assert plan.kept["1"] == list(range(5, 20))
    assert plan.channels == (25, 40)
    for scope in ("global", "local", "isomorphic"):
        plan = bare.plan(scores, "params", 0.5, ratio_of={"1": 0.0}, scope=scope)
        assert len(plan.kept["1"]) == 20
        assert plan.predicted.parameters / plan.dense.parameters == pytest.approx(0.5, abs=0.04)
    assert len(bare.plan(scores, "channels", 0.1, ratio_of={"1": 0.3}, round_to=8).kept["1"]) == 16


def test_the_first_pattern_that_fits_counts() -> None:
    model = toys.Residual()
    groups = find_groups(model)
    ratios = fixed_ratios(groups, {"outer2*": 0.25, "inner*": 0.5, "*": 0.75})
    # The trunk goes by any of its producers.
    assert ratios == {"stem.0": 0.25, "inner1.0": 0.5, "inner2.0": 0.5, "side.0": 0.75, "fuse.0": 0.75}
    plan = make_plan(
        groups,
        toys.random_scores(groups),
        CostTable(model, groups, SIZE),
        Target(Goal("channels", 0.9), ratio_of={"*": 0.5}),
    )
    assert {name: len(kept) for name, kept in plan.kept.items()} == {
        "stem.0": 4, "inner1.0": 3, "inner2.0": 3, "side.0": 2, "fuse.0": 3,
    }  # fmt: skip


@pytest.mark.parametrize("pattern", ["layer9*", "2"])
def test_a_pattern_must_fit_a_group_that_may_be_pruned(pattern: str) -> None:
    with pytest.raises(UsageError, match=f"`ratio_of` pattern '{re.escape(pattern)}' fits no group that may be pruned"):
        Bare(4, 6).kept([[1] * 4, [1] * 6], 0.3, ratio_of={pattern: 0.5})


def test_named_shares_have_limits_too() -> None:
    scores = [[1.0] * 10, [2.0] * 10]
    with pytest.raises(BenchError, match=r"`ratio_of` cannot remove 60\.0% of 0: at most 50\.0% of a group can go"):
        Bare(10, 10).kept(scores, 0.1, ratio_of={"0": 0.6}, max_ratio=0.5)
    with pytest.raises(BenchError, match=r"cannot keep 95\.0% of the params: `ratio_of` alone leaves"):
        Bare(10, 10).plan(scores, "params", 0.95, ratio_of={"0": 0.6})
    bare = Bare(4, 6)
    with pytest.raises(BenchError, match="`ratio_of` names 0, which the method cannot score"):
        make_plan(bare.groups, {"1": torch.ones(6)}, bare.table, Target(Goal("macs", 0.9), ratio_of={"0": 0.5}))


# --- a share of a cost


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.23])
@pytest.mark.parametrize("kind", ["macs", "params"])
def test_a_cost_target_is_met_within_one_channel_from_the_closer_side(kind: str, share: float, scope: str) -> None:
    model = build_model(ModelSpec("unet_small", 12))
    groups = find_groups(model)
    table, scores = CostTable(model, groups, (64, 64)), toys.random_scores(groups)
    plan = make_plan(groups, scores, table, Target(Goal(kind, share), scope))

    def cost(prediction: Prediction) -> int:
        return prediction.macs if kind == "macs" else prediction.parameters

    # What goes first and what would go next, found by asking for one channel less and more.
    count, total = len(removed(plan, groups)), plan.channels[1]
    if scope == "global":
        around = [make_plan(groups, scores, table, Target(Goal("channels", n / total))) for n in (count - 1, count + 1)]
        assert [len(removed(other, groups)) for other in around] == [count - 1, count + 1]
        wanted = share * cost(plan.dense)
        assert cost(around[0].predicted) > cost(plan.predicted) > cost(around[1].predicted)
        assert all(abs(cost(plan.predicted) - wanted) <= abs(cost(other.predicted) - wanted) for other in around)
    assert cost(plan.predicted) / cost(plan.dense) == pytest.approx(share, abs=0.01)
    assert plan.predicted == toys.measured(toys.cut_copy(model, groups, plan), (64, 64))


def test_the_closer_side_by_hand() -> None:
    bare = Bare(4)
    scores = [[0.1, 0.2, 0.3, 0.4]]
    # 4 parameters a channel in, 2 out, and 2 biases: 26, 20, 14, 8.
    parameters = [26, 20, 14, 8]
    for share, expected in ((1.0, 26), (24 / 26, 26), (22 / 26, 20), (18 / 26, 20), (16 / 26, 14), (8 / 26, 8)):
        plan = bare.plan(scores, "params", share)
        assert plan.predicted.parameters == expected, share
        assert plan.channels[0] == 4 - parameters.index(expected)


def test_the_threshold_by_hand() -> None:
    bare, scores = Bare(4, 3), [[0.4, 0.1, 0.6, 0.2], [0.5, 0.3, 0.7]]
    assert bare.plan(scores, "channels", 3 / 7).threshold == pytest.approx(0.3)
    assert bare.plan(scores, "channels", 0.0).threshold is None
    assert bare.plan(scores, "channels", 3 / 7, scope="local").threshold is None
    # All but one channel of the first layer score no more, and it keeps two.
    assert bare.plan([[1, 2, 3, 9], [5, 6, 7]], "channels", 3 / 7, min_keep=0.5).threshold == 5


def test_a_search_costs_few_networks() -> None:
    bare = Bare(500, 300)
    scores = [torch.rand(500).tolist(), torch.rand(300).tolist()]
    # 785 channels may go: ten steps of a bisection, the neighbour, and the two ends.
    for kind, value in (("params", 0.3), ("macs", 0.3), ("size", 300_000)):
        assert 5 < bare.plan(scores, kind, value).costed <= 13


def test_how_close_a_cost_must_come() -> None:
    bare, scores = Bare(4), [[0.1, 0.2, 0.3, 0.4]]
    # 26, 20, 14 or 8 parameters: 0.6 of 26 are 15.6, and 14 is 6.2 % of the network away.
    assert bare.plan(scores, "params", 0.6, within=0.07).predicted.parameters == 14
    assert bare.plan(scores, "params", 20 / 26, within=1e-9).predicted.parameters == 20
    with pytest.raises(BenchError, match=r"the closest to 60\.00% of the params that whole channels reach is 53\.85%"):
        bare.plan(scores, "params", 0.6, within=0.06)


# --- what is refused


@pytest.mark.parametrize("scope", ["global", "local"])
def test_a_share_out_of_reach_names_the_best(scope: str) -> None:
    bare = Bare(10, 6)
    scores = [[0.0] * 10, [1.0] * 6]
    with pytest.raises(BenchError) as caught:
        bare.plan(scores, "channels", 0.8, scope=scope, min_keep=0.5)
    assert str(caught.value) == (
        "cannot remove 80.0% of the channels: at most 50.0% can go with `min_keep=0.5`; ask for less or loosen that"
    )
    assert bare.plan(scores, "channels", 0.5, scope=scope, min_keep=0.5).channels == (8, 16)


@pytest.mark.parametrize("kind", ["macs", "params"])
def test_a_cost_out_of_reach_names_the_best(kind: str) -> None:
    bare = Bare(4)
    with pytest.raises(BenchError) as caught:
        bare.plan([[0.1, 0.2, 0.3, 0.4]], kind, 0.1)
    best = "30.8%" if kind == "params" else "25.0%"
    assert f"cannot keep only 10.0% of the {kind}: at least {best} stay" in str(caught.value)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"0": torch.ones(3)}, r"scores of 0 have shape \[3\], the group has 4 channels"),
        ({"0": torch.ones(4, 1)}, r"scores of 0 have shape \[4, 1\]"),
        ({"9": torch.ones(4)}, "a group the network does not have: 9"),
        ({"0": torch.tensor([1.0, 2.0, float("nan"), 3.0])}, "scores of 0 are not finite"),
        ({"0": torch.tensor([1.0, 2.0, float("inf"), 3.0])}, "scores of 0 are not finite"),
    ],
    ids=["too short", "two axes", "foreign", "nan", "inf"],
)
def test_scores_that_do_not_fit_are_refused(scores: dict[str, Tensor], message: str) -> None:
    bare = Bare(4)
    with pytest.raises(BenchError, match=message) as caught:
        make_plan(bare.groups, scores, bare.table, Target(Goal("channels", 0.3)))
    assert "\n" not in str(caught.value)


# --- the record


def test_a_group_without_scores_stays_whole() -> None:
    bare = Bare(4, 6)
    plan = make_plan(bare.groups, {"1": torch.arange(6.0)}, bare.table, Target(Goal("channels", 0.3)))
    assert plan.kept == {"0": [0, 1, 2, 3], "1": [3, 4, 5]}
    assert plan.skipped == ["0"]
    assert plan.channels == (7, 10)


def test_scores_of_protected_groups_do_not_count() -> None:
    bare = Bare(4)
    plan = make_plan(
        bare.groups, {"0": torch.ones(4), "1": torch.zeros(2)}, bare.table, Target(Goal("channels", 0.5))
    )  # fmt: skip
    assert plan.kept == {"0": [2, 3]}
    assert plan.channels == (2, 4)


def test_the_record_is_plain_data() -> None:
    plan = Bare(4).plan([[0.4, 0.1, 0.3, 0.2]], "channels", 0.5)
    record = plan.as_record()
    assert json.loads(json.dumps(record)) == record
    assert record == {
        "channel_ratio": 0.5,
        "channels": {"kept": 2, "of": 4},
        "predicted": {"parameters": 14, "macs": 160, "bytes": 56},
        "before": {"parameters": 26, "macs": 320, "bytes": 104},
        "search": {"threshold": pytest.approx(0.2), "networks_costed": 1},
        "skipped_groups": [],
        "kept": {"0": [0, 2]},
    }


def test_channels_of_two_cuts_are_those_of_the_dense_network() -> None:
    dense = toys.settled(toys.Residual())
    groups = find_groups(dense)
    first = make_plan(
        groups, toys.random_scores(groups, 1), CostTable(dense, groups, SIZE), Target(Goal("channels", 0.3))
    )
    once = toys.cut_copy(dense, groups, first)
    fewer = find_groups(once)
    second = make_plan(fewer, toys.random_scores(fewer, 2), CostTable(once, fewer, SIZE), Target(Goal("channels", 0.3)))
    twice = toys.cut_copy(once, fewer, second)

    before = original_channels({}, groups, first)
    assert before == first.kept
    kept = original_channels(before, fewer, second)
    assert len(kept["stem.0"]) == len(second.kept["stem.0"]) < len(first.kept["stem.0"]) < 8
    assert torch.equal(twice.stem[0].weight, dense.stem[0].weight[kept["stem.0"]])
    assert torch.equal(twice.inner1[0].weight, dense.inner1[0].weight[kept["inner1.0"]][:, kept["stem.0"]])
    assert torch.equal(twice.outer2[1].running_var, dense.outer2[1].running_var[kept["stem.0"]])
    concatenated = [*kept["side.0"], *(5 + channel for channel in kept["stem.0"])]
    assert torch.equal(twice.fuse[0].weight, dense.fuse[0].weight[kept["fuse.0"]][:, concatenated])


def test_groups_an_earlier_cut_left_whole_count_as_whole() -> None:
    bare = Bare(4, 3)
    plan = bare.plan([[0.4, 0.1, 0.3, 0.2], [0.1, 0.2, 0.3]], "channels", 3 / 7)
    assert plan.kept == {"0": [0, 2], "1": [1, 2]}
    kept = original_channels({"0": [1, 3, 5, 7], "gone": [0]}, bare.groups, plan)
    assert kept == {"0": [1, 5], "1": [1, 2], "gone": [0]}


# --- several cuts of one network


def in_several_cuts(bare: Bare, kind: str, values: Sequence[float], seed: int, **target: object) -> list[PruningPlan]:
    """Plans one after the other, each by new random scores of what the one before left."""
    generator = torch.Generator().manual_seed(seed)
    kept = {group.name: list(range(group.channels)) for group in prunable(bare.groups)}
    plans = []
    for value in values:
        scores = {name: torch.rand(len(there), generator=generator) for name, there in kept.items()}
        plans.append(make_plan(bare.groups, scores, bare.table, Target(Goal(kind, value), **target), kept))
        kept = plans[-1].kept
    return plans


def counts(plan: PruningPlan) -> list[int]:
    return [len(kept) for kept in plan.kept.values()]


def test_a_second_cut_by_hand() -> None:
    bare = Bare(4, 4)
    kept = {"0": [0, 2, 3], "1": [1, 2, 3]}
    scores = {"0": torch.tensor([0.9, 0.1, 0.8]), "1": torch.tensor([0.2, 0.7, 0.6])}
    # Half of the eight: two are gone, channel 2 of the one and channel 1 of the other follow.
    plan = make_plan(bare.groups, scores, bare.table, Target(Goal("channels", 0.5)), kept)
    assert plan.kept == {"0": [0, 3], "1": [2, 3]}
    assert plan.channels == (4, 8)
    assert renumbered(plan, kept).kept == {"0": [0, 2], "1": [1, 2]}
    # The cost is that of the network both cuts leave: 3 -> 2 -> 2 -> 2 channels.
    assert plan.predicted.parameters == (3 * 2 + 2) + (2 * 2 + 2) + (2 * 2 + 2)


@pytest.mark.parametrize("round_to", [1, 4])
@pytest.mark.parametrize("scope", ["global", "local", "isomorphic"])
@pytest.mark.parametrize(
    ("kind", "values"),
    [("channels", (0.2, 0.45, 0.6)), ("macs", (0.7, 0.5, 0.3)), ("params", (0.9, 0.899, 0.3)), ("size", (2200, 900))],
)
@pytest.mark.parametrize("seed", range(3))
def test_no_channel_comes_back_and_every_goal_counts_from_the_whole_network(
    kind: str, values: tuple[float, ...], scope: str, round_to: int, seed: int
) -> None:
    bare = Bare(16, 24, 9, 12)
    plans = in_several_cuts(bare, kind, values, seed, scope=scope, round_to=round_to, min_keep=0.2)
    names = plans[0].kept
    for earlier, later in itertools.pairwise(plans):
        assert all(set(later.kept[name]) <= set(earlier.kept[name]) for name in names)
    for plan, value in zip(plans, values, strict=True):
        kept = np.array([*counts(plan), bare.groups[-1].channels])
        assert plan.predicted == bare.table.predict(kept)
        assert all(
            left >= 0.2 * group.channels and (left % round_to == 0 or left == group.channels)
            for left, group in zip(counts(plan), bare.groups, strict=False)
        )
        if kind == "channels" and scope != "local":
            assert plan.channel_ratio <= value
        if kind == "size":
            assert plan.predicted.bytes <= value
    if kind in ("macs", "params") and round_to == 1 and scope != "isomorphic":
        name = {"macs": "macs", "params": "parameters"}[kind]
        share = getattr(plans[-1].predicted, name) / getattr(plans[-1].dense, name)
        assert share == pytest.approx(values[-1], abs=0.03)


def test_limits_and_named_shares_do_not_compound() -> None:
    bare = Bare(20, 20, 20)
    limits = {"scope": "local", "max_ratio": 0.5, "ratio_of": {"1": 0.2}}
    plans = in_several_cuts(bare, "channels", (0.25, 0.5), 0, **limits)
    # The named share is reached at once and stays.
    assert [counts(plan) for plan in plans] == [[15, 16, 15], [10, 16, 10]]
    with pytest.raises(BenchError, match=r"at most 50.0% can go with `min_keep=0.02` and `max_ratio=0.5`"):
        in_several_cuts(bare, "channels", (0.25, 0.6), 0, **limits)


def test_a_class_ahead_of_its_share_waits_for_the_others() -> None:
    bare = Bare(10, 10)
    kept = {"0": [0, 1, 2, 3], "1": list(range(10))}
    scores = {"0": torch.zeros(4), "1": torch.ones(10)}
    plan = make_plan(bare.groups, scores, bare.table, Target(Goal("channels", 0.5), "local"), kept)
    assert plan.kept == {"0": [0, 1, 2, 3], "1": [5, 6, 7, 8, 9]}


def test_a_goal_that_was_passed_takes_nothing() -> None:
    bare = Bare(8, 8)
    first = in_several_cuts(bare, "macs", (0.4,), 0)[0]
    scores = {name: torch.rand(len(there)) for name, there in first.kept.items()}
    again = make_plan(bare.groups, scores, bare.table, Target(Goal("macs", 0.9)), first.kept)
    assert again.kept == first.kept
    again = make_plan(bare.groups, scores, bare.table, Target(Goal("channels", 0.01)), first.kept)
    assert again.kept == first.kept
    with pytest.raises(BenchError, match="`ratio_of` alone leaves"):
        bare.plan([[1.0] * 8, [1.0] * 8], "macs", 0.9, ratio_of={"*": 0.8})


def test_pools_and_thresholds_of_a_second_cut() -> None:
    bare = Bare(10, 10, 10)
    kept = {"0": list(range(10)), "1": list(range(4, 10)), "2": list(range(10))}
    scores = {"0": torch.arange(0.0, 10.0), "1": torch.arange(50.0, 56.0), "2": torch.arange(20.0, 30.0)}
    pools = {"0": "a", "1": "a"}
    # Ten of the twenty of pool a go, four of which are gone already; in a pool by itself, half of the last group.
    plan = make_plan(bare.groups, scores, bare.table, Target(Goal("channels", 0.5), pools=pools), kept)
    assert plan.kept == {"0": [6, 7, 8, 9], "1": [4, 5, 6, 7, 8, 9], "2": [5, 6, 7, 8, 9]}
    # In one ranking, 11 more of the 30: all of the first group that may go, and then some of the last.
    plan = make_plan(bare.groups, scores, bare.table, Target(Goal("channels", 0.5)), kept)
    assert plan.kept == {"0": [9], "1": [4, 5, 6, 7, 8, 9], "2": [2, 3, 4, 5, 6, 7, 8, 9]}
    assert plan.threshold == 21.0


def test_what_was_skipped_stays_as_an_earlier_cut_left_it() -> None:
    bare = Bare(4, 4)
    kept = {"0": [1, 3], "1": [0, 1, 2, 3]}
    plan = make_plan(bare.groups, {"1": torch.rand(4)}, bare.table, Target(Goal("channels", 0.5)), kept)
    assert plan.kept["0"] == [1, 3]
    assert len(plan.kept["1"]) == 2
    assert plan.skipped == ["0"]


def test_scores_of_the_whole_network_do_not_fit_a_cut_one() -> None:
    bare = Bare(4, 4)
    with pytest.raises(BenchError, match=r"scores of 0 have shape \[4\], the group has 2 channels"):
        make_plan(bare.groups, {"0": torch.rand(4)}, bare.table, Target(Goal("channels", 0.5)), {"0": [1, 3]})
