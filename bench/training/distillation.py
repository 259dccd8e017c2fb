"""Knowledge distillation: a loss that draws what a network says to what the unpruned network says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.config.declare import identity_of
from bench.torch_utils.contexts import flags_kept
from bench.training.losses import channel_distillation_loss, distillation_loss
from bench.training.options import DistillOptions

_LOSSES = {"pixel": distillation_loss, "channel": channel_distillation_loss}


@dataclass(frozen=True)
class Distillation:
    """A teacher and how much it counts beside the labels.

    Attributes:
        teacher: a network of the same classes, on the device of the training. It stays as it is, and in distributed
            training every process asks its own.
        sha256: SHA-256 of its file.
        options: weight, temperature, and which of the losses.
    """

    teacher: nn.Module
    sha256: str
    options: DistillOptions

    def logits(self, images: Tensor) -> Tensor:
        """What the teacher says to a batch in evaluation mode, [N, C, H, W]; its auxiliary head says nothing there."""
        with torch.no_grad(), flags_kept(self.teacher):
            return self.teacher.eval()(images)

    def loss(self, output: Tensor | Mapping[str, Tensor], logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        """The weighted loss of the mode that was chosen; classes count alike whatever the weights of the labels.

        Args:
            output: of the network in training.
            logits: what the teacher says to the same images.
            labels: int64 [N, H, W].
            ignore_index: label id that does not count.
        """
        options = self.options
        loss = _LOSSES[options.distill_mode](output, logits, labels, ignore_index, options.distill_temperature)
        return options.distill_weight * loss

    def as_record(self) -> dict[str, Any]:
        """All of it that decides the numbers of a run, as plain data."""
        return {**identity_of(self.options), "teacher": self.sha256}


def distillation_of(options: DistillOptions, teacher: nn.Module, sha256: str) -> Distillation | None:
    """The distillation some options ask for; None where its weight is 0.

    Args:
        options: weight, temperature and mode.
        teacher: the unpruned network.
        sha256: SHA-256 of its file.
    """
    return Distillation(teacher, sha256, options) if options.distill_weight else None
