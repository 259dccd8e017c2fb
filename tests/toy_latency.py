"""Latencies that were not measured, for tests of what is done with them."""

from __future__ import annotations

import pytest
from torch import nn

from bench.measure.baseline import Baseline
from bench.measure.latency_format import FormatChoice
from bench.measure.latency_report import Latency, LatencyReport, Speedup


def timed(share: float, baseline_ms: float = 20.0, spread: float = 0.01) -> LatencyReport:
    """What timing a network beside the baseline reports when it takes that share of its time."""
    same = {"fps": 1.0, "pixels_per_second": 1.0, "precision": "float32", "memory_format": "contiguous"}
    speed = 1 / share
    interval = {"speedup": speed, "speedup_low": speed / (1 + spread), "speedup_high": speed * (1 + spread)}
    networks = {
        "baseline": Latency(baseline_ms, baseline_ms, baseline_ms, **same),
        "candidate": Latency(*[share * baseline_ms] * 3, **same, **interval),
    }
    return LatencyReport(networks, (4, 4), 1, 20, 3, "here", 1)


def formats_take(monkeypatch: pytest.MonkeyPatch, contiguous_ms: float, channels_last_ms: float) -> list[object]:
    """Lets the dense network take that long in the two formats; notes what was asked each time this was measured."""
    asked: list[object] = []

    def measure(dense: nn.Module, input_size: tuple[int, int], **settings: object) -> FormatChoice:
        asked.append((input_size, settings))
        ratio = contiguous_ms / channels_last_ms
        return FormatChoice(contiguous_ms, Speedup(ratio, ratio / 1.01, ratio * 1.01))

    monkeypatch.setattr("bench.measure.baseline.faster_format", measure)
    return asked


def time_by_macs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Lets every clock say 0.2 + 0.8 times the share of the MACs; notes the effort of each measurement."""
    efforts: list[float] = []

    def time(reference: Baseline, candidate: nn.Module, effort: float = 1.0) -> LatencyReport:
        efforts.append(effort)
        return timed(0.2 + 0.8 * reference.cost_of(candidate)["macs"] / reference.cost["macs"])

    monkeypatch.setattr(Baseline, "time", time)
    formats_take(monkeypatch, 20.0, 20.0)
    return efforts
