"""The memory format that is chosen where nobody names one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.measure import latency
from bench.measure.latency import Effort
from bench.measure.latency_format import FormatChoice, faster_format
from bench.measure.latency_mode import LatencyMode
from bench.measure.latency_report import Speedup

CPU = torch.device("cpu")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """Lets a pass take 10 ms contiguous and `passes.other` ms channels last; notes the formats of each."""

    class Passes(list):
        other = 10.0

    seen = Passes()

    def time_pass(model: nn.Conv2d, images: Tensor) -> float:
        assert not model.training
        last = [tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (model.weight, images)]
        assert last[0] == last[1]
        seen.append(last[0])
        return seen.other if last[0] else 10.0

    monkeypatch.setattr(latency, "time_on_cpu", time_pass)
    return seen


def choice_of(network: nn.Module, **mode: object) -> FormatChoice:
    return faster_format(network, (6, 8), device=CPU, mode=LatencyMode(**mode), effort=Effort(30, 100, 30.0))


@pytest.mark.parametrize(
    ("milliseconds", "channels_last", "said"),
    [
        (
            8.0,
            True,
            "channels last: the dense network takes 10.00 ms contiguous, 8.00 ms channels last, 1.25x",
        ),
        (
            12.5,
            False,
            "contiguous: the dense network takes 10.00 ms contiguous, 12.50 ms channels last, 0.80x",
        ),
        (10.0, False, "contiguous: channels last makes no measurable difference (1.00-1.00) to the dense"),
    ],
)
def test_the_faster_one_for_the_dense_network_and_contiguous_of_equals(passes, milliseconds, channels_last, said):
    passes.other = milliseconds
    network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last).train()
    choice = choice_of(network, throughput_batch=16)
    assert choice.channels_last == channels_last
    assert f"latency is measured {said}" in str(choice)
    # A fifth of a full measurement, one image a pass, by turns.
    assert len(passes) == 2 * (6 + 20) and passes.count(True) == 26
    assert network.training and not network.weight.is_contiguous()


def test_what_cannot_be_told_is_contiguous():
    assert not FormatChoice(10.0, Speedup(1.05, 0.99, 1.11)).channels_last
