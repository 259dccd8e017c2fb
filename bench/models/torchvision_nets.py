"""DeepLabV3 (https://arxiv.org/abs/1706.05587) and FCN (https://arxiv.org/abs/1411.4038), torchvision's modules.

The tensor names are torchvision's, so its segmentation files open as they are. Two things differ: the
auxiliary head runs in training mode only, and evaluation mode returns the logits themselves.
"""

from __future__ import annotations

import bench.torch_utils.torchvision_compat  # noqa: F401

# isort: split
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import segmentation

from bench.models.parts import initialise


class TorchvisionNet(nn.Module):
    """One of torchvision's segmentation networks with this project's forward pass.

    Attributes:
        architecture: torchvision's name of the backbone.
    """

    backbone_prefixes = ("backbone.",)

    def __init__(self, architecture: str, net: nn.Module):
        super().__init__()
        self.architecture = architecture
        self.backbone = net.backbone
        self.classifier = net.classifier
        self.aux_classifier = net.aux_classifier
        initialise(self.classifier, self.classifier[-1])
        initialise(self.aux_classifier, self.aux_classifier[-1])

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        size = images.shape[-2:]
        features = self.backbone(images)
        logits = interpolate(self.classifier(features["out"]), size=size, mode="bilinear", align_corners=False)
        if not self.training:
            return logits
        auxiliary = interpolate(self.aux_classifier(features["aux"]), size=size, mode="bilinear", align_corners=False)
        return {"out": logits, "aux": auxiliary}

    def backbone_layers(self) -> dict[str, nn.Module]:
        """Name in torchvision's ImageNet file -> layer here."""
        return dict(self.backbone.named_children())


def deeplabv3_resnet50(outputs: int) -> TorchvisionNet:
    """DeepLabV3 on a ResNet-50, with its auxiliary head."""
    return _build("deeplabv3", "resnet50", outputs)


def deeplabv3_resnet101(outputs: int) -> TorchvisionNet:
    """DeepLabV3 on a ResNet-101, with its auxiliary head."""
    return _build("deeplabv3", "resnet101", outputs)


def fcn_resnet50(outputs: int) -> TorchvisionNet:
    """FCN on a ResNet-50, with its auxiliary head."""
    return _build("fcn", "resnet50", outputs)


def fcn_resnet101(outputs: int) -> TorchvisionNet:
    """FCN on a ResNet-101, with its auxiliary head."""
    return _build("fcn", "resnet101", outputs)


def _build(head: str, architecture: str, outputs: int) -> TorchvisionNet:
    factory = getattr(segmentation, f"{head}_{architecture}")
    # weights_backbone is an ImageNet download unless it is refused.
    net = factory(weights=None, weights_backbone=None, num_classes=outputs, aux_loss=True)
    return TorchvisionNet(architecture, net)
