"""The global L1 ranking: its numbers, and what it leaves whole."""

from __future__ import annotations

import pytest
import torch
import toy_networks as toys
from torch import nn

from bench.channels.groups import find_groups, prunable
from bench.commands.prune import build_parser
from bench.models import ModelSpec, build_model
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import PruningPlan, Scores, make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration
from bench.pruners.l1_global.pruner import global_importance


def scores_of(model: nn.Module, ignore: tuple[str, ...] = ()) -> Scores:
    groups = prunable(find_groups(model, ignore=ignore))
    return make_pruner("l1_global").score(model, groups, Calibration([], 3, 0))


def plan_of(model: nn.Module, ratio: float, ignore: tuple[str, ...] = ()) -> PruningPlan:
    groups = find_groups(model, ignore=ignore)
    target = Target(Goal("channels", ratio), make_pruner("l1_global").scope)
    return make_plan(groups, scores_of(model, ignore), CostTable(model, groups, (16, 24)), target)


def test_importance_by_hand() -> None:
    # Means over the members: 2 and 6, whose mean is 4.
    scores = global_importance([torch.tensor([1.0, 10.0]), torch.tensor([3.0, 2.0])])
    assert scores.tolist() == [0.5, 1.5]
    assert global_importance([torch.zeros(3)]).tolist() == [0, 0, 0]


def test_a_layer_is_scored_by_its_own_filters() -> None:
    model = toys.Residual()
    for name in ("inner1.0", "inner2.0", "side.0", "fuse.0"):
        sums = model.get_submodule(name).weight.detach().double().abs().flatten(1).sum(1)
        torch.testing.assert_close(scores_of(model)[name], sums / sums.mean(), rtol=1e-6, atol=0)


def test_layers_of_a_trunk_count_by_their_scale() -> None:
    class Trunk(nn.Module):
        """A first layer, and a trunk of two others."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.left, self.right = toys.conv(3, 4), toys.conv(4, 6), toys.conv(4, 6)
            self.head = nn.Conv2d(6, 4, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.first(images).relu()
            return self.head((self.left(features) + self.right(features)).relu())

    model = Trunk()
    model.left[0].weight.data *= 1000
    sums = model.left[0].weight.detach().abs().flatten(1).sum(1).double()
    torch.testing.assert_close(scores_of(model)["left.0"], sums / sums.mean(), rtol=0.01, atol=0)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5])
def test_first_layer_classifier_and_ignored_layers_stay_whole(ratio: float) -> None:
    torch.manual_seed(1)
    model = toys.Residual()
    plan = plan_of(model, ratio, ignore=("inner2*",))
    assert plan.skipped == ["stem.0"]
    assert plan.kept["stem.0"] == list(range(8))
    assert "inner2.0" not in plan.kept and "head" not in plan.kept
    # The ratio is of all channels that may go, the first layer's among them.
    total = 8 + 6 + 5 + 6
    assert plan.channels == (total - int(ratio * total), total)


def test_one_ranking_over_the_whole_network() -> None:
    torch.manual_seed(2)
    model = toys.Residual()
    scores = scores_of(model)
    kept = plan_of(model, 0.3).kept
    gone = [score[channel].item() for name, score in scores.items() for channel in range(len(score))
            if channel not in kept[name]]  # fmt: skip
    staying = [score[kept[name]].min().item() for name, score in scores.items()]
    assert len(gone) == int(0.3 * 32)
    assert max(gone) <= min(staying)


def test_the_scale_of_a_layer_changes_nothing() -> None:
    model = toys.Residual()
    before = plan_of(model, 0.3).kept
    model.inner1[0].weight.data *= 8
    assert plan_of(model, 0.3).kept == before


def test_norms_behind_a_layer_do_not_count_and_order_does_not_matter() -> None:
    model = toys.Residual()
    before = scores_of(model)
    order = torch.tensor([3, 0, 1, 5, 2, 4])
    model.inner1[0].weight.data = model.inner1[0].weight.data[order]
    toys.settled(model)
    after = scores_of(model)
    assert torch.equal(after["inner1.0"], before["inner1.0"][order])
    assert torch.equal(after["fuse.0"], before["fuse.0"])


def test_the_segformer_recipe_takes_about_half(project_root) -> None:
    asked = build_parser().parse(["--config", str(project_root / "configs/l1_global_segformer.yaml")])
    assert (asked.method, asked.global_ratio) == ("l1_global", 0.5)
    model = build_model(ModelSpec("segformer_b0", 19)).eval()
    groups = find_groups(model, ignore=asked.ignore, check=False)
    scores = make_pruner("l1_global").score(model, prunable(groups), Calibration([], 19, 0))
    table = CostTable(model, groups, (32, 32))
    plan = make_plan(groups, scores, table, Target(Goal("channels", 0.5), "global"))
    assert 0.4 < 1 - plan.predicted.parameters / plan.dense.parameters < 0.6
    assert 0.4 < 1 - plan.predicted.macs / plan.dense.macs < 0.6
    # What LayerNorms mix stays whole.
    assert {len(kept) for name, kept in plan.kept.items() if name.endswith("embedding.conv")} <= {32, 64, 160, 256}
