"""How networks are timed: their precision, memory format, and whether they are compiled."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from bench.config.declare import require
from bench.errors import BenchError, first_line
from bench.measure.options import TimingOptions
from bench.torch_utils.memory_format import is_laid_out, lay_out


@dataclass(frozen=True)
class LatencyMode:
    """How networks are timed; the same for all that are compared.

    Attributes:
        amp: mixed precision: `none`, `bf16` or `fp16`.
        channels_last: whether weights and images are laid out channels last; otherwise contiguous.
        compiled: whether torch.compile has compiled the networks.
        throughput_batch: images a pass of a further measurement; 0: there is none.
    """

    amp: str = "none"
    channels_last: bool = False
    compiled: bool = False
    throughput_batch: int = 0

    @classmethod
    def of(cls, options: TimingOptions, device: torch.device) -> LatencyMode:
        """What the options ask for; contiguous where they leave the memory format open.

        Raises:
            UsageError: fp16 on CPU; a batch of one; layers timed one by one in a compiled network, which has none.
        """
        require(
            options.latency_amp != "fp16" or device.type == "cuda",
            "`latency_amp=fp16` needs a CUDA device; use `latency_amp=bf16` or none",
        )
        require(options.latency_batch != 1, "`latency_batch=1` is measured in any case; pass a larger one or 0")
        require(
            not (options.per_layer and options.latency_compile),
            "`latency_compile` fuses the layers that `per_layer` times; leave one of them out",
        )
        channels_last = bool(options.latency_channels_last)
        return cls(options.latency_amp, channels_last, options.latency_compile, options.latency_batch)

    @property
    def memory_format(self) -> str:
        """`contiguous` or `channels_last`, as records say it."""
        return "channels_last" if self.channels_last else "contiguous"

    def applied_to(self, model: nn.Module) -> nn.Module:
        """The network in this mode but for the precision, a pass's own; the network given is left as it was."""
        if not is_laid_out(model, self.channels_last):
            model = copy.deepcopy(model)
            lay_out(model, self.channels_last)
        # Shapes are fixed, so that a second network is compiled for its own widths.
        return torch.compile(model, dynamic=False) if self.compiled else model


PLAIN_MODE = LatencyMode()
"""Networks of contiguous tensors in their own precision, one image a pass."""


@contextlib.contextmanager
def compilation() -> Iterator[None]:
    """For the first pass of networks that torch.compile has prepared, which is when it compiles them.

    Raises:
        BenchError: it cannot.
    """
    # What was compiled earlier counts towards the number of times torch compiles a function before it gives up.
    torch.compiler.reset()
    try:
        yield
    except RuntimeError as error:
        reason = first_line(error)
        raise BenchError(
            f"torch.compile failed ({reason}); on the CPU it needs a C++ compiler, on a GPU Triton: install that or "
            "leave `latency_compile` out"
        ) from error
