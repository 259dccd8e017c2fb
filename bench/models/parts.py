"""Layers the networks share: the convolution block, and how fresh weights are drawn."""

from __future__ import annotations

import torch
from torch import nn

CLASSIFIER_STD = 0.01
"""Standard deviation of the weights that a classifier begins with."""


def conv_bn_relu(inputs: int, outputs: int, *, bias: bool) -> list[nn.Module]:
    """A 3x3 convolution that keeps the size, its norm and its own activation.

    Args:
        inputs: channels in.
        outputs: channels out.
        bias: whether the convolution has one; the norm makes it redundant, but published weights may have it.
    """
    return [
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def initialise(model: nn.Module, classifier: nn.Conv2d) -> None:
    """Draws fresh weights in place.

    Convolutions are drawn by He et al. (https://arxiv.org/abs/1502.01852). The classifier starts near zero:
    its logits have no norm behind them, and He's scale would start the loss many times above log(classes).
    """
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            with torch.no_grad():
                # Counted over all outputs, of which an input of a depthwise convolution reaches one.
                layer.weight *= layer.groups**0.5
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    nn.init.normal_(classifier.weight, std=CLASSIFIER_STD)
