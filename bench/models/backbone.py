"""The backbone of a network: which layers it is, and ImageNet weights for it, from a file or downloaded on demand."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bench.errors import BenchError, UsageError, first_line
from bench.models.state_dict_file import as_state_dict, fitting_tensors, read_file
from bench.models.wrapper_names import unwrapped

DOWNLOAD = "imagenet"

# The classification heads of torchvision's ResNet and VGG.
_HEADS = ("fc.", "classifier.")


@runtime_checkable
class HasBackbone(Protocol):
    """A network whose encoder is one of torchvision's classification networks.

    Attributes:
        architecture: torchvision's name of that network.
    """

    architecture: str

    def backbone_layers(self) -> dict[str, nn.Module]:
        """Name in torchvision's ImageNet file -> layer of this network."""
        ...


def in_backbone(model: nn.Module, layer: str) -> bool:
    """Whether a layer is part of the network's backbone (its encoder) rather than of what is built on it.

    Args:
        model: a network whose class says in `backbone_prefixes` how the names of those layers begin. Where it does
            not, no layer is.
        layer: module name.
    """
    return layer.startswith(getattr(model, "backbone_prefixes", ()))


@torch.no_grad()
def load_backbone(model: nn.Module, source: str) -> None:
    """Puts ImageNet weights into the backbone of a network, in place; the head keeps its own.

    Args:
        model: the dense network.
        source: a torchvision-format file, or `imagenet` to download torchvision's own (into torch's cache).

    Raises:
        UsageError: the network has no such backbone.
        BenchError: the file is missing or damaged, a tensor does not fit (named), or the download fails.
    """
    if not isinstance(model, HasBackbone):
        raise UsageError(
            f"{type(model).__name__} has no backbone with published weights; leave out `pretrained_backbone`"
        )
    weights = _download(model.architecture) if source == DOWNLOAD else as_state_dict(source, read_file(source))
    where = f"{source} does not fit the backbone {model.architecture}"
    expected = {
        f"{prefix}.{name}": tensor
        for prefix, layer in model.backbone_layers().items()
        for name, tensor in layer.state_dict().items()
    }
    weights = unwrapped(weights, expected, where)
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(_HEADS)}
    fitted = fitting_tensors(weights, expected, where)
    for name, tensor in expected.items():
        tensor.copy_(fitted[name])


def _download(architecture: str) -> dict[str, Tensor]:
    import bench.torch_utils.torchvision_compat  # noqa: F401

    # isort: split
    from torchvision.models import get_model_weights

    url = get_model_weights(architecture).IMAGENET1K_V1.url
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=sys.stderr.isatty(), check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise BenchError(
            f"cannot download {url} ({first_line(error)}); download it elsewhere and pass "
            f"`pretrained_backbone={Path(url).name}`"
        ) from error
