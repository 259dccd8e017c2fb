"""Times of layers at a few widths: which, and that they are those of the layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import toy_networks as toys
from torch import nn
from toy_latency import timed

from bench.channels.groups import find_groups
from bench.measure import width_latencies
from bench.measure.latency import Effort
from bench.measure.latency_mode import PLAIN_MODE, LatencyMode
from bench.measure.latency_report import LatencyReport
from bench.measure.width_latencies import LayerTimes, measure_widths, timed_widths

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("whole", "widths"),
    [(64, [8, 16, 32, 64]), (20, [8, 16, 20]), (8, [8]), (3, [3]), (100, [8, 32, 56, 100]), (16, [8, 16])],
)
def test_widths_are_multiples_of_eight_and_all(whole: int, widths: list[int]) -> None:
    assert timed_widths(whole) == widths


class Clock:
    """In place of the stopwatch: a pass takes as many milliseconds as the output has channels."""

    def __init__(self) -> None:
        self.parts: list[dict[str, tuple[torch.Size, torch.Size]]] = []
        self.modes: list[LatencyMode] = []

    def __call__(self, parts: dict[str, nn.Module], _size: object, *, mode: LatencyMode, **_: object) -> LatencyReport:
        seen = {}
        for name, part in parts.items():
            with torch.inference_mode():
                seen[name] = (part.features.shape, part.eval()(torch.zeros(1, 3, 8, 8)).shape)
        self.parts.append(seen)
        self.modes.append(mode)
        latency = timed(1.0).networks["baseline"]
        networks = {
            name: replace(latency, times_ms=(2.0 * made[1], float(made[1]), 3.0 * made[1]))
            for name, (_, made) in seen.items()
        }
        return LatencyReport(networks, (8, 8), 1, 10, 3, "here", 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(width_latencies, "time_networks", clock)
    return clock


def norms(model: nn.Module) -> dict[str, str]:
    producers = [producer for group in find_groups(model) for producer in group.producers]
    return {producer.layer.layer: producer.norm.layer for producer in producers if producer.norm}


class Wide(nn.Module):
    """A layer of 20 channels called twice, a depthwise one, a transposed one, and two that are alike."""

    def __init__(self) -> None:
        super().__init__()
        self.first = toys.conv(3, 20)
        self.twice = toys.conv(20, 20)
        self.depthwise = nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.grouped = nn.Conv2d(20, 20, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(20, 16, 2, stride=2)
        self.alike, self.too = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.twice(self.twice(self.first(images)))
        return self.too(self.alike(self.up(self.grouped(self.depthwise(features)))))


def test_each_layer_is_timed_at_each_pair_of_widths(clock: Clock) -> None:
    model = Wide()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mode = LatencyMode(channels_last=True, compiled=True, throughput_batch=8)
    times = measure_widths(model, norms(model), (16, 24), device=CPU, mode=mode)
    assert list(times) == ["first.0", "twice.0", "depthwise", "grouped", "up", "alike", "too"]
    assert times["first.0"] == LayerTimes([3], [8, 16, 20], [[8, 16, 20]])
    # What it does in two calls adds up.
    assert times["twice.0"] == LayerTimes([8, 16, 20], [8, 16, 20], [[16, 32, 40]] * 3)
    assert times["depthwise"] == LayerTimes([20], [8, 16, 20], [[8, 16, 20]])
    assert times["grouped"] == LayerTimes([20], [20], [[20]])
    assert times["up"] == LayerTimes([8, 16, 20], [8, 16], [[8, 16]] * 3)
    assert times["alike"] == times["too"]
    assert len(clock.parts) == 6
    assert set(clock.modes) == {LatencyMode(channels_last=True)}
    shapes = clock.parts[1]["8 16"]
    assert shapes == ((1, 8, 16, 24), (1, 16, 16, 24))
    assert clock.parts[2]["20 8"] == ((1, 8, 16, 24), (1, 8, 16, 24))
    assert clock.parts[4]["16 8"] == ((1, 16, 16, 24), (1, 8, 32, 48))
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_linear_layers_have_their_channels_last(clock: Clock) -> None:
    model = toys.Flattened()
    times = measure_widths(model, norms(model), (16, 24), device=CPU, mode=PLAIN_MODE)
    assert times["linear"].inputs == [8, 16, 30] and times["linear"].outputs == [7]
    assert clock.parts[1]["16 7"] == ((1, 16), (1, 7))


def test_real_times_are_positive() -> None:
    times = measure_widths(toys.Chain(), {}, (16, 24), device=CPU, mode=PLAIN_MODE, effort=Effort(1, 1, 0.1))
    assert list(times) == ["first.0", "second.0", "head"]
    assert all(ms > 0 for layer in times.values() for row in layer.ms for ms in row)
