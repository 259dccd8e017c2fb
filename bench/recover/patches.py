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
        inputs: [N, C, H, W]; of a linear layer [N, ..., C].
        size: (height, width) of the output; of a linear layer it does not matter.
        places: n positions of the output.

    Returns:
        [g, n, K]: for each of the layer's g groups the C / g channels that it reads and for each of them the places of
        the kernel, in the order of `filters`; 0 where a kernel reaches over the border.
    """
    if isinstance(layer, nn.Linear):
        return outputs_at(layer, inputs, places)[None]
    rows, columns, inside = _read_places(layer, inputs, size, places)
    if not isinstance(layer, nn.ConvTranspose2d) and layer.padding_mode != "zeros":
        (top, bottom), (left, right) = _padding(layer)
        inputs = functional.pad(inputs, (left, right, top, bottom), mode=layer.padding_mode)
        rows, columns, inside = rows + top, columns + left, torch.ones_like(inside)
    else:
        rows, columns = rows.clamp(0, inputs.shape[2] - 1), columns.clamp(0, inputs.shape[3] - 1)
    # [n, places of the kernel, channels]: indices around a slice put what they pick first.
    read = inputs[places.image[:, None], :, rows, columns] * inside[..., None]
    count, taps, channels = read.shape
    grouped = read.reshape(count, taps, layer.groups, channels // layer.groups)
    return grouped.permute(2, 0, 3, 1).reshape(layer.groups, count, -1)


def filters(layer: nn.Module) -> Tensor:
    """A layer's weights as matrices: [g, outputs of a group, K], K in the order of `patches_at`."""
    weight, groups = layer.weight.detach(), getattr(layer, "groups", 1)
    if isinstance(layer, nn.ConvTranspose2d):
        inputs, outputs = weight.shape[:2]
        grouped = weight.reshape(groups, inputs // groups, outputs, -1)
        return grouped.transpose(1, 2).reshape(groups, outputs, -1)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def set_filters(layer: nn.Module, matrices: Tensor) -> None:
    """Writes matrices as `filters` gives them into a layer, in place."""
    weight, groups = layer.weight.detach(), getattr(layer, "groups", 1)
    if isinstance(layer, nn.ConvTranspose2d):
        inputs, outputs = weight.shape[:2]
        matrices = matrices.reshape(groups, outputs, inputs // groups, -1).transpose(1, 2)
    weight.copy_(matrices.reshape(weight.shape))


def _read_places(
    layer: nn.Module, inputs: Tensor, size: tuple[int, ...], places: Places
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of the input that each position reads, and whether they are there; each [n, places]."""
    axes = []
    device = places.position.device
    row, column = places.position // size[1], places.position % size[1]
    for axis, position in enumerate((row, column)):
        offsets = torch.arange(layer.kernel_size[axis], device=device) * layer.dilation[axis]
        stride, length = layer.stride[axis], inputs.shape[2 + axis]
        if isinstance(layer, nn.ConvTranspose2d):
            scaled = position[:, None] + layer.padding[axis] - offsets
            read = torch.div(scaled, stride, rounding_mode="floor")
            there = scaled % stride == 0
        else:
            read = position[:, None] * stride - _padding(layer)[axis][0] + offsets
            there = torch.ones_like(read, dtype=torch.bool)
        axes.append((read, there & (read >= 0) & (read < length)))
    (rows, rows_there), (columns, columns_there) = axes
    down, across = rows.shape[1], columns.shape[1]
    return (
        rows.repeat_interleave(across, 1),
        columns.repeat(1, down),
        rows_there.repeat_interleave(across, 1) & columns_there.repeat(1, down),
    )


def _padding(layer: nn.Conv2d) -> list[tuple[int, int]]:
    """What a convolution adds before and behind, for the rows and for the columns."""
    if layer.padding == "valid":
        return [(0, 0), (0, 0)]
    if layer.padding == "same":
        sums = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in sums]
    return [(one, one) for one in layer.padding]
