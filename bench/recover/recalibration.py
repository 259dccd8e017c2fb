"""Re-estimating the running statistics of BatchNorm after a cut."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import nn

from bench.system.console import progress
from bench.system.failures import memory_of
from bench.torch_utils.batches import Batch, batchnorm_explained
from bench.torch_utils.contexts import flags_kept


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Batch], device: torch.device, but: Collection[str] = ()) -> None:
    """Re-estimates the running statistics of BatchNorm as their plain average over some batches.

    Weights, training flags and momenta stay as they were, and so do the statistics of a layer that the
    evaluation forward does not reach (an auxiliary head's). Dropout is off.

        >>> recalibrate(model, data.calibration(images=4, batch_size=2, seed=0), torch.device("cpu"))

    Args:
        model: any network; without BatchNorm nothing changes. It is moved to the device.
        batches: images [N, 3, h, w] and labels (not used).
        device: where to run.
        but: names of norms whose statistics stay.

    Raises:
        BenchError: a BatchNorm sees a single value a channel.
    """
    norms = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats and name not in but
    ]
    if not norms:
        return
    model.to(device)
    before = [(norm.momentum, *(buffer.clone() for buffer in norm.buffers())) for norm in norms]
    enough = memory_of("recalibration", "use a smaller `calib_batch_size`")
    with flags_kept(model), enough, batchnorm_explained("`calib_batch_size` and `recalibration_images`"):
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's cumulative average
            norm.train()
        for images, _ in progress(batches, "recalibrating BatchNorm"):
            model(images.to(device, non_blocking=True))
    for norm, (momentum, *buffers) in zip(norms, before, strict=True):
        norm.momentum = momentum
        if norm.num_batches_tracked == 0:
            for buffer, old in zip(norm.buffers(), buffers, strict=True):
                buffer.copy_(old)
