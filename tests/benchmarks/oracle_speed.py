"""How much faster the oracle's loss without a channel is than plain loops over whole forward passes, side by side.

    python -m tests.benchmarks.oracle_speed [--model unet] [--input-size 180,240] [--images 2] [--units 4]
        [--batch-size 1] [--threads 2] [--rounds 1]
        [--count] [--out FILE.json]

The same units (channels), at most `--units` a group, are removed on the same images in three ways:

* `oracle`: `bench.oracle.ablation`, as `benchmark.py --oracle` runs it: the recording, then only what differs from it,
  several units at once. With few units a group the recording weighs more than in use, where there are 32.
* `gate`: a loop over the units, each closed by hooks; whole forward passes over the images, `--batch-size` at a time.
* `cut`: a loop over the units; each is cut out of a copy of the network, which runs over the same batches.

A round times the three one after the other; of several rounds the median ratio is shown, and the losses are compared.
`--count` counts multiply-adds instead, so that what is left out and how fast the rest runs can be told apart. Random
weights and images.
"""

from __future__ import annotations

import argparse
import json
import operator
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.config.values import parse_size
from bench.models import ModelSpec, build_model
from bench.oracle.ablation import Ablation, Removal, loss_sums, switched_off
from bench.oracle.loss_changes import sampled_channels
from bench.torch_utils.batches import Batch
from tests.toy_networks import cut_copy, plan_keeping, settled

OUTPUTS, VOID = 12, 11


Groups = Sequence[ChannelGroup]


def device_of(model: nn.Module) -> torch.device:
    """Where its weights are."""
    return next(model.parameters()).device


def by_oracle(model: nn.Module, groups: Groups, removals: list[Removal], batches: list[Batch]) -> Tensor:
    """Losses [removals, images] by the project's own way, nothing known before."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "losses.json"
        device = device_of(model)
        ablation = Ablation(model, batches, ignore_index=VOID, device=device, path=path, identity=None)
        return ablation.losses(removals)


@torch.inference_mode()
def passes(model: nn.Module, batches: list[Batch]) -> Tensor:
    """Losses [images] by whole forward passes."""
    sums, device = [], device_of(model)
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        sums += [loss_sums(part, label, VOID) for part, label in zip(model(images).split(1), labels, strict=True)]
    return torch.cat(sums)


def by_gate(model: nn.Module, groups: Groups, removals: list[Removal], batches: list[Batch]) -> Tensor:
    """Losses [removals, images] with a unit's outputs zeroed by hooks."""
    layers, rows = dict(model.named_modules()), []
    for group, channels in removals:

        def close(positions: Tensor):
            return lambda layer, inputs, output: output.index_fill(1, positions.to(output.device), 0)

        hooks = [
            layers[name].register_forward_hook(close(positions))
            for name, (positions,) in switched_off(group, [channels]).items()
        ]
        rows.append(passes(model, batches))
        for hook in hooks:
            hook.remove()
    return torch.stack(rows)


def by_cut(model: nn.Module, groups: Groups, removals: list[Removal], batches: list[Batch]) -> Tensor:
    """Losses [removals, images] of copies without a unit."""
    rows = []
    for group, channels in removals:
        kept = [channel for channel in range(group.channels) if channel not in channels]
        rows.append(passes(cut_copy(model, groups, plan_keeping(groups, {group.name: kept})), batches))
    return torch.stack(rows)


WAYS = {"oracle": by_oracle, "gate": by_gate, "cut": by_cut}


def cost(way: Callable[..., Tensor], count: bool, *work: Any) -> tuple[float, Tensor]:
    """Seconds, or multiply-adds of all convolutions, and the losses."""
    if count:
        with FlopCounterMode(display=False) as counter:
            losses = way(*work)
        return counter.get_total_flops() / 2, losses
    began = time.perf_counter()
    losses = way(*work)
    return time.perf_counter() - began, losses


def main() -> None:
    """Times or counts the three and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="unet")
    parser.add_argument("--input-size", type=parse_size, default=(180, 240))
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--units", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = settled(build_model(ModelSpec(arguments.model, OUTPUTS)))
    groups = find_groups(model)
    images = torch.randn(arguments.images, 3, *arguments.input_size)
    labels = torch.randint(0, OUTPUTS, (arguments.images, *arguments.input_size))
    batches = list(zip(images.split(arguments.batch_size), labels.split(arguments.batch_size), strict=True))

    sampled = sampled_channels(prunable(groups), arguments.units, seed=0)
    removals: list[Removal] = [(group, (channel,)) for group, channels in sampled.items() for channel in channels]
    runs = len(removals) * arguments.images
    print(f"{arguments.model}, {arguments.images} images at {arguments.input_size}, {len(removals)} units of "
          f"{len(sampled)} groups, batches of {arguments.batch_size}, {arguments.threads} threads")  # fmt: skip

    costs: dict[str, list[float]] = {name: [] for name in WAYS}
    losses = {}
    for _ in range(arguments.rounds):
        for name, way in WAYS.items():
            spent, losses[name] = cost(way, arguments.count, model, groups, removals, batches)
            costs[name].append(spent)
    scale, unit = (1e-9, "GMACs") if arguments.count else (1e3, "ms")
    for name in WAYS:
        ratio = statistics.median(map(operator.truediv, costs[name], costs["oracle"]))
        each = scale * statistics.median(costs[name]) / runs
        print(f"  {name:7} {each:8.2f} {unit} a unit and image: {ratio:.2f} x the oracle's")
    difference = max(float((losses[name] / losses["gate"] - 1).abs().max()) for name in WAYS)
    print(f"  largest relative difference of a loss from that behind a gate: {difference:.1e}")
    if arguments.out:
        record = {unit: {name: [scale * spent for spent in costs[name]] for name in WAYS}, "difference": difference}
        arguments.out.write_text(
            json.dumps({**vars(arguments), **record}, indent=1, default=str) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
