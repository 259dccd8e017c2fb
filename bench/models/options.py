"""Which network."""

from __future__ import annotations

from dataclasses import dataclass

from bench.config.declare import option


@dataclass
class ModelOptions:
    """Which network, and which weights it starts from."""

    model: str | None = option(
        None, "network; --list-models names them (default: the checkpoint's, else resnet50_seg)", parse=str
    )
    pretrained_backbone: str | None = option(
        None,
        "ImageNet weights for the backbone: a file, 'efficientnet-lite0' for those of the installed package, or "
        "'imagenet' to download torchvision's",
        parse=str,
        metavar="FILE",
    )
