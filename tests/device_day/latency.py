"""Latency of dense networks and of those with half of the MACs: how much of what pruning saves arrives as speed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache

from torch import nn

import bench
from bench.measure.latency import Effort, time_networks
from bench.measure.latency_mode import LatencyMode
from bench.measure.latency_report import LatencyReport
from tests.device_day.day import Part, Row, Setting, Step
from tests.device_day.training import network

# Tensor cores take channels by eights.
MULTIPLE, KEPT = 8, 0.5
MODES = {
    "float32": LatencyMode(),
    "float32, channels last": LatencyMode(channels_last=True),
    "bf16": LatencyMode("bf16"),
    "bf16, channels last": LatencyMode("bf16", channels_last=True),
    "bf16, channels last, compiled": LatencyMode("bf16", channels_last=True, compiled=True),
}


def rows_of(report: LatencyReport, gain: float, model: str, mode: str) -> list[Row]:
    """A row for each batch of a report on a dense and a pruned network."""
    rows = []
    for part in filter(None, (report, report.throughput)):
        dense, pruned = part.networks["dense"], part.networks["pruned"]
        rows.append(
            {
                "model": model,
                "mode": mode,
                "precision": pruned.precision,
                "batch": part.batch,
                "dense_ms": dense.median_ms,
                "pruned_ms": pruned.median_ms,
                "speedup": pruned.speedup,
                "speedup_low": pruned.speedup_low,
                "speedup_high": pruned.speedup_high,
                "macs_gain": gain,
                "arrives": pruned.speedup / gain,
                "rounds": part.rounds,
            }
        )
    return rows


def steps(setting: Setting) -> Iterator[Step]:
    """One for each mode and network; those that compile, which takes long, come last."""

    @cache
    def pair(name: str) -> tuple[dict[str, nn.Module], float]:
        """The dense and the pruned network on the device, and how many times fewer MACs the pruned one has."""
        dense = network(name).eval()
        options = {"method": "l1", "target": {"macs": KEPT}, "round_to": MULTIPLE, "input_size": setting.input_size}
        pruned = bench.prune(dense, recalibrate=False, check=False, **options)
        networks = {"dense": dense.to(setting.device), "pruned": pruned.model.to(setting.device)}
        return networks, pruned.before.macs / pruned.after.macs

    def measured(name: str, mode: str, deadline: float) -> list[Row]:
        networks, gain = pair(name)
        how = MODES[mode]
        how = LatencyMode(how.amp, how.channels_last, how.compiled, throughput_batch=setting.batch)
        seconds = min(10.0, max(1.0, (deadline - time.monotonic()) / 2))
        effort = Effort(warmup=setting.rounds // 2, runs=setting.rounds, seconds=seconds)
        report = time_networks(networks, setting.input_size, device=setting.device, mode=how, effort=effort)
        return rows_of(report, gain, name, mode)

    # A CPU of a test has no compiler to spare.
    modes = [mode for mode, how in MODES.items() if setting.device.type == "cuda" or not how.compiled]
    for mode in sorted(modes, key=lambda mode: MODES[mode].compiled):
        for name in setting.models:
            yield Step(f"{name}, {mode}", lambda deadline, name=name, mode=mode: measured(name, mode, deadline))


COLUMNS = {"model": "", "mode": "", "batch": "d", "dense_ms": ".2f", "pruned_ms": ".2f", "speedup": ".2f",
           "speedup_low": ".2f", "speedup_high": ".2f", "macs_gain": ".2f", "arrives": ".2f"}  # fmt: skip
PART = Part("latency", "Latency, dense and with half of the MACs", 0.27, steps, COLUMNS)
