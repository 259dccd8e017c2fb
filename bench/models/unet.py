"""U-Net (https://arxiv.org/abs/1505.04597) with batch normalisation and size-keeping convolutions.

Every up-convolution has a norm and an activation behind it. The published network and
https://github.com/Undefinedx-Zhang/vss leave it bare, but then four of the 22 prunable groups would have no
norm, and methods that read norm weights could not score them.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import pad

from bench.models.parts import conv_bn_relu, initialise
from bench.torch_utils.open_sizes import holds_always


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with norm and activation."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Sequential(
            *conv_bn_relu(inputs, outputs, bias=False), *conv_bn_relu(outputs, outputs, bias=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features)


class UNet(nn.Module):
    """U-Net.

    Args:
        outputs: channels of the logits.
        width: channels of the first stage; each stage inwards has twice as many.
        depth: how often the size is halved.
    """

    backbone_prefixes = ("downs.", "bottleneck.")

    def __init__(self, outputs: int, width: int = 64, depth: int = 4):
        super().__init__()
        widths = [width * 2**stage for stage in range(depth + 1)]
        self.downs = nn.ModuleList(
            DoubleConv(inputs, width) for inputs, width in zip([3, *widths], widths[:-1], strict=False)
        )
        self.pool = nn.MaxPool2d(2, 2)
        self.bottleneck = DoubleConv(widths[-2], widths[-1])
        self.ups = nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.ups.append(
                nn.Sequential(
                    nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                )
            )
            self.ups.append(DoubleConv(2 * width, width))
        self.final_conv = nn.Conv2d(widths[0], outputs, kernel_size=1)
        initialise(self, self.final_conv)

    def forward(self, images: Tensor) -> Tensor:
        features = images
        skips = []
        for down in self.downs:
            features = down(features)
            skips.append(features)
            features = self.pool(features)
        features = self.bottleneck(features)
        for up, fuse in zip(self.ups[::2], self.ups[1::2], strict=True):
            skip = skips.pop()
            features = _fit(up(features), skip)
            features = fuse(torch.cat([skip, features], dim=1))
        return self.final_conv(features)


def unet(outputs: int) -> UNet:
    """U-Net of the published width and depth: 64 to 1024 channels."""
    return UNet(outputs)


def unet_small(outputs: int, width: int = 16, depth: int = 3) -> UNet:
    """About 0.5 million parameters and 1 GMAC at 144x192 as it is: trains in minutes on a CPU."""
    return UNet(outputs, width, depth)


# One node for a tracer: what it does depends on the sizes, which a traced network does not know.
@fx.wrap
def _fit(features: Tensor, like: Tensor) -> Tensor:
    """Brings back the row and column that pooling an odd size lost."""
    rows, columns = (want - have for want, have in zip(like.shape[-2:], features.shape[-2:], strict=True))
    is_there = holds_always(rows == 0) and holds_always(columns == 0)
    return features if is_there else pad(features, (0, columns, 0, rows))
