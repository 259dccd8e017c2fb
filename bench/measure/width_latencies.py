"""How long each layer takes at a few widths of its input and output, measured on the device at hand.

A layer is timed alone, with the norm behind it and a ReLU where it has one, on random features of the size that an
image gives it. Between the widths timed a reader interpolates (`bench.plan.latency_model`).
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.channels.layer_axes import IN, OUT, WEIGHTED, is_depthwise, is_grouped, keep_channels, width
from bench.measure.latency import Effort, time_networks
from bench.measure.latency_mode import LatencyMode
from bench.system.console import progress
from bench.torch_utils.dry_run import blank_image, stand_in
from bench.torch_utils.hooks import inputs_seen

STAIR = 8
"""Kernels compute so many channels at once, so that a width costs what the next multiple of this does."""

EFFORT = Effort(warmup=3, runs=20, seconds=4.0)
"""For the widths of one layer, by turns."""


@dataclass(frozen=True)
class LayerTimes:
    """What one layer takes for one image.

    Attributes:
        inputs: widths of the input that were timed, ascending; the last is the whole layer's.
        outputs: widths of the output, likewise; a depthwise layer has no other width and one entry in `inputs`.
        ms: milliseconds [inputs, outputs], all calls that an image makes together.
    """

    inputs: list[int]
    outputs: list[int]
    ms: list[list[float]]


class _Use(NamedTuple):
    """What an image passes to a layer."""

    shape: tuple[int, ...]
    calls: int


class _Alone(nn.Module):
    """A part of a network that carries its input with it, so that it can be timed like a network."""

    def __init__(self, part: nn.Module, features: Tensor):
        super().__init__()
        self.part = part
        self.register_buffer("features", features)

    def forward(self, _images: Tensor) -> Any:
        return self.part(self.features)


def timed_widths(whole: int) -> list[int]:
    """The widths a side is timed at: 8, a quarter, half (both in multiples of 8) and all of it.

    >>> timed_widths(64), timed_widths(20), timed_widths(3)
    ([8, 16, 32, 64], [8, 20], [3])
    """
    parts = (STAIR, *(-(-whole // part // STAIR) * STAIR for part in (4, 2)), whole)
    return sorted({part for part in parts if STAIR <= part < whole} | {whole})


def measure_widths(
    model: nn.Module,
    norms: Mapping[str, str],
    input_size: tuple[int, int],
    *,
    device: torch.device,
    mode: LatencyMode,
    effort: Effort = EFFORT,
) -> dict[str, LayerTimes]:
    """Times every convolution and linear layer that an image passes; layers that are alike are timed once.

    Args:
        model: a network on the device; left as it was.
        norms: layer -> the norm right behind it.
        input_size: (height, width) of an image in pixels.
        device: where the network is.
        mode: precision and memory format; layers are not compiled.
        effort: warm-up passes, timed rounds and the time limit of one layer.
    """
    layers = dict(model.named_modules())
    found: dict[Hashable, LayerTimes] = {}
    times: dict[str, LayerTimes] = {}
    uses = _uses(model, input_size)
    for name, use in progress(uses.items(), "layer widths"):
        layer, norm = layers[name], layers[norms[name]] if name in norms else None
        if norm is not None and width(norm, OUT) != width(layer, OUT):
            norm = None
        key = (repr(layer), repr(norm), use)
        if key not in found:
            found[key] = _times(layer, norm, use, device, replace(mode, compiled=False, throughput_batch=0), effort)
        times[name] = found[key]
    return times


def _uses(model: nn.Module, input_size: tuple[int, int]) -> dict[str, _Use]:
    """What an image passes to each layer, in the order of the network's modules."""
    uses: dict[str, _Use] = {}

    def see(name: str, inputs: tuple[Tensor, ...]) -> None:
        before = uses.get(name)
        uses[name] = _Use(tuple(inputs[0].shape), before.calls + 1 if before else 1)

    names = [name for name, layer in model.named_modules() if isinstance(layer, WEIGHTED)]
    with stand_in(model) as shadow, inputs_seen(shadow, names, see):
        shadow(blank_image(shadow, input_size))
    return {name: uses[name] for name in names if name in uses}


def _times(
    layer: nn.Module, norm: nn.Module | None, use: _Use, device: torch.device, mode: LatencyMode, effort: Effort
) -> LayerTimes:
    axis = -1 if isinstance(layer, nn.Linear) else 1
    inputs, outputs = [use.shape[axis]], [width(layer, OUT)]
    if not is_grouped(layer):
        outputs = timed_widths(outputs[0])
        inputs = inputs if is_depthwise(layer) else timed_widths(inputs[0])
    parts = {
        f"{read} {made}": _Alone(*_part(layer, norm, use, axis, read, made)) for read in inputs for made in outputs
    }
    # The size is that of images nobody looks at.
    report = time_networks(parts, (8, 8), device=device, mode=mode, effort=effort)
    # The fastest pass: what else runs on the machine only makes one slower.
    ms = [[use.calls * min(report.networks[f"{read} {made}"].times_ms) for made in outputs] for read in inputs]
    return LayerTimes(inputs, outputs, ms)


def _part(
    layer: nn.Module, norm: nn.Module | None, use: _Use, axis: int, read: int, made: int
) -> tuple[nn.Module, Tensor]:
    """A layer at other widths with its norm and a ReLU, and features for it."""
    part, kept = copy.deepcopy(layer), torch.arange(made)
    if made < width(layer, OUT):
        keep_channels(part, OUT, kept)
    if not is_depthwise(layer) and read < use.shape[axis]:
        keep_channels(part, IN, torch.arange(read))
    shape = list(use.shape)
    shape[axis] = made if is_depthwise(layer) else read
    features = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(part.weight)
    weight = layer.weight
    if weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last):
        features = features.contiguous(memory_format=torch.channels_last)
    if norm is None:
        return part, features
    behind = copy.deepcopy(norm)
    keep_channels(behind, OUT, kept)
    return nn.Sequential(part, behind, nn.ReLU()), features
