"""Running a network on a device: scoring it, re-estimating its BatchNorm statistics, mixed precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import distributed
from bench.console import progress
from bench.datasets.base import Classes
from bench.errors import BenchError
from bench.metrics import ConfusionMatrix, Quality
from bench.modes import flags_kept

Batch = tuple[Tensor, Tensor]


def evaluate(
    model: nn.Module,
    loader: Iterable[Batch],
    classes: Classes,
    *,
    device: torch.device,
    amp: str = "none",
    channels_last: bool = False,
    label: str = "val",
) -> Quality:
    """Scores a network over a whole split, at the size of the labels.

    Under torchrun each process scores its share (`eval_loader(rank=, world=)`) and all get the whole result.

    Args:
        model: maps [N, 3, h, w] to logits [N, C, h, w]; its training flags are left as they were.
        loader: batches of images [N, 3, h, w] and labels int64 [N, H, W].
        classes: the label set.
        device: where to run; the network is moved there.
        amp: `none`, `bf16` or `fp16`.
        channels_last: memory format of images and network.
        label: what the progress bar says.
    """
    # Outside inference mode, where moving would make the weights unfit for training.
    to_device(model, device, channels_last)
    confusion = ConfusionMatrix(classes, device)
    with torch.inference_mode(), flags_kept(model):
        model.eval()
        for images, labels in progress(loader, label):
            images, labels = moved(images, labels, device, channels_last)
            with autocast(device, amp):
                logits = model(images)
            confusion.update(predicted(logits, labels.shape[-2:]), labels)
    distributed.sum_over_processes(confusion.counts)
    return confusion.quality()


def predicted(logits: Tensor, size: Sequence[int]) -> Tensor:
    """The output chosen for each pixel: logits [N, C, h, w] -> int64 [N, *size], scaled before the choice."""
    logits = logits.float()
    if logits.shape[-2:] != torch.Size(size):
        logits = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
    return logits.argmax(1)


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Batch], device: torch.device) -> None:
    """Re-estimates the running statistics of BatchNorm as their plain average over some batches.

    Weights, training flags and momenta stay as they were, and so do the statistics of a layer that the
    evaluation forward does not reach (an auxiliary head's). Dropout is off.

    Args:
        model: any network; without BatchNorm nothing changes. It is moved to the device.
        batches: images [N, 3, h, w] and labels (not used).
        device: where to run.

    Raises:
        BenchError: a BatchNorm sees a single value a channel.
    """
    norms = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats
    ]
    if not norms:
        return
    model.to(device)
    before = [(norm.momentum, *(buffer.clone() for buffer in norm.buffers())) for norm in norms]
    with flags_kept(model), batchnorm_explained("--calib-batch-size"):
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's cumulative average
            norm.train()
        for images, _ in progress(batches, "recalibration"):
            model(images.to(device, non_blocking=True))
    for norm, (momentum, *buffers) in zip(norms, before, strict=True):
        norm.momentum = momentum
        if norm.num_batches_tracked == 0:
            for buffer, old in zip(norm.buffers(), buffers, strict=True):
                buffer.copy_(old)


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager[None]:
    """Mixed precision for a forward pass: `none`, `bf16` or `fp16`."""
    if amp == "none":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if amp == "bf16" else torch.float16)


def to_device(model: nn.Module, device: torch.device, channels_last: bool) -> None:
    """Moves a network, in place."""
    model.to(device)
    if channels_last:
        model.to(memory_format=torch.channels_last)


def moved(images: Tensor, labels: Tensor, device: torch.device, channels_last: bool) -> Batch:
    """Moves a batch without waiting for the copy."""
    layout = torch.channels_last if channels_last else torch.preserve_format
    return images.to(device, non_blocking=True, memory_format=layout), labels.to(device, non_blocking=True)


@contextlib.contextmanager
def batchnorm_explained(flag: str) -> Iterator[None]:
    """Turns torch's complaint about a single value a channel into what to do about it.

    Args:
        flag: the option that sets the batch size.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise BenchError(
            f"BatchNorm after global pooling cannot train on a batch of one image; raise {flag} to at least 2"
        ) from error
