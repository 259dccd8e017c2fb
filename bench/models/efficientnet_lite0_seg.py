"""EfficientNet-Lite0 with a light decoder: a network that learns well from few images, without a GPU.

The encoder is EfficientNet (https://arxiv.org/abs/1905.11946) as its authors changed it for small devices: ReLU6, no
squeeze-and-excitation
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). The decoder goes the way of U-Net and
DeepLabV3+ with depthwise separable convolutions: the features at 1/32, with their mean over the image and over ninths
of it beside them (https://arxiv.org/abs/1612.01105), are joined by the encoder's at 1/16, 1/8 and 1/4. 3.1 million
parameters, 1.6 GMACs at 360x480.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import interpolate, pad

from bench.models.parts import initialise
from bench.torch_utils.open_sizes import means_of_parts

# Kernel, stride, expansion, channels and blocks of each stage.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM = 32
_EPSILON = 1e-3
"""Of the encoder's norms."""

# The stages whose features the decoder reads, at 1/4, 1/8, 1/16 and 1/32 of the image.
_SKIPS, _LAST = (1, 2, 4), 6
_BINS = (1, 3)
"""Parts along each side of which the decoder sees the mean."""

# Mean and scale of values in 0..1: how images are normalised here (`bench.datasets.transforms`), and how the published
# weights expect it.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_REFERENCE_MEAN, _REFERENCE_SCALE = 127 / 255, 128 / 255


class ReferenceRange(nn.Module):
    """Turns images normalised as everywhere here into images as the encoder's published weights expect them.

    Its two tensors, [3, 1, 1], are constants. They are not part of the first convolution, because the zeros around an
    image are zeros of the reference's range.
    """

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor(_MEAN), torch.tensor(_STD)
        self.register_buffer("scale", (std / _REFERENCE_SCALE)[:, None, None])
        self.register_buffer("shift", ((mean - _REFERENCE_MEAN) / _REFERENCE_SCALE)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


class SamePadding(nn.Module):
    """TensorFlow's padding of a convolution with a stride: what is odd of it goes to the right and to the bottom."""

    def __init__(self, kernel: int, stride: int):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, features: Tensor) -> Tensor:
        return _padded(features, self.kernel, self.stride)


class Block(nn.Module):
    """An inverted residual: a pointwise, a depthwise and a linear pointwise convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.expand = _conv(inputs, hidden) if expansion > 1 else nn.Identity()
        self.depthwise = _conv(hidden, hidden, kernel, stride, groups=hidden)
        self.project = _conv(hidden, outputs, activation=False)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        changed = self.project(self.depthwise(self.expand(features)))
        return features + changed if self.is_residual else changed


class Encoder(nn.Module):
    """EfficientNet-Lite0 without its classification head: images -> the features of each stage."""

    def __init__(self) -> None:
        super().__init__()
        self.range = ReferenceRange()
        self.stem = _conv(3, _STEM, 3, 2)
        self.stages = nn.ModuleList()
        inputs = _STEM
        for kernel, stride, expansion, outputs, blocks in _STAGES:
            first = Block(inputs, outputs, kernel, stride, expansion)
            others = (Block(outputs, outputs, kernel, 1, expansion) for _ in range(blocks - 1))
            self.stages.append(nn.Sequential(first, *others))
            inputs = outputs

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.stem(self.range(images))
        stages = []
        for stage in self.stages:
            features = stage(features)
            stages.append(features)
        return stages


class Context(nn.Module):
    """Fewer channels, each of which also sees the means over the whole image and its parts."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.reduce = _conv(inputs, outputs)
        self.fuse = _conv(outputs * (1 + len(_BINS)), outputs)

    def forward(self, features: Tensor) -> Tensor:
        features = self.reduce(features)
        means = [_like(_means(features, bins), features) for bins in _BINS]
        return self.fuse(torch.cat([features, *means], dim=1))


class EfficientNetLite0Seg(nn.Module):
    """EfficientNet-Lite0 with a decoder.

    Args:
        outputs: channels of the logits.
        width: channels of the decoder.
    """

    architecture = "efficientnet-lite0"
    backbone_prefixes = ("backbone.",)

    def __init__(self, outputs: int, width: int = 128):
        super().__init__()
        self.backbone = Encoder()
        self.context = Context(_STAGES[_LAST][3], width)
        self.fuse = nn.ModuleList(_separable(_STAGES[stage][3] + width, width) for stage in reversed(_SKIPS))
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(width, outputs, kernel_size=1)
        initialise(self, self.classifier)

    def forward(self, images: Tensor) -> Tensor:
        stages = self.backbone(images)
        features = self.context(stages[_LAST])
        for fuse, stage in zip(self.fuse, reversed(_SKIPS), strict=True):
            features = fuse(torch.cat([stages[stage], _like(features, stages[stage])], dim=1))
        return _like(self.classifier(self.dropout(features)), images)

    def backbone_layers(self) -> dict[str, nn.Module]:
        """Name in the published file -> layer here."""
        encoder = self.backbone
        layers = {"_conv_stem": encoder.stem.conv, "_bn0": encoder.stem.norm}
        for number, block in enumerate(block for stage in encoder.stages for block in stage):
            parts = {"_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
            convolutions = [block.depthwise, block.project]
            if isinstance(block.expand, nn.Sequential):
                parts = {"_expand_conv": "_bn0"} | parts
                convolutions.insert(0, block.expand)
            for (conv, norm), layer in zip(parts.items(), convolutions, strict=True):
                layers[f"_blocks.{number}.{conv}"] = layer.conv
                layers[f"_blocks.{number}.{norm}"] = layer.norm
        return layers


def efficientnet_lite0_seg(outputs: int) -> EfficientNetLite0Seg:
    """EfficientNet-Lite0 with a decoder of 128 channels."""
    return EfficientNetLite0Seg(outputs)


def _conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    """A convolution padded as in TensorFlow, its norm and its activation."""
    layers: dict[str, nn.Module] = {}
    if stride > 1:
        layers["padding"] = SamePadding(kernel, stride)
    # Without a stride TensorFlow pads evenly.
    padding = 0 if stride > 1 else kernel // 2
    layers["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    layers["norm"] = nn.BatchNorm2d(outputs, eps=_EPSILON)
    if activation:
        layers["activation"] = nn.ReLU6(inplace=True)
    return nn.Sequential(OrderedDict(layers))


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution of all channels of a pixel, then a 3x3 one of each channel.

    In this order, because a depthwise convolution of concatenated channels would tie them together.
    """
    return nn.Sequential(_conv(inputs, outputs), _conv(outputs, outputs, 3, groups=outputs))


# What these do depends on sizes, which a traced network does not know: one node each for a tracer.


@fx.wrap
def _padded(features: Tensor, kernel: int, stride: int) -> Tensor:
    sides = []
    for size in reversed(features.shape[-2:]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        sides += [total // 2, total - total // 2]
    return pad(features, sides)


@fx.wrap
def _means(features: Tensor, bins: int) -> Tensor:
    return means_of_parts(features, bins)


@fx.wrap
def _like(features: Tensor, other: Tensor) -> Tensor:
    """Bilinear interpolation to the size of other features."""
    return interpolate(features, size=other.shape[-2:], mode="bilinear", align_corners=False)
