"""TorchScript files: what a trace of a network on images of one size noted."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import max_unpool2d

from bench.errors import BenchError, first_line
from bench.export.facts import Facts
from bench.system.extras import without_remarks
from bench.system.files import whole_file


def write_torchscript(path: Path, model: nn.Module, facts: Facts) -> None:
    """Writes a TorchScript file, which `torch.jit.load` opens.

    Args:
        path: the file.
        model: the network, in evaluation mode on the CPU; left as it is.
        facts: `input_size` and `input_channels` are those of the images that it will take.

    Raises:
        BenchError: the network cannot be traced, or the file cannot be written.
    """
    images = torch.zeros(1, facts.input_channels, *facts.input_size)
    buffer = io.BytesIO()
    try:
        with torch.no_grad(), without_remarks():
            torch.jit.save(torch.jit.trace(_with_known_sizes(model), images, check_trace=False), buffer)
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise BenchError(f"{facts.model} cannot be exported to torchscript: {first_line(error)}") from error
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


class _Unpool(nn.Module):
    """`nn.MaxUnpool2d` of a size that is a number, as a trace's are not."""

    def __init__(self, layer: nn.MaxUnpool2d):
        super().__init__()
        self.geometry = (layer.kernel_size, layer.stride, layer.padding)

    def forward(self, features: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        size = None if output_size is None else [int(side) for side in output_size]
        return max_unpool2d(features, indices, *self.geometry, output_size=size)


def _with_known_sizes(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for layer in list(model.modules()):
        for name, child in layer.named_children():
            if isinstance(child, nn.MaxUnpool2d):
                setattr(layer, name, _Unpool(child))
    return model
