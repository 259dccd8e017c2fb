"""Network Slimming's score against hand-made numbers."""

from __future__ import annotations

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import find_groups, prunable
from bench.errors import UsageError
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import Scores, make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration
from bench.pruners.slimming.pruner import movement, scale_importance
from bench.training.options import TrainOptions


def scores_of(model: nn.Module) -> Scores:
    return make_pruner("slimming").score(model, prunable(find_groups(model)), Calibration([], 3, 0))


def scales(layer: nn.Module, values: list[float]) -> Tensor:
    layer.weight.data = torch.tensor(values, dtype=torch.float32)
    return layer.weight.detach()


def test_the_formula_by_hand() -> None:
    assert scale_importance([torch.tensor([1.0, -2.0]), torch.tensor([-3.0, 0.0])]).tolist() == [2, 1]
    assert scale_importance([torch.tensor([0.5, -0.25])]).tolist() == [0.5, 0.25]


def test_members_of_a_residual_group_are_averaged() -> None:
    model = toys.Residual()
    first = scales(model.stem[1], [1, -2, 3, -4, 5, -6, 7, -8])
    second = scales(model.outer1[1], [0, 0, 1, 1, -1, -1, 2, 2])
    third = scales(model.outer2[1], [-2, 4, 0, 0, 0, 0, 0, -1])
    scales(model.side[1], [-0.5, 0.25, 0, 1, -1])
    scores = scores_of(model)
    torch.testing.assert_close(scores["stem.0"], (first.abs() + second.abs() + third.abs()) / 3)
    assert scores["side.0"].tolist() == [0.5, 0.25, 0, 1, 1]
    assert list(scores) == ["stem.0", "inner1.0", "inner2.0", "side.0", "fuse.0"]


def test_layers_are_compared_as_they_are() -> None:
    pruner = make_pruner("slimming")
    assert (pruner.scope, pruner.needs_data) == ("global", False)
    model = toys.Chain()
    scales(model.first[1], [0.1, -0.9, 0.5, 1, 1, 1, 1, 1])
    scales(model.second[1], [0.2, 0.05, -1, 1, 1, 1])
    groups = find_groups(model)
    plan = make_plan(groups, scores_of(model), CostTable(model, groups, (8, 8)), Target(Goal("channels", 3 / 14)))
    assert plan.kept == {"first.0": [1, 2, 3, 4, 5, 6, 7], "second.0": [2, 3, 4, 5]}


def test_the_strict_global_threshold_keeps_one_channel_of_a_layer_that_would_vanish() -> None:
    # Of [.1, -.9, .5 | .2, .05] the threshold at 40 % is .2, and only what is above it stays: .2 itself is rescued.
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = toys.conv(3, 3), toys.conv(3, 2)
            self.head = nn.Conv2d(2, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.second(self.first(images).relu()).relu())

    model = Two()
    scales(model.first[1], [0.1, -0.9, 0.5])
    scales(model.second[1], [0.2, 0.05])
    groups = find_groups(model)
    table = CostTable(model, groups, (8, 8))
    plan = make_plan(groups, scores_of(model), table, Target(Goal("channels", 0.4)))
    assert plan.kept == {"first.0": [1, 2], "second.0": [0]}
    # Asked for the third as well, which would be the .2, the next one goes in its place.
    plan = make_plan(groups, scores_of(model), table, Target(Goal("channels", 0.6)))
    assert plan.kept == {"first.0": [1], "second.0": [0]}


def reference_kept(scores: Scores, percent: float) -> dict[str, list[int]]:
    """The reference's choice: what is strictly above the threshold that lies at a share of all sorted |gamma|."""
    ascending = torch.cat(list(scores.values())).sort().values
    threshold = ascending[int(len(ascending) * percent)]
    return {name: (score > threshold).nonzero().flatten().tolist() for name, score in scores.items()}


def of_thousand() -> tuple[nn.Module, Scores]:
    """A network of 1000 prunable channels in two layers whose scales are 1/1000, 2/1000, ... in a random order."""
    model = nn.Sequential(toys.conv(3, 400), toys.conv(400, 600), nn.Conv2d(600, 4, 1))
    values = (torch.randperm(1000, generator=torch.Generator().manual_seed(0)) + 1) / 1000
    for layer, scale in zip((model[0][1], model[1][1]), values.split([400, 600]), strict=True):
        scales(layer, scale.tolist())
    return model, scores_of(model)


@pytest.mark.parametrize(
    ("percent", "ours", "reference"),
    [(0.1, 100, 101), (0.3, 300, 301), (0.5, 500, 501), (0.7, 700, 701), (0.123, 123, 124), (0.1234, 123, 124)],
)
def test_the_reference_takes_one_channel_more(percent: float, ours: int, reference: int) -> None:
    model, scores = of_thousand()
    groups = find_groups(model)
    kept = make_plan(groups, scores, CostTable(model, groups, (8, 8)), Target(Goal("channels", percent))).kept
    others = reference_kept(scores, percent)
    assert (1000 - sum(map(len, kept.values())), 1000 - sum(map(len, others.values()))) == (ours, reference)
    # The one is that at the threshold: the least of those that stay here.
    left_over = [float(scores[name][channel]) for name in kept for channel in set(kept[name]) - set(others[name])]
    assert left_over == [min(float(scores[name][kept[name]].min()) for name in kept)]
    assert all(set(others[name]) <= set(kept[name]) for name in kept)


