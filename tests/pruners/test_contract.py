"""What holds for every network and every method: score, plan, cut, repair, run, train, save, open again."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, find_groups, layers_to_spare, prunable
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.plan.cost_table import CostTable
from bench.plan.macs_budget import budget_for
from bench.plan.pruning_plan import make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner, methods
from bench.pruners.base import Calibration, Pruner, Sparsifier
from bench.recover.options import RepairOptions
from bench.recover.repair import repair
from bench.torch_utils.sparse_weights import set_to_zero
from bench.training.losses import segmentation_loss

pytestmark = pytest.mark.slow
OUTPUTS, VOID = 12, 11
SIZE = (32, 48)
# Options that make a method's own training short.
SHORT = {"dmcp": {"steps": 2}}
# A repair that is quick: what it solves for, and how well, tests of its own look at.
REPAIR = RepairOptions("least-squares", repair_limit=100, repair_positions=1)
RANKING = [method for method in methods() if isinstance(make_pruner(method), Pruner)]
SPARSE = [method for method in methods() if isinstance(make_pruner(method), Sparsifier)]


@dataclass(frozen=True)
class Baseline:
    """A network with the groups and costs every method shares."""

    spec: ModelSpec
    model: nn.Module
    groups: list[ChannelGroup]
    table: CostTable


def opened(spec: ModelSpec, model: nn.Module) -> Baseline:
    groups = find_groups(model)
    return Baseline(spec, model, groups, CostTable(model, groups, SIZE))


@pytest.fixture(scope="module", params=toys.KINDS)
def whole(request: pytest.FixtureRequest) -> Iterator[Baseline]:
    torch.manual_seed(0)
    spec = ModelSpec(request.param, OUTPUTS, toys.QUICK.get(request.param, {}))
    # Yielded, so that one network at a time is held.
    yield opened(spec, toys.settled(build_model(spec)))


@pytest.fixture(scope="module")
def baseline(whole: Baseline) -> Iterator[Baseline]:
    """The network at half its width, wide layers at a quarter: built the same, and far less work for every method."""
    step = {group.name: 4 if group.channels >= 512 else 2 for group in prunable(whole.groups)}
    kept = {group.name: list(range(0, group.channels, step[group.name])) for group in prunable(whole.groups)}
    model = toys.cut_copy(whole.model, whole.groups, toys.plan_keeping(whole.groups, kept))
    yield opened(whole.spec, model)


def calibration() -> Calibration:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, *SIZE, generator=generator)
    labels = torch.randint(0, OUTPUTS, (2, *SIZE), generator=generator)
    return Calibration([(images, labels)], VOID, seed=0)


@torch.inference_mode()
def logits_of(model: nn.Module, size: tuple[int, int]) -> Tensor:
    return model(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2)))


def prune(baseline: Baseline, method: str, ratio: float) -> SavedModel:
    pruner = make_pruner(method, SHORT.get(method))
    target = Target(Goal("channels", ratio), pruner.scope)
    budget = budget_for(baseline.groups, baseline.table, target)
    scores = pruner.score(baseline.model, prunable(baseline.groups), replace(calibration(), budget=budget))
    by_name = {group.name: group for group in prunable(baseline.groups)}
    assert scores.keys() <= by_name.keys()
    assert all(score.shape == (by_name[name].channels,) for name, score in scores.items())
    assert all(torch.isfinite(score).all() for score in scores.values())
    plan = make_plan(baseline.groups, scores, baseline.table, target)
    assert plan.channel_ratio == pytest.approx(ratio, abs=0.01)
    model = toys.cut_copy(baseline.model, baseline.groups, plan)
    assert plan.predicted == toys.measured(model, SIZE)
    assert plan.predicted.parameters < plan.dense.parameters
    assert plan.predicted.macs < plan.dense.macs
    return SavedModel(model, baseline.spec, plan.kept)


@pytest.mark.parametrize("method", RANKING)
def test_a_pruned_network_runs_trains_and_is_saved(baseline: Baseline, method: str, tmp_path: Path) -> None:
    check_pruning(baseline, method, 0.3, tmp_path)


def test_so_does_one_of_the_whole_network(whole: Baseline, tmp_path: Path) -> None:
    check_pruning(whole, "l1", 0.9, tmp_path)


def check_pruning(baseline: Baseline, method: str, ratio: float, tmp_path: Path) -> None:
    saved = prune(baseline, method, ratio)
    check_network(baseline, saved, tmp_path)
    sliced = copy.deepcopy(saved.model.state_dict())
    plan = toys.plan_keeping(baseline.groups, saved.channels)
    # Neighbouring pixels that are alike, or no channel says anything of another.
    images = nn.functional.interpolate(calibration().batches[0][0][..., ::8, ::8], size=SIZE, mode="bilinear")
    done = repair(baseline.model, saved.model, baseline.groups, plan, images, REPAIR)
    repaired = saved.model.state_dict()
    assert [tensor.shape for tensor in repaired.values()] == [tensor.shape for tensor in sliced.values()]
    concerned = [one for one in done.layers.values() if one.outcome != "unchanged"]
    assert concerned
    # Where a method cuts the deepest layers alone, maps of two pixels are all there is to solve for.
    if any(one.form != "none" for one in concerned):
        assert not all(torch.equal(tensor, sliced[name]) for name, tensor in repaired.items())
    check_network(baseline, saved, tmp_path)


def check_network(baseline: Baseline, saved: SavedModel, tmp_path: Path) -> None:
    odd = logits_of(saved.model, (45, 71))
    assert odd.shape == (1, OUTPUTS, 45, 71)
    assert torch.isfinite(odd).all()

    save_model(tmp_path / "pruned.pt", saved)
    opened = load_model(tmp_path / "pruned.pt", name=baseline.spec.name, outputs=OUTPUTS)
    assert opened.channels == saved.channels
    assert torch.equal(logits_of(opened.model, (45, 71)), odd)

    images, labels = calibration().batches[0]
    loss = segmentation_loss(opened.model.train()(images), labels, VOID)
    loss.backward()
    for name, parameter in opened.model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.shape == parameter.shape, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("method", SPARSE)
def test_a_sparse_network_has_exactly_the_zeros_asked_for(baseline: Baseline, method: str) -> None:
    spared = layers_to_spare(baseline.groups)
    sparsity = make_pruner(method).choose(baseline.model, spared, 0.3)
    asked = int(0.3 * sum(zeros.numel() for zeros in sparsity.zeroed.values()) + 0.5)
    assert sum(int(zeros.sum()) for zeros in sparsity.zeroed.values()) == sparsity.record["zeroed"] == asked
    # No norm, no bias, no head; of any layer something stays.
    assert spared
    assert {name.rpartition(".")[0] for name in sparsity.zeroed}.isdisjoint(spared)
    assert all(baseline.model.get_parameter(name).dim() > 1 for name in sparsity.zeroed)
    assert not any(zeros.all() for zeros in sparsity.zeroed.values())

    model = copy.deepcopy(baseline.model)
    set_to_zero(model, sparsity.zeroed)
    assert torch.isfinite(logits_of(model, (45, 71))).all()
    before = baseline.model.state_dict()
    for name, tensor in model.state_dict().items():
        zeros = sparsity.zeroed.get(name)
        assert torch.equal(tensor, before[name] if zeros is None else before[name].masked_fill(zeros, 0.0))


def test_a_pruned_file_opens_in_a_new_process(project_root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = ModelSpec("unet_small", OUTPUTS)
    saved = prune(opened(spec, toys.settled(build_model(spec))), "taylor", 0.4)
    save_model(tmp_path / "pruned.pt", saved)
    images = torch.randn(2, 3, 49, 65, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        torch.save({"images": images, "logits": saved.model(images)}, tmp_path / "known.pt")
    program = (
        "import sys, torch\n"
        "from bench.models.checkpoint import load_model\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "torch.load(sys.argv[1], weights_only=True)\n"
        "known = torch.load(sys.argv[2], weights_only=True)\n"
        "with torch.inference_mode():\n"
        "    logits = load_model(sys.argv[1]).model(known['images'])\n"
        "print((logits - known['logits']).abs().max().item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "pruned.pt", tmp_path / "known.pt"],
        cwd=project_root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) == 0.0
