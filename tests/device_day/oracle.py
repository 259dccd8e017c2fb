"""The oracle's losses without single channels, beside a loop over whole passes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from bench.channels.groups import find_groups, prunable
from bench.oracle.ablation import Removal, full_precision
from bench.oracle.loss_changes import sampled_channels
from tests.benchmarks.oracle_speed import OUTPUTS, by_gate, by_oracle
from tests.device_day.day import Part, Row, Setting, Step
from tests.device_day.training import network, waited
from tests.toy_networks import settled

ROUNDS = 2


def measured(setting: Setting, name: str, deadline: float) -> list[Row]:
    """One row: milliseconds a channel and image by both, and how far their losses are apart."""
    model, device = settled(network(name)).to(setting.device), setting.device
    groups = find_groups(model)
    images = torch.randn(1, 3, *setting.input_size)
    batches = [(images, torch.randint(0, OUTPUTS, (1, *setting.input_size)))]
    sampled = sampled_channels(prunable(groups), setting.units, seed=0)
    removals: list[Removal] = [(group, (channel,)) for group, channels in sampled.items() for channel in channels]
    seconds: dict[str, list[float]] = {"oracle": [], "loop": []}
    losses = {}
    # The first round warms up.
    for number in range(ROUNDS + 1):
        if number > 1 and time.monotonic() > deadline:
            break
        for way, run in (("oracle", by_oracle), ("loop", by_gate)):
            began = waited(device)
            with full_precision():
                losses[way] = run(model, groups, removals, batches)
            if number:
                seconds[way].append(waited(device) - began)
    each = {way: 1000 * min(found) / len(removals) for way, found in seconds.items()}
    return [
        {
            "model": name,
            "groups": len(sampled),
            "channels": len(removals),
            "images": 1,
            "oracle_ms": each["oracle"],
            "loop_ms": each["loop"],
            "speedup": each["loop"] / each["oracle"],
            "largest_relative_difference": float((losses["oracle"] / losses["loop"].cpu() - 1).abs().max()),
        }
    ]


def steps(setting: Setting) -> Iterator[Step]:
    """One for each network."""
    for name in setting.models:
        yield Step(name, lambda deadline, name=name: measured(setting, name, deadline))


COLUMNS = {"model": "", "groups": "d", "channels": "d", "oracle_ms": ".2f", "loop_ms": ".2f", "speedup": ".2f",
           "largest_relative_difference": ".1e"}  # fmt: skip
PART = Part("oracle", "The loss without a channel, milliseconds", 0.1, steps, COLUMNS)
