"""BatchNorm over the batches of several processes: as if these were one batch.

On GPUs it becomes `nn.SyncBatchNorm`, which has no form for CPUs; the one for these is here.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """A sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(_context: object, tensor: Tensor) -> Tensor:
        return _summed(tensor)

    @staticmethod
    def backward(_context: object, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(tensor: Tensor) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class _SharedStatistics:
    """What a BatchNorm does in training where it shares its statistics; in evaluation it stays as it is."""

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, ...] -> the same, normalised by mean and variance over all processes."""
        if not self.training:
            return super().forward(images)
        self._check_input_dim(images)
        axes = [axis for axis in range(images.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(images.dim())]
        # Half precision does not hold the sums.
        values = images.to(torch.promote_types(images.dtype, torch.float32))
        own = values.new_full((1,), values.numel() // values.shape[1])
        *sums, count = _Sum.apply(torch.cat([values.sum(axes), own])).split([values.shape[1], 1])
        if count.item() <= 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {images.size()}")
        mean = sums[0] / count
        centred = values - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        self._follow(mean.detach(), variance.detach() * count.detach() / (count.detach() - 1))
        found = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            found = found * self.weight.view(shape) + self.bias.view(shape)
        return found.to(images.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


@cache
def _sharing(kind: type[_BatchNorm], on_gpu: bool) -> type[_BatchNorm]:
    bases = (nn.SyncBatchNorm,) if on_gpu else (_SharedStatistics, kind)
    return type(kind.__name__, bases, {"own_kind": kind, "process_group": None})


def share_statistics(model: nn.Module, device: torch.device) -> None:
    """Lets the BatchNorm layers of a network share their statistics in training, in place.

    Args:
        model: the network.
        device: where it is.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            module.__class__ = _sharing(type(module), device.type == "cuda")


def stop_sharing(model: nn.Module) -> None:
    """Undoes `share_statistics`."""
    for module in model.modules():
        if hasattr(type(module), "own_kind"):
            module.__class__ = module.own_kind
