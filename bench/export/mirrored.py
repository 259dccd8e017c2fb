"""TensorFlow's padding for sizes that are left open.

What it adds before an image depends on whether its side is odd; what it adds behind does not. Mirrored, a convolution
pads by the same number on both sides, and its output's size is a plain fraction of its input's: a formula in which the
size stands once, where padding by parity has it twice, and after five halvings 32 times.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.models.efficientnet_lite0_seg import SamePadding


class _Mirror(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.flip(-2, -1)


def mirror_padded(model: nn.Module) -> None:
    """Lets each convolution behind a `SamePadding` with stride 2 read the mirrored image, in place.

    The network gives the same logits, but for the order in which a convolution sums.
    """
    for block in model.modules():
        padding, conv = getattr(block, "padding", None), getattr(block, "conv", None)
        if not isinstance(padding, SamePadding) or not isinstance(conv, nn.Conv2d) or padding.stride != 2:
            continue
        with torch.no_grad():
            conv.weight.copy_(conv.weight.flip(-2, -1).clone())
        conv.padding = (padding.kernel // 2,) * 2
        block.padding, block.conv = _Mirror(), nn.Sequential(conv, _Mirror())