def test_the_reference_takes_all_that_are_equal_at_the_threshold() -> None:
    model = nn.Sequential(toys.conv(3, 10), nn.Conv2d(10, 4, 1))
    scales(model[0][1], [1, 2, 3, 3, 3, 3, 4, 5, 6, 7])
    groups, scores = find_groups(model), scores_of(model)
    plan = make_plan(groups, scores, CostTable(model, groups, (8, 8)), Target(Goal("channels", 0.3)))
    assert plan.kept == {"0.0": [3, 4, 5, 6, 7, 8, 9]}
    assert reference_kept(scores, 0.3) == {"0.0": [6, 7, 8, 9]}


def test_binary_fractions_may_hide_the_one() -> None:
    # 100 * 0.29 is 28.999999999999996, which the reference truncates.
    model = nn.Sequential(toys.conv(3, 100), nn.Conv2d(100, 4, 1))
    scales(model[0][1], [float(value) for value in range(1, 101)])
    groups, scores = find_groups(model), scores_of(model)
    kept = make_plan(groups, scores, CostTable(model, groups, (8, 8)), Target(Goal("channels", 0.29))).kept
    assert kept == reference_kept(scores, 0.29)
    assert len(kept["0.0"]) == 71


def test_masked_and_cut_agree() -> None:
    model = toys.settled(toys.Residual())
    groups = find_groups(model)
    plan = make_plan(groups, scores_of(model), CostTable(model, groups, (16, 24)), Target(Goal("channels", 0.4)))
    assert plan.channels == (20, 32)
    smaller = toys.cut_copy(model, groups, plan)
    for group in groups:
        for norm in group.norms if group.name in plan.kept else ():
            gone = torch.ones(group.channels, dtype=torch.bool)
            gone[plan.kept[group.name]] = False
            positions = norm.positions[gone[norm.channels]]
            layer = model.get_submodule(norm.layer)
            layer.weight.data[positions] = 0
            layer.bias.data[positions] = 0
    with torch.inference_mode():
        torch.testing.assert_close(smaller(toys.IMAGES), model(toys.IMAGES))


def test_how_far_a_penalty_moves_a_scale_by_hand() -> None:
    recipe = TrainOptions(lr=0.1, schedule="multistep", milestones=[0.5], momentum=0.75)
    assert movement(recipe, 4) == pytest.approx((0.1 + 0.1 + 0.01 + 0.01) / 0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity_lambda": -1.0}, "option sparsity_lambda of slimming must be at least 0, not -1.0"),
        ({"scale_shift": -0.5}, "option scale_shift of slimming must be at least 0, not -0.5"),
        ({"sparse_epochs": -1}, "option sparse_epochs of slimming must be at least 0, not -1"),
        ({"sparse_batch_size": 0}, "option sparse_batch_size of slimming must be at least 1, not 0"),
        ({"sparse_lr": 0.0}, "option sparse_lr of slimming must be above 0, not 0.0"),
    ],
)
def test_options_without_a_meaning_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_pruner("slimming", settings)
    assert str(caught.value) == message


def test_reordering_channels_reorders_scores() -> None:
    model = toys.settled(toys.Chain())
    before = scores_of(model)["first.0"]
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    model.first[1].weight.data = model.first[1].weight.data[order]
    assert torch.equal(scores_of(model)["first.0"], before[order])


def test_weights_and_shifts_do_not_count() -> None:
    model = toys.settled(toys.Chain())
    before = scores_of(model)
    for tensor in (model.first[0].weight, model.first[1].bias, model.head.weight):
        tensor.data.mul_(10)
    after = scores_of(model)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(8, affine=False), nn.PReLU(8)], ids=["no scale", "slopes"])
def test_a_group_without_scales_is_left_out(layer: nn.Module) -> None:
    assert scores_of(toys.Between(layer)) == {}


def test_filters_stand_in_where_norms_are_of_layers(capsys: pytest.CaptureFixture[str]) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Conv2d(3, 4, 1), nn.LayerNorm(4)
            self.hidden, self.head = nn.Linear(4, 2), nn.Linear(2, 5)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.norm(self.embed(images).flatten(2).transpose(1, 2))
            return self.head(self.hidden(tokens).relu()).transpose(1, 2).unflatten(-1, images.shape[-2:])

    model = Tokens()
    scales(model.norm, [0.5, -1, 2, 0])
    model.hidden.weight.data = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, -0.5]])
    scores = scores_of(model)
    assert {name: values.tolist() for name, values in scores.items()} == {
        "embed": [0.5, 1, 2, 0], "hidden": [5, 0.5]
    }  # fmt: skip
    assert capsys.readouterr().out.count("for 1 of 2 groups that pass no norm") == 1


def test_groups_without_norms_stay_whole() -> None:
    class Mixed(toys.Chain):
        def __init__(self) -> None:
            super().__init__()
            self.second = toys.conv(8, 6, norm=False)

    model = toys.settled(Mixed())
    groups = find_groups(model)
    scores = scores_of(model)
    assert list(scores) == ["first.0"]
    plan = make_plan(groups, scores, CostTable(model, groups, (8, 8)), Target(Goal("channels", 0.3)))
    assert plan.skipped == ["second.0"]
    assert (len(plan.kept["first.0"]), len(plan.kept["second.0"])) == (4, 6)
