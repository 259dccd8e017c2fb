"""Prunes networks to latencies and says how close each came, by a measurement of its own after the cut.

    python -m tests.benchmarks.latency_targets [--models unet_small,segnet] [--targets 0.9,0.5] [--round-to 8]

Random weights, l1; the whole way of `prune.py --target-latency`: search, cut, verification. To be run on a machine
that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.config.values import parse_size
from bench.datasets.options import DataOptions
from bench.datasets.synthetic import draw_dataset
from bench.engine.options import PruneOptions
from bench.engine.pruning import prune_network
from bench.engine.session import Session
from bench.errors import BenchError
from bench.measure.baseline import open_baseline
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, save_model
from bench.plan.target import Goal
from bench.pruners import make_pruner
from bench.system.options import RunOptions

OUTPUTS = 12


def workbench_of(name: str, folder: Path, arguments: argparse.Namespace) -> Session:
    """A network with random weights in a session."""
    torch.manual_seed(0)
    spec = ModelSpec(name, OUTPUTS)
    checkpoint = folder / f"{name}.pt"
    save_model(checkpoint, SavedModel(build_model(spec), spec, meta={"input_size": list(arguments.input_size)}))
    data = DataOptions("camvid", str(folder / "scenes"), num_workers=0)
    run = RunOptions(device=arguments.device, threads=arguments.threads)
    timing = TimingOptions(latency_seconds=arguments.seconds)
    options = PruneOptions(round_to=arguments.round_to, evaluate=False, recalibrate=False)
    return Session(open_baseline(checkpoint, data, run, ScoringOptions(), timing), options, folder / "scores")


def reach(session: Session, share: float) -> dict[str, Any]:
    """Prunes to a share of the latency; returns what came of it."""
    pruner = make_pruner("l1")
    began = time.perf_counter()
    row = {"model": session.baseline.saved.spec.name, "asked": share, "error": None}
    try:
        info = prune_network(session, pruner, session.target(pruner, Goal("latency", share)), seed=0).info
    except BenchError as error:
        return {**row, "error": str(error), "seconds": time.perf_counter() - began}
    search = info["latency_search"]
    return {
        **row,
        "measured": search["reached"],
        "error_percent": search["error_percent"],
        "macs": info["cost"]["after"]["macs"] / info["cost"]["before"]["macs"],
        "measurements": len(search["measured"]),
        "baseline_ms": search["verified"]["networks"]["baseline"]["median_ms"],
        "seconds": time.perf_counter() - began,
    }


def line(row: dict[str, Any]) -> str:
    """One row as text."""
    text = f"{row['model']:22} asked {row['asked']:.3f} "
    if row["error"]:
        return text + row["error"]
    return text + (
        f"measured {row['measured']:.3f} ({row['error_percent']:+5.1f} %) MACs {row['macs']:.3f} "
        f"{row['measurements']:2} measurements {row['seconds']:4.0f} s"
    )


def main() -> None:
    """Reaches every target with every network and counts those within 5 %."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="unet_small,resnet18_seg,simple_segnet,deeplabv3_resnet50")
    parser.add_argument("--targets", default="0.9,0.75,0.6,0.5,0.4")
    parser.add_argument("--input-size", type=parse_size, default=(96, 128))
    parser.add_argument("--round-to", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="time limit of a full measurement")
    parser.add_argument("--out", type=Path, help="also write the lines as JSON")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        draw_dataset(Path(folder) / "scenes", images={"train": 1, "val": 1, "test": 1}, size=arguments.input_size)
        for name in arguments.models.split(","):
            session = workbench_of(name, Path(folder), arguments)
            for share in arguments.targets.split(","):
                row = reach(session, float(share))
                rows.append(row)
                print(line(row), flush=True)
    close = sum(row["error"] is None and abs(row["error_percent"]) <= 5 for row in rows)
    print(f"{close} of {len(rows)} within 5 % in {sum(row['seconds'] for row in rows):.0f} s")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
