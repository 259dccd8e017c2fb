"""What a layer reads to give its output at single positions: the rows of the linear system that the layer is.

At a position of its output a convolution is a matrix product: of its filters, one a row, with the patch it reads there.
So is a transposed convolution, whose patch are the inputs that write to the position, and a linear layer, whose
positions are the axes between the images and the features.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.channels.layer_axes import TRANSPOSED


@dataclass(frozen=True, eq=False)
class Places:
    """Positions of a layer's output over some images.

    Attributes:
        image: int64 [n], which image, ascending.
        position: int64 [n], the position in it, row by row.
    """

    image: Tensor
    position: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def part(self, chosen: Tensor | slice) -> Places:
        """Some of the positions."""
        return Places(self.image[chosen], self.position[chosen])

    def to(self, device: torch.device) -> Places:
        """The same on a device."""
        return Places(self.image.to(device), self.position.to(device))


def draw_places(images: int, positions: int, count: int, seed: int, name: str) -> Places:
    """Positions at random, as many in each image and none twice.

    Args:
        images: number of images.
        positions: positions there are in each.
        count: how many to draw at least; all there are where more are asked for.
        seed: seed of the choice.
        name: of the layer; another layer gets other positions.
    """
    each = min(positions, -(-count // images))
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    drawn = [torch.randperm(positions, generator=generator)[:each] for _ in range(images)]
    return Places(torch.arange(images).repeat_interleave(each), torch.cat(drawn))


def positions_of(layer: nn.Module, output: Tensor) -> int:
    """How many positions an output of a layer has in each image."""
    if isinstance(layer, nn.Linear):
        return output[0, ..., 0].numel()
    return output[0, 0].numel()


def outputs_at(layer: nn.Module, output: Tensor, places: Places) -> Tensor:
    """A layer's output, or any map of the same shape, at some positions: [n, channels]."""
    if isinstance(layer, nn.Linear):
        return output.reshape(len(output), -1, output.shape[-1])[places.image, places.position]
    return output.flatten(2)[places.image, :, places.position]


def patches_at(layer: nn.Module, inputs: Tensor, size: tuple[int, ...], places: Places) -> Tensor:
    """What a layer reads at some positions of its output.

    Args:
        layer: a convolution, transposed or not, or a linear layer.
        inputs: [N, C, H, W], or with as many axes of places as the layer has; of a linear layer [N, ..., C].
        size: of the output, (height, width) or as above; of a linear layer it does not matter.
        places: n positions of the output.

    Returns:
        [g, n, K]: for each of the layer's g groups the C / g channels that it reads and for each of them the places of
        the kernel, in the order of `filters`; 0 where a kernel reaches over the border.
    """
    if isinstance(layer, nn.Linear):
        return outputs_at(layer, inputs, places)[None]
    padding = _padding(layer)
    if layer.padding_mode != "zeros":
        # From the last axis to the first.
        inputs = functional.pad(inputs, [one for pair in padding[::-1] for one in pair], mode=layer.padding_mode)
        padding = [(0, 0)] * len(padding)
    position, inside = _read_places(layer, tuple(inputs.shape[2:]), size, padding, places)
    # [n, places of the kernel, channels]: indices around a slice put what they pick first.
    read = inputs.flatten(2)[places.image[:, None], :, position] * inside[..., None]
    count, taps, channels = read.shape
    grouped = read.reshape(count, taps, layer.groups, channels // layer.groups)
    return grouped.permute(2, 0, 3, 1).reshape(layer.groups, count, -1)


def filters(layer: nn.Module) -> Tensor:
    """A layer's weights as matrices: [g, outputs of a group, K], K in the order of `patches_at`."""
    weight, groups = layer.weight.detach(), getattr(layer, "groups", 1)
    if isinstance(layer, TRANSPOSED):
        inputs, outputs = weight.shape[:2]
        grouped = weight.reshape(groups, inputs // groups, outputs, -1)
        return grouped.transpose(1, 2).reshape(groups, outputs, -1)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def set_filters(layer: nn.Module, matrices: Tensor) -> None:
    """Writes matrices as `filters` gives them into a layer, in place."""
    weight, groups = layer.weight.detach(), getattr(layer, "groups", 1)
    if isinstance(layer, TRANSPOSED):
        inputs, outputs = weight.shape[:2]
        matrices = matrices.reshape(groups, outputs, inputs // groups, -1).transpose(1, 2)
    weight.copy_(matrices.reshape(weight.shape))


def _read_places(
    layer: nn.Module, read: tuple[int, ...], made: tuple[int, ...], padding: list[tuple[int, int]], places: Places
) -> tuple[Tensor, Tensor]:
    """The positions of the input that each position of the output reads, and whether they are there; each [n, K].

    Args:
        layer: a convolution.
        read: size of its input, without images and channels.
        made: the same of its output.
        padding: what is added before and behind on each axis.
        places: n positions of the output.
    """
    device = places.position.device
    # Row by row over the places of the kernel: axis by axis they become positions of the flattened input.
    positions = torch.zeros(len(places), 1, dtype=torch.int64, device=device)
    inside = torch.ones(len(places), 1, dtype=torch.bool, device=device)
    for axis, made_at in enumerate(torch.unravel_index(places.position, made)):
        offsets = torch.arange(layer.kernel_size[axis], device=device) * layer.dilation[axis]
        stride, length = layer.stride[axis], read[axis]
        if isinstance(layer, TRANSPOSED):
            scaled = made_at[:, None] + padding[axis][0] - offsets
            at = torch.div(scaled, stride, rounding_mode="floor")
            there = scaled % stride == 0
        else:
            at = made_at[:, None] * stride - padding[axis][0] + offsets
            there = torch.ones_like(at, dtype=torch.bool)
        there &= (at >= 0) & (at < length)
        positions = (positions[:, :, None] * length + at.clamp(0, length - 1)[:, None]).flatten(1)
        inside = (inside[:, :, None] & there[:, None]).flatten(1)
    return positions, inside


def _padding(layer: nn.Module) -> list[tuple[int, int]]:
    """What a convolution adds before and behind, for each axis; of a transposed one what it leaves out."""
    if layer.padding == "valid":
        return [(0, 0)] * len(layer.kernel_size)
    if layer.padding == "same":
        sums = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in sums]
    return [(one, one) for one in layer.padding]
