"""ResNet-Seg: a ResNet backbone (https://arxiv.org/abs/1512.03385), a 3x3 convolution head, bilinear upsampling.

The network of https://github.com/Undefinedx-Zhang/vss with its tensor names: output stride 32, a head a
quarter as wide as the backbone's last stage. ResNet-18 is built by the same rule.
"""

from __future__ import annotations

import bench.torch_utils.torchvision_compat  # noqa: F401

# isort: split
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import resnet

from bench.models.parts import conv_bn_relu, initialise

# torchvision's names of the layers in the backbone, in order; its pooling and fully connected layers are dropped.
_STAGES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


class ResNetSeg(nn.Module):
    """ResNet-Seg.

    Attributes:
        architecture: torchvision's name of the backbone.
    """

    backbone_prefixes = ("backbone_net.",)

    def __init__(self, architecture: str, outputs: int):
        super().__init__()
        self.architecture = architecture
        net = getattr(resnet, architecture)(weights=None)
        self.backbone_net = nn.Sequential(*(getattr(net, stage) for stage in _STAGES))
        features = net.fc.in_features
        self.classifier = nn.Sequential(
            *conv_bn_relu(features, features // 4, bias=True),
            nn.Dropout(0.1),
            nn.Conv2d(features // 4, outputs, kernel_size=1),
        )
        initialise(self.classifier, self.classifier[-1])

    def forward(self, images: Tensor) -> Tensor:
        logits = self.classifier(self.backbone_net(images))
        return interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)

    def backbone_layers(self) -> dict[str, nn.Module]:
        """Name in torchvision's ImageNet file -> layer here."""
        return dict(zip(_STAGES, self.backbone_net, strict=True))


def resnet18_seg(outputs: int) -> ResNetSeg:
    """ResNet-Seg on a ResNet-18."""
    return ResNetSeg("resnet18", outputs)


def resnet50_seg(outputs: int) -> ResNetSeg:
    """ResNet-Seg on a ResNet-50."""
    return ResNetSeg("resnet50", outputs)


def resnet101_seg(outputs: int) -> ResNetSeg:
    """ResNet-Seg on a ResNet-101."""
    return ResNetSeg("resnet101", outputs)
