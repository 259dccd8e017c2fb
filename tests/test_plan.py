"""Plans: what goes for which target, and that the cost table knows what the network will cost."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.cost import measure_cost
from bench.cost_table import CostTable, Prediction
from bench.errors import BenchError
from bench.groups import ChannelGroup, find_groups, prunable
from bench.models import ModelSpec, build_model
from bench.plan import PruningPlan, make_plan, original_channels
from bench.target import Target

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
        return make_plan(self.groups, named, self.table, Target(kind, value, **target))

    def kept(self, scores: Sequence[Sequence[float]], ratio: float, **target: object) -> list[list[int]]:
        return list(self.plan(scores, "channels", ratio, **target).kept.values())


def measured(model: nn.Module, size: tuple[int, int]) -> Prediction:
    cost = measure_cost(model, size)
    return Prediction(cost.parameters, cost.macs, cost.state_bytes)


def removed(plan: PruningPlan, groups: Sequence[ChannelGroup]) -> set[tuple[str, int]]:
    return {
        (group.name, channel)
        for group in prunable(groups)
        for channel in set(range(group.channels)) - set(plan.kept[group.name])
    }


# --- the cost table


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: build_model(ModelSpec(name, 12)) for name in SMALL}


@pytest.mark.parametrize("size", [(64, 64), (45, 99)])
@pytest.mark.parametrize("name", SMALL)
def test_predictions_are_what_is_measured(networks: dict[str, nn.Module], name: str, size: tuple[int, int]) -> None:
    model = networks[name]
    groups = find_groups(model)
    table = CostTable(model, groups, size)
    assert table.dense() == measured(model, size)
    for seed in range(2):
        plan = toys.random_plan(groups, seed)
        kept = [len(plan.kept.get(group.name, range(group.channels))) for group in groups]
        assert table.predict(torch.tensor(kept).numpy()) == measured(toys.cut_copy(model, groups, plan), size)


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
    assert table.dense() == measured(model, SIZE)
    for seed in range(5):
        plan = toys.random_plan(groups, seed)
        kept = [len(plan.kept.get(group.name, range(group.channels))) for group in groups]
        assert table.predict(torch.tensor(kept).numpy()) == measured(toys.cut_copy(model, groups, plan), SIZE)


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
    assert table.dense() == measured(model, SIZE)
    plan = toys.random_plan(groups)
    kept = [len(plan.kept.get(group.name, range(group.channels))) for group in groups]
    assert kept[0] < 8
    assert table.predict(torch.tensor(kept).numpy()) == measured(toys.cut_copy(model, groups, plan), SIZE)


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
        more = removed(make_plan(groups, scores, table, Target("channels", ratio, scope)), groups)
        assert gone < more
        gone = more


@pytest.mark.parametrize("scope", ["global", "local"])
def test_a_share_of_nothing_keeps_all(scope: str) -> None:
    plan = Bare(4, 3).plan([[0, 0, 0, 0], [0, 0, 0]], "channels", 0.0, scope=scope)
    assert plan.kept == {"0": [0, 1, 2, 3], "1": [0, 1, 2]}
    assert plan.predicted == plan.dense
    assert not plan.removes_channels


@pytest.mark.parametrize("kind", ["channels", "macs", "params"])
def test_only_the_order_of_the_scores_counts(kind: str) -> None:
    model = toys.Residual()
    groups = find_groups(model)
    table, scores = CostTable(model, groups, SIZE), toys.random_scores(groups)
    plan = make_plan(groups, scores, table, Target(kind, 0.45))
    for change in (torch.exp, lambda score: score**3 - 5, lambda score: 1e-9 * score.double()):
        changed = {name: change(score) for name, score in scores.items()}
        assert make_plan(groups, changed, table, Target(kind, 0.45)) == plan


# --- a share of a cost


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.23])
@pytest.mark.parametrize("kind", ["macs", "params"])
def test_a_cost_target_is_met_within_one_channel_from_the_closer_side(kind: str, share: float, scope: str) -> None:
    model = build_model(ModelSpec("unet_small", 12))
    groups = find_groups(model)
    table, scores = CostTable(model, groups, (64, 64)), toys.random_scores(groups)
    plan = make_plan(groups, scores, table, Target(kind, share, scope))

    def cost(prediction: Prediction) -> int:
        return prediction.macs if kind == "macs" else prediction.parameters

    # What goes first and what would go next, found by asking for one channel less and more.
    count, total = len(removed(plan, groups)), plan.channels[1]
    if scope == "global":
        around = [make_plan(groups, scores, table, Target("channels", n / total)) for n in (count - 1, count + 1)]
        assert [len(removed(other, groups)) for other in around] == [count - 1, count + 1]
        wanted = share * cost(plan.dense)
        assert cost(around[0].predicted) > cost(plan.predicted) > cost(around[1].predicted)
        assert all(abs(cost(plan.predicted) - wanted) <= abs(cost(other.predicted) - wanted) for other in around)
    assert cost(plan.predicted) / cost(plan.dense) == pytest.approx(share, abs=0.01)
    assert plan.predicted == measured(toys.cut_copy(model, groups, plan), (64, 64))


def test_the_closer_side_by_hand() -> None:
    bare = Bare(4)
    scores = [[0.1, 0.2, 0.3, 0.4]]
    # 4 parameters a channel in, 2 out, and 2 biases: 26, 20, 14, 8.
    parameters = [26, 20, 14, 8]
    for share, expected in ((1.0, 26), (24 / 26, 26), (22 / 26, 20), (18 / 26, 20), (16 / 26, 14), (8 / 26, 8)):
        plan = bare.plan(scores, "params", share)
        assert plan.predicted.parameters == expected, share
        assert plan.channels[0] == 4 - parameters.index(expected)


# --- what is refused


@pytest.mark.parametrize("scope", ["global", "local"])
def test_a_share_out_of_reach_names_the_best(scope: str) -> None:
    bare = Bare(10, 6)
    scores = [[0.0] * 10, [1.0] * 6]
    with pytest.raises(BenchError) as caught:
        bare.plan(scores, "channels", 0.8, scope=scope, min_keep=0.5)
    assert str(caught.value) == (
        "cannot remove 80.0% of the channels: at most 50.0% can go with --min-keep 0.5; ask for less or loosen that"
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
        make_plan(bare.groups, scores, bare.table, Target("channels", 0.3))
    assert "\n" not in str(caught.value)


# --- the record


def test_a_group_without_scores_stays_whole() -> None:
    bare = Bare(4, 6)
    plan = make_plan(bare.groups, {"1": torch.arange(6.0)}, bare.table, Target("channels", 0.3))
    assert plan.kept == {"0": [0, 1, 2, 3], "1": [3, 4, 5]}
    assert plan.skipped == ["0"]
    assert plan.channels == (7, 10)


def test_scores_of_protected_groups_do_not_count() -> None:
    bare = Bare(4)
    plan = make_plan(
        bare.groups, {"0": torch.ones(4), "1": torch.zeros(2)}, bare.table, Target("channels", 0.5)
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
        "skipped_groups": [],
        "kept": {"0": [0, 2]},
    }


def test_channels_of_two_cuts_are_those_of_the_dense_network() -> None:
    dense = toys.settled(toys.Residual())
    groups = find_groups(dense)
    first = make_plan(groups, toys.random_scores(groups, 1), CostTable(dense, groups, SIZE), Target("channels", 0.3))
    once = toys.cut_copy(dense, groups, first)
    fewer = find_groups(once)
    second = make_plan(fewer, toys.random_scores(fewer, 2), CostTable(once, fewer, SIZE), Target("channels", 0.3))
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
