"""Whether fused specialists are worth it: beside one pruned network as large, and one as fast as their slowest device.

    python -m tests.benchmarks.specialists_compared --out DIR [--seeds 0,1,2] [--device-counts 2,3] [--cost macs]
        [--model-args width=8,depth=3] [--size 64,96] [--images 64] [--baseline-epochs 30] [--epochs 10]
        [--head-epochs 15] [--head-width 16] [--repair least-squares]

For each seed a synthetic set is drawn and a U-Net trained on it. Its classes are grouped and a specialist is pruned for
each group, as the command does it; the head is trained. The two rivals are pruned by papm over all classes,
repaired and fine-tuned by the same recipe, for as many epochs as a specialist and the head together:

* `as large`: as many parameters as specialists and head together;
* `as fast`: the MACs of the slowest specialist up to its last features plus those of the head (`--cost macs`), or
  their share of the baseline's latency, by ratios within rounds that time all of them by turns (`--cost latency`).
  What is timed is the one thread, and only while it runs, so that whatever else the machine does counts little.

The baseline of each seed is also trained on by that many epochs (`baseline+`), so that no one wins by training longer.
What is done is kept in DIR: the same command goes on. Prints mIoU on test in percent and, paired by seed, what fused
specialists are ahead, with its 95 % interval (Student's t); writes `compared.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from bench.config.values import list_of, parse_arguments, parse_size, whole
from bench.datasets.options import DataOptions
from bench.datasets.synthetic import draw_dataset
from bench.engine.options import PruneOptions
from bench.engine.session import Session
from bench.jobs.training import train_model
from bench.measure.baseline import Baseline, open_baseline
from bench.measure.operators import OperatorCalls
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models.checkpoint import load_model
from bench.models.options import ModelOptions
from bench.plan.target import Goal
from bench.recover.options import RepairOptions
from bench.specialists.deployment import Grouping, chosen_groups
from bench.specialists.fusing import fuse_specialists, fusion_folder, single_beside
from bench.specialists.grouping import group_classes, groupings_for
from bench.specialists.inference import infer
from bench.specialists.opened import Specialist, open_specialists
from bench.specialists.options import FusionOptions, GroupOptions
from bench.specialists.pruning import Recipe, make_single, prune_specialists, work_folder
from bench.system.files import make_folder, write_json
from bench.system.options import RunOptions
from bench.torch_utils.dry_run import blank_image, stand_in
from bench.training.options import TrainOptions

REDUCTION, THRESHOLD = 0.77, 77.0
# Two-sided 95 % points of Student's t by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


def arguments_of(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=list_of(whole), default=[0, 1, 2])
    parser.add_argument("--device-counts", type=list_of(whole), default=[2, 3])
    parser.add_argument("--cost", choices=("macs", "latency"), default="macs")
    parser.add_argument("--model-args", type=parse_arguments, default={"width": 8, "depth": 3})
    parser.add_argument("--size", type=parse_size, default=(64, 96))
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--baseline-epochs", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--head-epochs", type=int, default=15)
    parser.add_argument("--head-width", type=int, default=16)
    parser.add_argument("--repair", choices=("none", "least-squares"), default="least-squares")
    return parser.parse_args(words)


def baseline_of(asked: argparse.Namespace, seed: int, folder: Path) -> Baseline:
    """The network of a seed, trained unless it was."""
    root, images = folder / "data", asked.images
    if not root.is_dir():
        counts = {"train": images, "val": images // 4, "test": images // 2}
        draw_dataset(root, images=counts, size=asked.size, seed=seed)
    data = DataOptions("camvid", str(root), asked.size, cache=True, num_workers=0)
    run, scoring = RunOptions("cpu", seed), ScoringOptions()
    recipe = TrainOptions(epochs=asked.baseline_epochs, batch_size=8, lr=0.1, eval_every=5)
    network = ModelOptions(model="unet_small", model_args=asked.model_args)
    train_model(data, network, recipe, run, scoring, folder / "baseline", resume=True, unasked=True)
    timing = TimingOptions(latency=asked.cost == "latency")
    return open_baseline(folder / "baseline" / "best.pt", data, run, scoring, timing)


def specialist_macs(specialists: list[Specialist], size: tuple[int, int]) -> int:
    """MACs of the one that has most, up to its last features."""
    found = []
    for specialist in specialists:
        with stand_in(specialist.features) as shadow, OperatorCalls(shadow).noting() as operators:
            shadow(blank_image(shadow, size))
        found.append(operators.macs)
    return max(found)


def thread_time(network: nn.Module, images: torch.Tensor) -> float:
    """Milliseconds that this thread was running for one pass."""
    began = time.thread_time()
    network(images)
    return 1000 * (time.thread_time() - began)


def compare(asked: argparse.Namespace, seed: int, baseline: Baseline, folder: Path) -> Iterator[dict[str, Any]]:
    """A row a number of devices."""
    group_classes(baseline, GroupOptions(), make_folder(folder))
    groupings = groupings_for(baseline, folder)
    tuning = TrainOptions(epochs=asked.epochs, batch_size=8, lr=0.05)
    pruning = PruneOptions(evaluate=False, reconstruction_images=0)
    recipe = Recipe({}, None, tuning, seed)
    session = Session(baseline, pruning, work_folder(folder), None, tuning, RepairOptions(asked.repair))
    chosen: list[Grouping] = [groupings[number] for number in asked.device_counts]
    prune_specialists(session, recipe, chosen_groups(chosen, None), REDUCTION, folder)
    options = FusionOptions(threshold=THRESHOLD, head_width=asked.head_width, patience=asked.head_epochs)
    head = TrainOptions(epochs=asked.head_epochs, batch_size=8, lr=0.1)
    for grouping in chosen:
        out = fusion_folder(folder, grouping, THRESHOLD)
        specialists = open_specialists(folder, grouping, THRESHOLD, baseline)
        fusion = fuse_specialists(baseline, specialists, head, options, seed, out)
        single_beside(baseline, specialists, fusion, out)
        record = infer(baseline, folder, grouping, THRESHOLD, out, RunOptions("cpu", seed), split=False)
        longer = replace(recipe, training=replace(tuning, epochs=asked.epochs + asked.head_epochs))
        timed = record["latency"] and record["latency"]["split"]
        if timed:
            goal = Goal("latency", min(1.0, 1 / timed["speedup"]))
        else:
            macs = specialist_macs(specialists, baseline.data.input_size) + fusion["macs"]
            goal = Goal("macs", min(1.0, macs / baseline.cost["macs"]))
        fast = make_single(session, longer, goal, out / "as_fast.pt")
        whole = make_single(session, longer, Goal("params", 1.0), folder / "trained_on.pt")
        sizes = record["sizes"]
        yield {
            "seed": seed,
            "devices": grouping.devices,
            "params_share": sizes["specialists + head"]["parameters"] / sizes["baseline"]["parameters"],
            "goal": str(goal),
            "split latency": timed and {key: timed[key] for key in ("speedup", "speedup_p10", "speedup_p90")},
            "as fast reached": fast["pruning"]["latency_search"] and fast["pruning"]["latency_search"]["reached"],
            "baseline": record["quality"]["baseline"]["miou"],
            "baseline+": whole["quality"]["miou"],
            "fused": record["quality"]["fused"]["miou"],
            "as large": record["quality"]["single"]["miou"],
            "as fast": fast["quality"]["miou"],
            "as fast parameters": sum(p.numel() for p in load_model(out / "as_fast.pt").model.parameters()),
        }


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval."""
    if len(values) < 2:
        return statistics.mean(values), math.nan
    half = STUDENT[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half


def main() -> None:
    """Compares and prints."""
    asked = arguments_of()
    torch.set_num_threads(1)
    rows = []
    for seed in asked.seeds:
        folder = make_folder(asked.out / f"seed{seed}")
        with mock.patch("bench.measure.latency.time_on_cpu", thread_time):
            rows += compare(asked, seed, baseline_of(asked, seed, folder), folder / "specialists")
        write_json(asked.out / "compared.json", {"asked": {**vars(asked), "out": None}, "rows": rows})
    names = ("baseline", "baseline+", "fused", "as large", "as fast")
    print(json.dumps({"cost": asked.cost, "seeds": asked.seeds}))
    print("| devices | seed | params % | " + " | ".join(names) + " | as fast is |")
    print("| --: | --: | --: | " + " | ".join("--:" for _ in names) + " | :-- |")
    for row in sorted(rows, key=lambda row: (row["devices"], row["seed"])):
        shown = " | ".join(f"{100 * row[name]:.1f}" for name in names)
        print(f"| {row['devices']} | {row['seed']} | {100 * row['params_share']:.1f} | {shown} | {row['goal']} |")
    for number in asked.device_counts:
        for rival in ("as large", "as fast", "baseline", "baseline+"):
            ahead = [100 * (row["fused"] - row[rival]) for row in rows if row["devices"] == number]
            mean, half = interval(ahead)
            print(f"{number} devices, fused - {rival}: {mean:+.2f} ± {half:.2f} points")


if __name__ == "__main__":
    main()
