"""What a network takes and gives, where that is not images [N, 3, H, W] of any size and logits alone."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

USUAL_SIZES = ((64, 64), (128, 128), (256, 256), (512, 512))
"""(height, width) in pixels that a network is looked at with where no data set says a size: the first that it takes."""

ATTRIBUTE = "network_form"
"""Where an adapted network (`bench.models.adapter`) says its form; it is in no state dict."""


class NetworkForm(NamedTuple):
    """How a network differs from those of this project, as plain data.

    Attributes:
        output_key: which part of its output are the logits: a name, or a number from 0; None where that is clear.
        input_channels: channels of the images it takes.
        pad_to: height and width of images must be multiples of so many pixels.
        trace_size: (height, width) it is looked at with where no data set says a size; None for the usual one.
    """

    output_key: str | int | None = None
    input_channels: int = 3
    pad_to: int = 1
    trace_size: tuple[int, int] | None = None


USUAL = NetworkForm()
"""That of the networks of this project."""


def trial_size(model: nn.Module) -> tuple[int, int]:
    """The size that a network is looked at with where no data set says one."""
    return form_of(model).trace_size or USUAL_SIZES[0]


def form_of(model: nn.Module) -> NetworkForm:
    """The form of a network; the usual one where it says none."""
    return getattr(model, ATTRIBUTE, USUAL)
