"""Which memory format networks are timed in where nobody says: the one that is faster for the dense network.

Kernels of one format may be half as fast again as those of the other, which is more than most prunings gain. So all
networks that are compared are timed in the same one, and that is the one a user of the dense network would choose.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

import torch
from torch import nn

from bench.measure.latency import Effort, input_batch, timed_rounds
from bench.measure.latency_mode import LatencyMode
from bench.measure.latency_report import Speedup
from bench.torch_utils.contexts import flags_kept

EFFORT = 0.2
"""The share of a full measurement that the choice is worth."""


@dataclass(frozen=True)
class FormatChoice:
    """The dense network in both formats.

    Attributes:
        contiguous_ms: what a pass takes contiguous, the median over the rounds, in milliseconds.
        gain: how many times faster it is channels last.
    """

    contiguous_ms: float
    gain: Speedup

    @property
    def channels_last(self) -> bool:
        """The choice: contiguous, unless the other is measurably faster."""
        return self.gain.is_measurable and self.gain.ratio > 1

    def __str__(self) -> str:
        chosen = "channels last" if self.channels_last else "contiguous"
        if not self.gain.is_measurable:
            return f"latency is measured {chosen}: channels last makes {self.gain} to the dense network"
        other_ms = self.contiguous_ms / self.gain.ratio
        return (
            f"latency is measured {chosen}: the dense network takes {self.contiguous_ms:.2f} ms contiguous, "
            f"{other_ms:.2f} ms channels last, {self.gain}"
        )


def faster_format(
    dense: nn.Module, input_size: tuple[int, int], *, device: torch.device, mode: LatencyMode, effort: Effort
) -> FormatChoice:
    """Times a network against itself in the other format, one image a pass.

    Args:
        dense: the network, on the device; left as it was.
        input_size: (height, width) in pixels.
        device: where it is.
        mode: precision, and whether it is compiled.
        effort: a full measurement's; the choice takes `EFFORT` of it.

    Raises:
        BenchError: the network cannot be compiled.
    """
    passes = {}
    with flags_kept(dense):
        dense.eval()
        for channels_last in (False, True):
            formatted = replace(mode, channels_last=channels_last)
            images = input_batch(dense, input_size, 1, device, formatted)
            passes[formatted.memory_format] = (formatted.applied_to(dense), images)
        found = timed_rounds(passes, device, mode, effort.part(EFFORT))
    reference, other = passes
    return FormatChoice(statistics.median(found.times[reference]), found.speedup(reference, other))
