"""MACs and times of layers, by a clock that the layers move themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.errors import UsageError
from bench.measure import layer_costs
from bench.measure.latency import Effort
from bench.measure.latency_mode import LatencyMode
from bench.measure.layer_costs import measure_layers
from bench.measure.options import TimingOptions

SIZE, CPU = (4, 6), torch.device("cpu")


class Clock:
    """What it says, in milliseconds."""

    def __init__(self):
        self.now = 0.0


class Slow(nn.Conv2d):
    """A convolution that takes as long as it is told, and longer with each call."""

    def __init__(self, clock: Clock, ms: float, *shape: int):
        super().__init__(*shape)
        self.clock, self.ms, self.calls = clock, ms, 0

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        self.clock.now += self.ms + self.calls**2
        self.calls += 1
        return super().forward(images)


class Net(nn.Module):
    """Two layers, the second run twice, and one that is never run; between them time passes."""

    def __init__(self, clock: Clock, ms: float, width: int):
        super().__init__()
        self.clock = clock
        self.stem, self.body = Slow(clock, ms, 3, width, 3), Slow(clock, 10 * ms, width, width, 1)
        self.aux = nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        self.clock.now += 1000
        return self.body(self.body(features))


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(layer_costs, "now", lambda device: clock.now)
    return clock


def options(**changes) -> dict[str, Any]:
    asked = TimingOptions(**{"latency_warmup": 3, "latency_runs": 10, **changes})
    return {"mode": LatencyMode.of(asked, CPU), "effort": Effort.of(asked)}


def test_before_and_after(clock):
    baseline, candidate = Net(clock, 1, 8).train(), Net(clock, 0.5, 5)
    rows = measure_layers(baseline, candidate, SIZE, device=CPU, **options())
    assert [(row.layer, row.kind) for row in rows] == [("stem", "Slow"), ("body", "Slow")]
    stem, body = rows
    assert (stem.weight_before, stem.weight_after) == ([8, 3, 3, 3], [5, 3, 3, 3])
    assert (stem.macs_before, stem.macs_after) == (2 * 4 * 8 * 27, 2 * 4 * 5 * 27)
    assert (body.macs_before, body.macs_after) == (2 * 8 * 64, 2 * 8 * 25)
    # Calls 0 to 2 warm up; the median of ten rounds lies between the eighth and the ninth call.
    # The body has two a pass.
    assert (stem.ms_before, stem.ms_after) == (1 + (7**2 + 8**2) / 2, 0.5 + (7**2 + 8**2) / 2)
    assert body.ms_before == 2 * 10 + (14**2 + 15**2 + 16**2 + 17**2) / 2
    assert body.ms_after == 2 * 5 + (14**2 + 15**2 + 16**2 + 17**2) / 2
    assert baseline.training and baseline.body.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in baseline.modules())


def test_a_baseline_alone_has_nothing_after(clock):
    rows = measure_layers(Net(clock, 1, 8), None, SIZE, device=CPU, **options())
    assert [(row.weight_after, row.macs_after, row.ms_after) for row in rows] == [(None, None, None)] * 2
    assert rows[0].ms_before > 0


def test_networks_run_by_turns(clock):
    seen = []
    networks = [Net(clock, 1, 4), Net(clock, 1, 2)]
    for net in networks:
        net.register_forward_pre_hook(lambda module, inputs: seen.append(module.stem.out_channels))
    measure_layers(*networks, SIZE, device=CPU, **options(latency_runs=100))
    timed = [tuple(seen[start : start + 2]) for start in range(6, 206, 2)]
    assert timed.count((4, 2)) == timed.count((2, 4)) == 50


def test_the_mode_holds_for_layers_too(clock):
    types, formats = set(), set()
    net = Net(clock, 1, 4)

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, images: Tensor) -> Tensor:
            output = self.net(images)
            if type(output) is Tensor:  # not where MACs are counted
                formats.add(images.is_contiguous(memory_format=torch.channels_last))
                types.add(output.dtype)
            return output

    wanted = options(latency_amp="bf16", latency_channels_last=True)
    measure_layers(Head(), None, SIZE, device=CPU, **wanted)
    assert (types, formats) == ({torch.bfloat16}, {True})
    assert net.stem.weight.is_contiguous()
    with pytest.raises(UsageError, match="`latency_compile` fuses the layers that `per_layer` times"):
        measure_layers(net, None, SIZE, device=CPU, **options(per_layer=True, latency_compile=True))
