"""The training loss of segmentation networks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def segmentation_loss(
    output: Tensor | Mapping[str, Tensor],
    labels: Tensor,
    ignore_index: int,
    *,
    weight: Tensor | None = None,
    aux_weight: float = 0.4,
) -> Tensor:
    """Cross-entropy, averaged over the pixels that count; 0 where none does.

    Args:
        output: logits [N, C, H, W], or {"out": logits, "aux": logits of the auxiliary head}.
        labels: int64 [N, H, W].
        ignore_index: label id that does not count.
        weight: float [C], weight of each class; the average is then a weighted one.
        aux_weight: weight of the auxiliary loss.

    Returns:
        A scalar in float32, whatever the precision of the logits.
    """
    if isinstance(output, Mapping):
        main = _cross_entropy(output["out"], labels, ignore_index, weight)
        return main + aux_weight * _cross_entropy(output["aux"], labels, ignore_index, weight)
    return _cross_entropy(output, labels, ignore_index, weight)


def _cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int, weight: Tensor | None) -> Tensor:
    logits = logits.float()
    counted = labels != ignore_index
    if weight is None:
        total = counted.sum()
    else:
        total = torch.where(counted, weight[labels.where(counted, 0)], 0.0).sum()
    if torch.are_deterministic_algorithms_enabled():
        # The two-dimensional kernel has no deterministic CUDA form, and the one-dimensional one is slow
        # when it reduces; per-pixel losses followed by a sum are neither.
        logits = logits.permute(0, 2, 3, 1).flatten(0, 2)
        losses = F.cross_entropy(
            logits, labels.flatten(), weight=weight, ignore_index=ignore_index, reduction="none"
        ).sum()
    else:
        losses = F.cross_entropy(logits, labels, weight=weight, ignore_index=ignore_index, reduction="sum")
    # Not `reduction="mean"`: its 0 / 0 on a batch without a pixel that counts is nan, in the gradient too.
    return losses / total.where(total > 0, 1)
