"""Seconds and peak memory of each method's score, beside the plain passes over the same images that it needs.

    python -m tests.benchmarks.score_cost [--models deeplabv3_resnet50,unet] [--methods taylor,fgp]
        [--images 16] [--batch-size 4] [--input-size 360,480] [--threads 1] [--out FILE.json]

Plain passes are what no method of its kind can do without: a forward pass of every image (`forward`), and a backward
pass to the weights (`backward`), or one to the inputs of the layers for each class of every batch (`classes`). Every
measurement runs in a process of its own, so that its peak memory is its own; `extra MB` is the peak above
what the process held when the network and the images were loaded. Random weights, drawn street scenes; of dmcp one pass
over the images is measured, of which its search makes several; slimming is measured without its training.

Seconds are the processor's, of all threads together: on one thread, what a core that does nothing else takes. A pass
for each class takes long, so that fgp and what it is compared with see the first batch alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.channels.groups import find_groups, layers_to_spare, prunable
from bench.config.values import parse_size
from bench.data import SegmentationData
from bench.datasets.options import DataOptions
from bench.datasets.synthetic import draw_dataset
from bench.models import ModelSpec, build_model
from bench.plan.cost_table import CostTable
from bench.plan.macs_budget import budget_for
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner, methods
from bench.pruners.base import Calibration, Pruner, Sparsifier
from bench.training.losses import segmentation_loss

OUTPUTS, VOID = 12, 11
PASSES = {"forward": ("sirfp", "apoz", "papm"), "backward": ("taylor", "dmcp"), "classes": ("fgp",)}


def forward(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """A forward pass of every image."""
    with torch.inference_mode():
        for images, _ in batches:
            model(images)


def backward(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """A forward and a backward pass of every image, to all weights."""
    for images, labels in batches:
        loss = segmentation_loss(model(images), labels, VOID)
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


def classes(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """A forward pass of every image and a backward pass for each class that is predicted in its batch."""
    for images, _ in batches:
        images = images.requires_grad_()
        logits = model(images)
        predicted = logits.argmax(1)
        for label in predicted.unique().tolist():
            target = (logits[:, label] * (predicted == label)).sum()
            torch.autograd.grad(target, images, retain_graph=True)


PLAIN = {"forward": forward, "backward": backward, "classes": classes}


def work_on(model: nn.Module, work: str, batches: list[tuple[Tensor, Tensor]], size: tuple[int, int]) -> Callable:
    """What is to be measured: plain passes, or a method's score."""
    if work in PLAIN:
        return functools.partial(PLAIN[work], model, batches)
    # A step of dmcp's search sees a batch; as many as there are make one pass.
    method = make_pruner(work, {"steps": len(batches)} if work == "dmcp" else {})
    groups = find_groups(model)
    if isinstance(method, Sparsifier):
        return functools.partial(method.choose, model, layers_to_spare(groups), 0.5)
    budget = None
    if method.needs_target:
        budget = budget_for(groups, CostTable(model, groups, size), Target(Goal("macs", 0.5)))
    return functools.partial(method.score, model, prunable(groups), Calibration(batches, VOID, seed=0, budget=budget))


def measure(model_name: str, work: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Processor seconds and extra peak MB of one score, or of plain passes, in this process."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = build_model(ModelSpec(model_name, OUTPUTS)).eval()
    options = DataOptions("camvid", arguments.data_root, arguments.input_size, num_workers=0)
    batches = list(SegmentationData(options, seed=0).calibration(arguments.images, arguments.batch_size, seed=0))
    if work in ("classes", *PASSES["classes"]):
        batches = batches[:1]
    run = work_on(model, work, batches, arguments.input_size)
    forward(model, batches[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    run()
    seconds = time.process_time() - began
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"seconds": seconds, "extra_mb": extra, "images": sum(len(images) for images, _ in batches)}


def measured_apart(model_name: str, work: str, arguments: argparse.Namespace) -> dict[str, float]:
    """`measure` in a process of its own."""
    height, width = arguments.input_size
    command = [sys.executable, "-m", "tests.benchmarks.score_cost", "--one", f"{model_name}:{work}"]
    command += ["--data-root", arguments.data_root, "--input-size", f"{height},{width}"]
    for flag in ("images", "batch_size", "threads"):
        command += ["--" + flag.replace("_", "-"), str(getattr(arguments, flag))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{model_name} {work} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures everything and prints a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="deeplabv3_resnet50,unet")
    scoring = [name for name in methods() if isinstance(make_pruner(name), Pruner)]
    parser.add_argument("--methods", default=",".join(scoring))
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--input-size", type=parse_size, default=(360, 480))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--data-root", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one.split(":"), arguments)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        arguments.data_root = str(Path(folder) / "scenes")
        draw_dataset(
            Path(arguments.data_root),
            images={"train": arguments.images, "val": 1, "test": 1},
            size=arguments.input_size,
        )
        for model_name in arguments.models.split(","):
            plain = {work: measured_apart(model_name, work, arguments) for work in PLAIN}
            print(f"{model_name}, {arguments.images} images at {arguments.input_size}, {arguments.threads} threads")
            for work, cost in plain.items():
                print(f"  plain {work:9} {cost['seconds']:8.2f} s {cost['extra_mb']:8.0f} MB")
            for method in arguments.methods.split(","):
                cost = measured_apart(model_name, method, arguments)
                row = {"model": model_name, "method": method, **cost}
                shown = ""
                for work in (work for work, those in PASSES.items() if method in those):
                    row |= {"plain": work, "times_plain": cost["seconds"] / plain[work]["seconds"]}
                    shown = f"{row['times_plain']:.2f} x plain {work}"
                rows.append(row)
                print(f"  {method:15} {cost['seconds']:8.2f} s {cost['extra_mb']:8.0f} MB  {shown}", flush=True)
            rows += [{"model": model_name, "plain": work, **cost} for work, cost in plain.items()]
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
