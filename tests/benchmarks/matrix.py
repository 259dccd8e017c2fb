"""Cuts every network by several methods at several ratios and scopes, and checks each result.

    python -m tests.benchmarks.matrix [--models unet_small,segnet] [--methods l1,random] [--ratios 0.1,0.5,0.9]

For each cell: the predicted parameters, MACs and bytes equal those counted after the cut; a forward pass at two sizes,
a training step and a forward pass after it run; the saved file opens in a new process (one for each network) with
`torch.load(weights_only=True)` and gives the same logits to the last bit. Random weights, 64x64 pixels.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench.channels.groups import find_groups, prunable
from bench.cut.network import cut
from bench.measure.cost import measure_cost
from bench.models import MODELS, ModelSpec, build_model
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.plan.cost_table import CostTable
from bench.plan.macs_budget import budget_for
from bench.plan.pruning_plan import make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration
from bench.training.losses import segmentation_loss

OUTPUTS, VOID = 12, 11
SIZE, ODD = (64, 64), (45, 71)
SCOPES = ("global", "local", "isomorphic")


def images(size: tuple[int, int], count: int = 2) -> torch.Tensor:
    """The same noise every time."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


def labels() -> torch.Tensor:
    """Random classes."""
    return torch.randint(0, OUTPUTS, (2, *SIZE), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def logits(model: torch.nn.Module) -> list[torch.Tensor]:
    """What a network says at both sizes."""
    return [model.eval()(images(size)) for size in (SIZE, ODD)]


def check_cell(model, groups, table, scores, target: Target, folder: Path, spec: ModelSpec) -> float:
    """Cuts one copy, checks it, saves it with its logits; returns the share of MACs kept."""
    plan = make_plan(groups, scores, table, target)
    network = copy.deepcopy(model)
    cut(network, groups, plan)
    cost = measure_cost(network, SIZE)
    assert tuple(plan.predicted) == (cost.parameters, cost.macs, cost.state_bytes), (plan.predicted, cost)
    cell = folder / f"{target.scope}_{target.goal.value}.pt"
    save_model(cell, SavedModel(network, spec, plan.kept))
    torch.save(logits(network), cell.with_suffix(".logits"))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    segmentation_loss(network.train()(images(SIZE)), labels(), VOID).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    optimizer.step()
    assert all(torch.isfinite(output).all() for output in logits(network))
    return plan.predicted.macs / plan.dense.macs


def reopen(folder: Path) -> None:
    """Opens every file of a folder and compares its logits; run in a new process."""
    for cell in sorted(folder.glob("*/*.pt")):
        torch.load(cell, weights_only=True)
        known = torch.load(cell.with_suffix(".logits"), weights_only=True)
        for before, after in zip(known, logits(load_model(cell).model), strict=True):
            assert torch.equal(before, after), cell


def main() -> None:
    """Runs the matrix."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--methods", default="l1,random")
    parser.add_argument("--ratios", default="0.1,0.5,0.9")
    parser.add_argument("--reopen", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reopen:
        reopen(arguments.reopen)
        return
    ratios = [float(ratio) for ratio in arguments.ratios.split(",")]
    cells = 0
    for name in arguments.models.split(","):
        began = time.perf_counter()
        torch.manual_seed(0)
        spec = ModelSpec(name, OUTPUTS)
        model = build_model(spec).eval()
        groups = find_groups(model)
        table = CostTable(model, groups, SIZE)
        kept = []
        with tempfile.TemporaryDirectory() as folder:
            for method in arguments.methods.split(","):
                budget = budget_for(groups, table, Target(Goal("channels", ratios[0])))
                calibration = Calibration([(images(SIZE), labels())], VOID, seed=0, budget=budget)
                scores = make_pruner(method).score(model, prunable(groups), calibration)
                (Path(folder) / method).mkdir()
                for scope in SCOPES:
                    for ratio in ratios:
                        target = Target(Goal("channels", ratio), scope)
                        kept.append(check_cell(model, groups, table, scores, target, Path(folder) / method, spec))
            subprocess.run([sys.executable, "-m", "tests.benchmarks.matrix", "--reopen", folder], check=True)
        cells += len(kept)
        seconds = time.perf_counter() - began
        print(f"{name:22} {len(kept):3} cells hold, MACs kept {min(kept):.1%} to {max(kept):.1%}, {seconds:.0f} s")
    print(f"{cells} cells hold")


if __name__ == "__main__":
    main()
