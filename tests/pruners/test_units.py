"""Channels of several positions each: every method scores, plans and cuts them, and the oracle measures the cut."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.measure.cost import count_parameters
from bench.oracle.ablation import Ablation
from bench.oracle.loss_changes import Oracle
from bench.plan.cost_table import CostTable
from bench.plan.macs_budget import budget_for
from bench.plan.pruning_plan import make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner, methods
from bench.pruners.base import Calibration, Pruner
from bench.recover.options import RepairOptions
from bench.recover.repair import repair
from bench.training.losses import segmentation_loss

VOID, SIZE = 3, (16, 24)
SHORT = {"dmcp": {"steps": 2}}
RANKING = [method for method in methods() if isinstance(make_pruner(method), Pruner)]


class Units(nn.Module):
    """Whole groups of a convolution, the same channel of two halves, a scale of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = toys.conv(3, 16), nn.Conv2d(16, 16, 3, padding=1, groups=8)
        self.norm, self.second, self.scale = nn.BatchNorm2d(16), toys.conv(16, 12), nn.Parameter(torch.ones(12, 1, 1))
        self.third, self.head = toys.conv(6, 6), nn.Conv2d(6, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.norm(self.grouped(self.first(images).relu())).relu()
        gate, gated = (self.scale * self.second(features)).relu().chunk(2, dim=1)
        return self.head(self.third(gate * gated).relu())


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, list[ChannelGroup]]:
    torch.manual_seed(0)
    model = toys.settled(Units())
    groups = find_groups(model)
    assert [(g.name, g.channels, g.unit) for g in prunable(groups)] == [
        ("first.0", 8, 2), ("second.0", 6, 2), ("third.0", 6, 1)
    ]  # fmt: skip
    return model, groups


def calibration() -> Calibration:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, *SIZE, generator=generator)
    return Calibration([(images, torch.randint(0, 3, (4, *SIZE), generator=generator))], VOID, seed=0)


@pytest.mark.parametrize("method", RANKING)
def test_a_method_scores_what_can_go(network: tuple[nn.Module, list[ChannelGroup]], method: str) -> None:
    model, groups = network
    pruner, table = make_pruner(method, SHORT.get(method)), CostTable(model, groups, SIZE)
    target = Target(Goal("channels", 0.3), pruner.scope)
    data = replace(calibration(), budget=budget_for(groups, table, target))
    scores = pruner.score(copy.deepcopy(model), prunable(groups), data)
    plan = make_plan(groups, scores, table, target)
    assert plan.removes_channels
    small = toys.cut_copy(model, groups, plan)
    assert plan.predicted.parameters == count_parameters(small)
    assert small(data.batches[0][0]).shape == (4, 4, *SIZE)
    done = repair(model, small, groups, plan, data.batches[0][0], RepairOptions("least-squares"))
    assert done.layers
    assert small(data.batches[0][0]).isfinite().all()


def test_rounding_counts_the_positions_of_the_layers(network: tuple[nn.Module, list[ChannelGroup]]) -> None:
    model, groups = network
    table, scores = CostTable(model, groups, SIZE), toys.random_scores(groups)
    plan = make_plan(groups, scores, table, Target(Goal("channels", 0.5), "local", round_to=4))
    left = {name: len(kept) for name, kept in plan.kept.items()}
    # Of 8 and 6 channels with two positions each, and of 6 with one.
    assert left == {"first.0": 4, "second.0": 4, "third.0": 4}
    small = toys.cut_copy(model, groups, plan)
    assert (small.grouped.out_channels, small.second[0].out_channels) == (8, 8)


def test_the_oracle_measures_the_cut(network: tuple[nn.Module, list[ChannelGroup]], tmp_path: Path) -> None:
    model, groups = network
    batches = calibration().batches
    losses = Ablation(model, batches, ignore_index=VOID, device=torch.device("cpu"), path=tmp_path / "l", identity=None)
    changes = Oracle(prunable(groups), losses, most=100, seed=0).changes()
    (images, labels), cpu = batches[0], torch.inference_mode()
    with cpu:
        whole = segmentation_loss(model(images), labels, VOID)
    for group in prunable(groups):
        for channel in range(group.channels):
            kept = [other for other in range(group.channels) if other != channel]
            small = toys.cut_copy(model, groups, toys.plan_keeping(groups, {group.name: kept}))
            with torch.inference_mode():
                change = float(segmentation_loss(small(images), labels, VOID) - whole)
            assert float(changes[group.name][channel]) == pytest.approx(change, abs=1e-5)
