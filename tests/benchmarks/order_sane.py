"""Trains small networks on drawn scenes and shows what l1 at rising ratios costs them, with and without recalibration.

    python -m tests.benchmarks.order_sane --out FOLDER [--models simple_segnet,unet_small,deeplabv3_resnet50]
        [--images 160] [--epochs 24] [--batch-size 4] [--lr 0.1] [--input-size 144,192]
        [--ratios 0.05,0.1,0.3,0.5,0.7] [--threads 2]

The folder keeps the scenes and the trained networks: run again, the command goes on where it was. A network holds its
order if the first ratio, after recalibration, costs it less than 3 points of mIoU; the exit status is 1 where one
does not. On one core the small networks train in 10 minutes each by the defaults; DeepLabV3 takes as long with
`--input-size 72,96 --epochs 16 --lr 0.05`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from bench.config.values import parse_size
from bench.datasets.options import DataOptions
from bench.datasets.synthetic import draw_dataset
from bench.engine.options import PruneOptions
from bench.engine.pruning import prune_network
from bench.engine.session import Session
from bench.jobs.training import train_model
from bench.measure.baseline import Baseline
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models.options import ModelOptions
from bench.plan.target import Goal
from bench.pruners import make_pruner
from bench.system.options import RunOptions
from bench.system.run_folder import BEST
from bench.training.options import TrainOptions

MODELS = "simple_segnet,unet_small,deeplabv3_resnet50"
MOST_POINTS = 3.0
SEED = 0

Row = dict[str, Any]


def trained(model: str, data: DataOptions, arguments: argparse.Namespace) -> Path:
    """The file of a network trained by the options; what an earlier run left is used."""
    recipe = TrainOptions(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        lr=arguments.lr,
        channels_last=True,
        eval_every=max(1, arguments.epochs // 5),
    )
    folder = arguments.out / model
    train_model(data, ModelOptions(model), recipe, RunOptions(), ScoringOptions(), folder, resume=True)
    return folder / BEST


def measure(model: str, checkpoint: Path, data: DataOptions, ratios: list[float], folder: Path) -> list[Row]:
    """mIoU of the test images after each cut, in percent."""
    reference = Baseline(checkpoint, data, ScoringOptions(), TimingOptions(latency=False), device=torch.device("cpu"))
    session, pruner = Session(reference, PruneOptions(), folder), make_pruner("l1")
    rows = []
    for ratio in ratios:
        pruned = prune_network(session, pruner, session.target(pruner, Goal("channels", ratio)), SEED)
        miou = {name: 100 * pruned.info["quality"][name]["miou"] for name in ("baseline", "cut", "recalibrated")}
        macs = pruned.info["cost"]["after"]["macs"] / pruned.info["cost"]["before"]["macs"]
        rows.append({"model": model, "ratio": ratio, "macs_kept": macs, **miou})
    return rows


def main() -> None:
    """Trains and measures every network and prints a table each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--input-size", type=parse_size, default=(144, 192))
    parser.add_argument("--ratios", default="0.05,0.1,0.3,0.5,0.7")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    height, width = arguments.input_size
    scenes = arguments.out / f"scenes_{arguments.images}_{height}x{width}"
    if not scenes.is_dir():
        draw_dataset(scenes, images={"train": arguments.images, "val": 16, "test": 32}, size=arguments.input_size)
    data = DataOptions("camvid", str(scenes), arguments.input_size, cache=True, num_workers=0)
    ratios = [float(ratio) for ratio in arguments.ratios.split(",")]
    rows, failures = [], []
    for model in arguments.models.split(","):
        folder = arguments.out / model
        found = measure(model, trained(model, data, arguments), data, ratios, folder)
        print(f"{model} on {height}x{width}, l1: mIoU {found[0]['baseline']:.1f} % before")
        for row in found:
            cut, now, before = row["cut"], row["recalibrated"], row["baseline"]
            print(f"  {row['ratio']:4g} of the channels gone, {row['macs_kept']:6.1%} of the MACs left: "
                  f"mIoU {cut:5.1f} after the cut, {now:5.1f} recalibrated ({now - before:+.1f})")  # fmt: skip
        lost = found[0]["baseline"] - found[0]["recalibrated"]
        holds = lost < MOST_POINTS
        print(f"  {'holds' if holds else 'DOES NOT HOLD'}: {ratios[0]:g} costs {lost:.1f} points, "
              f"less than {MOST_POINTS:g} are allowed", flush=True)  # fmt: skip
        failures += [] if holds else [model]
        rows += found
        (arguments.out / "order_sane.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if failures:
        sys.exit(f"{', '.join(failures)} lost more than {MOST_POINTS:g} points")


if __name__ == "__main__":
    main()
