"""The training losses of segmentation networks: by labels, and by what another network says.

Where several processes train together, an average is over the pixels or images of all of them: the mean of what the
processes give is the loss of their batches as one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.system import processes


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


def distillation_loss(
    output: Tensor | Mapping[str, Tensor], teacher: Tensor, labels: Tensor, ignore_index: int, temperature: float
) -> Tensor:
    """`T^2 * KL(softmax(teacher / T) || softmax(output / T))`, averaged over the pixels that count; 0 where none does.

    T^2 makes up for the gradients' falling with it (Hinton et al., "Distilling the Knowledge in a Neural Network",
    2015). At T = 1 this is the pixel-wise term of Liu et al., "Structured Knowledge Distillation for Semantic
    Segmentation", CVPR 2019, whose probabilities are not softened. They average over all pixels; here void ones are
    left out as in the cross-entropy, because in augmented images these are padding, too.

    Args:
        output: logits [N, C, H, W], or {"out": logits, "aux": logits of the auxiliary head}, which is not taught.
        teacher: logits [N, C, H, W] of the network to follow.
        labels: int64 [N, H, W], for the pixels that do not count alone.
        ignore_index: label id that does not count.
        temperature: T, above 0.

    Returns:
        A scalar in nats, in float32 whatever the precision of the logits.
    """
    divergence = pixel_divergence(main_logits(output).float() / temperature, teacher.float() / temperature)
    counted = labels != ignore_index
    return temperature**2 * divergence.masked_fill(~counted, 0.0).sum() / _divisor(counted.sum())


def channel_distillation_loss(
    output: Tensor | Mapping[str, Tensor], teacher: Tensor, labels: Tensor, ignore_index: int, temperature: float
) -> Tensor:
    """`T^2 / C * sum_c KL(softmax(teacher_c / T) || softmax(output_c / T))`, averaged over the images.

    The softmax of a channel is over the positions of its map: where in the image a class is, whatever the others say
    there (Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021; on logits with T = 4 and
    a weight of 3). They take all positions; here void ones are left out as in `distillation_loss`, and images that
    have no others.

    Args:
        output: logits [N, C, H, W], or {"out": logits, "aux": logits of the auxiliary head}, which is not taught.
        teacher: logits [N, C, H, W] of the network to follow.
        labels: int64 [N, H, W], for the pixels that do not count alone.
        ignore_index: label id that does not count.
        temperature: T, above 0.

    Returns:
        A scalar in nats, in float32 whatever the precision of the logits.
    """
    is_void = (labels == ignore_index).flatten(1)[:, None]

    def log_shares(logits: Tensor) -> Tensor:
        softened = logits.float().flatten(2) / temperature
        # Not minus infinity, of which a map of nothing else would make nan.
        return softened.masked_fill(is_void, torch.finfo(softened.dtype).min).log_softmax(2)

    divergence = F.kl_div(log_shares(main_logits(output)), log_shares(teacher), log_target=True, reduction="none")
    images = (~is_void).any(2).sum()
    return temperature**2 * divergence.masked_fill(is_void, 0.0).sum(2).mean(1).sum() / _divisor(images)


def pixel_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """Kullback-Leibler divergence of class probabilities from a reference's, in nats, [N, H, W].

    Args:
        logits: [N, C, H, W].
        reference: the same shape.
    """
    return F.kl_div(logits.log_softmax(1), reference.log_softmax(1), log_target=True, reduction="none").sum(1)


def main_logits(output: Tensor | Mapping[str, Tensor]) -> Tensor:
    """What a network says without its auxiliary head, [N, C, H, W]."""
    return output["out"] if isinstance(output, Mapping) else output


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
    return losses / _divisor(total)


def _divisor(total: Tensor) -> Tensor:
    """What a sum over a process's batch is divided by for an average: the mean of the processes, 1 where all have 0."""
    total = processes.mean_over_processes(total)
    return total.where(total > 0, 1)
