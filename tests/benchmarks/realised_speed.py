"""How much of a saving in MACs arrives as speed: networks with half of the MACs, with and without rounded widths.

    python -m tests.benchmarks.realised_speed [--models unet,segnet] [--methods l1,taylor] [--input-size 360,480]
        [--round-to 1,8,16] [--no-channels-last] [--out FILE.json|FILE.csv]

For each network and method the dense network and one for each rounding are timed interleaved in one process. The
last number of a line is the quotient of both speed-ups; 1 is all that the MACs promise. Random weights, and noise for
the methods that look at images: only the widths matter here. To be run on a machine that does nothing else.

All networks run in channels-last memory format, which is the faster one on CPUs for dense and pruned networks alike:
in the contiguous one oneDNN rearranges weights and features in every pass, and what that takes does not fall with the
MACs.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.channels.groups import find_groups, prunable
from bench.config.values import parse_size
from bench.cut.network import cut
from bench.measure.latency import Effort, time_networks
from bench.measure.latency_mode import LatencyMode
from bench.models import ModelSpec, build_model
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration

OUTPUTS, VOID = 12, 11


def noise() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A batch of two images and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 64, generator=generator)
    return [(images, torch.randint(0, VOID, (2, 64, 64), generator=generator))]


def measure(name: str, methods: Sequence[str], roundings: Sequence[int], arguments: argparse.Namespace) -> list[dict]:
    """The rows of one network."""
    torch.manual_seed(0)
    model = build_model(ModelSpec(name, OUTPUTS)).eval()
    groups = find_groups(model)
    table = CostTable(model, groups, arguments.input_size)
    rows = []
    for method in methods:
        pruner = make_pruner(method)
        scores = pruner.score(model, prunable(groups), Calibration(noise(), VOID, seed=0))
        networks, plans = {"dense": copy.deepcopy(model)}, {}
        for multiple in roundings:
            target = Target(Goal("macs", arguments.target_macs), pruner.scope, round_to=multiple)
            plans[multiple] = make_plan(groups, scores, table, target)
            networks[str(multiple)] = copy.deepcopy(model)
            cut(networks[str(multiple)], groups, plans[multiple])
        effort = Effort(warmup=3, runs=arguments.runs, seconds=arguments.seconds)
        mode = LatencyMode(channels_last=arguments.channels_last)
        report = time_networks(networks, arguments.input_size, device="cpu", mode=mode, effort=effort)
        for multiple, plan in plans.items():
            timed, macs = report.networks[str(multiple)], plan.dense.macs / plan.predicted.macs
            rows.append(
                {
                    "model": name,
                    "method": method,
                    "round_to": multiple,
                    "macs_speedup": macs,
                    "speedup": timed.speedup,
                    "speedup_low": timed.speedup_low,
                    "speedup_high": timed.speedup_high,
                    "quotient": timed.speedup / macs,
                    "dense_ms": report.networks["dense"].median_ms,
                    "latency_ms": timed.median_ms,
                    "rounds": report.rounds,
                    "threads": report.threads,
                    "memory_format": timed.memory_format,
                    "input_size": list(report.input_size),
                }
            )
    return rows


def line(row: dict[str, Any]) -> str:
    """One row as text."""
    return (
        f"{row['model']:20} {row['method']:10} round-to {row['round_to']:<3} MACs {row['macs_speedup']:.2f}x "
        f"latency {row['speedup']:.2f}x ({row['speedup_low']:.2f}-{row['speedup_high']:.2f}) "
        f"quotient {row['quotient']:.2f}"
    )


def summary(rows: Sequence[dict[str, Any]], roundings: Sequence[int]) -> list[str]:
    """For each rounding the median quotient over all rows and the lowest median of a network; the best last."""
    lines, medians = [], {}
    for multiple in roundings:
        of_model: dict[str, list[float]] = {}
        for row in rows:
            if row["round_to"] == multiple:
                of_model.setdefault(row["model"], []).append(row["quotient"])
        quotients = [quotient for values in of_model.values() for quotient in values]
        medians[multiple] = statistics.median(quotients)
        worst = min(of_model, key=lambda name: statistics.median(of_model[name]))
        lines.append(
            f"round-to {multiple:<3} median quotient {medians[multiple]:.3f}, least {min(quotients):.3f}, "
            f"lowest network {worst} {statistics.median(of_model[worst]):.3f}"
        )
    return [*lines, f"best: --round-to {max(medians, key=medians.get)}"]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the rows as CSV or JSON, by the file's ending."""
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measures every network by every method at every rounding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="deeplabv3_resnet50,unet,segnet,resnet50_seg")
    parser.add_argument("--methods", default="l1,random,taylor")
    parser.add_argument("--round-to", default="1,8,16")
    parser.add_argument("--target-macs", type=float, default=0.5)
    parser.add_argument("--input-size", type=parse_size, default=(180, 240))
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=30, help="timed passes of each network")
    parser.add_argument("--seconds", type=float, default=60.0, help="time limit of a network and method")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    roundings = [int(text) for text in arguments.round_to.split(",")]
    rows = []
    for name in arguments.models.split(","):
        for row in measure(name, arguments.methods.split(","), roundings, arguments):
            rows.append(row)
            print(line(row), flush=True)
    print("\n".join(summary(rows, roundings)))
    if arguments.out:
        write(arguments.out, rows)


if __name__ == "__main__":
    main()
