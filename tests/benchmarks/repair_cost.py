"""Seconds and memory of a repair by least squares, beside plain forward passes over the same images.

    python -m tests.benchmarks.repair_cost [--model deeplabv3_resnet50] [--input-size 360,480] [--images 16]
        [--target-macs 0.5] [--threads 2] [--positions 10] [--out FILE.json]

A plain forward pass is one of the network before the cut over all the images, four at a time. The time of a repair is
split into the solves (gathering what layers read, sums, Cholesky, choosing) and the rest, its two passes: these are
counted in plain passes. Random weights, drawn images. The exit status is 1 where a limit is not kept.
"""

from __future__ import annotations

import argparse
import copy
import resource
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.channels.groups import find_groups, prunable
from bench.config.values import parse_size
from bench.cut.network import cut
from bench.models import ModelSpec, build_model
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import make_plan
from bench.plan.target import Goal, Target
from bench.recover import repair as repairing
from bench.recover.options import RepairOptions
from tests.benchmarks.limits import conclude

OUTPUTS = 12
MOST_PASSES, MOST_GIGABYTES = 4.0, 10.0


def peak_gigabytes() -> float:
    """The most memory this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def drawn_images(count: int, size: tuple[int, int]) -> torch.Tensor:
    """Smooth noise, so that neighbouring pixels are alike."""
    coarse = torch.randn(count, 3, size[0] // 8, size[1] // 8)
    return nn.functional.interpolate(coarse, size=size, mode="bilinear")


@torch.no_grad()
def measure(
    model_name: str, input_size: tuple[int, int], count: int, macs: float, options: RepairOptions
) -> dict[str, Any]:
    """Seconds of a plain pass and of a repair, and the peak of the memory before and behind it."""
    torch.manual_seed(0)
    model = build_model(ModelSpec(model_name, OUTPUTS)).eval()
    groups = find_groups(model)
    table = CostTable(model, groups, input_size)
    scores = {group.name: torch.rand(group.channels) for group in prunable(groups)}
    plan = make_plan(groups, scores, table, Target(Goal("macs", macs), "local"))
    network = copy.deepcopy(model)
    cut(network, groups, plan)
    images = drawn_images(count, input_size)

    began = time.perf_counter()
    for batch in images.split(4):
        model(batch)
    plain = time.perf_counter() - began
    before = peak_gigabytes()

    solving = [0.0]
    solve = repairing.repair_layer

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return solve(*arguments)
        finally:
            solving[0] += time.perf_counter() - start

    repairing.repair_layer = timed
    try:
        done = repairing.repair(model, network, groups, plan, images, options)
    finally:
        repairing.repair_layer = solve
    return {
        "model": model_name,
        "input_size": input_size,
        "images": count,
        "macs_kept": plan.predicted.macs / plan.dense.macs,
        "threads": torch.get_num_threads(),
        "plain_pass_seconds": plain,
        "repair_seconds": done.seconds,
        "solve_seconds": solving[0],
        "passes": (done.seconds - solving[0]) / plain,
        "peak_gigabytes": {"plain pass": before, "repair": peak_gigabytes()},
        "outcomes": Counter(f"{one.outcome}, {one.form}" for one in done.layers.values()),
        "most_unknowns": max(one.unknowns for one in done.layers.values()),
    }


def main() -> None:
    """Measures, prints a table and says which limits are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deeplabv3_resnet50")
    parser.add_argument("--input-size", type=parse_size, default=(360, 480))
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--target-macs", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--positions", type=int, default=RepairOptions().repair_positions)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options = RepairOptions("least-squares", repair_positions=arguments.positions)
    result = measure(arguments.model, arguments.input_size, arguments.images, arguments.target_macs, options)
    print(f"{result['model']} at {result['input_size']}, {result['images']} images, {result['threads']} threads, "
          f"{result['macs_kept']:.0%} of the MACs kept")  # fmt: skip
    plain, passes, peaks = result["plain_pass_seconds"], result["passes"], result["peak_gigabytes"]
    print(f"  a plain pass   {plain:7.1f} s, peak {peaks['plain pass']:.2f} GB")
    print(f"  the repair     {result['repair_seconds']:7.1f} s, peak {peaks['repair']:.2f} GB")
    print(f"    its solves   {result['solve_seconds']:7.1f} s, systems of up to {result['most_unknowns']} unknowns")
    print(f"    its passes   {passes * plain:7.1f} s = {passes:.2f} plain passes")
    print("  layers: " + ", ".join(f"{count} {name}" for name, count in sorted(result["outcomes"].items())))
    limits = {
        f"at most {MOST_PASSES:g} plain passes beside the solves": result["passes"] <= MOST_PASSES,
        f"less than {MOST_GIGABYTES:g} GB": result["peak_gigabytes"]["repair"] < MOST_GIGABYTES,
    }
    conclude(result, limits, arguments.out)


if __name__ == "__main__":
    main()
