"""Image transforms: augmentation for training, and normalisation for training and scoring alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import bench.torch_utils.torchvision_compat  # noqa: F401
from bench.datasets.base import IMAGENET, Augmentation, Normalization, Size

# isort: split
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

_GREY = (0.299, 0.587, 0.114)


class Window(NamedTuple):
    """Which part of an image becomes which part of a crop, along one axis, in pixels.

    Attributes:
        start: first pixel of the image's part.
        extent: length of the image's part.
        place: where it starts in the crop.
        length: what it is scaled to; the rest of the crop is padding.
    """

    start: int
    extent: int
    place: int
    length: int


def augment(
    image: Tensor,
    label: Tensor,
    generator: torch.Generator,
    *,
    input_size: Size,
    crop_size: Size,
    ignore_index: int,
    normalization: Normalization = IMAGENET,
    augmentation: Augmentation = Augmentation(),  # noqa: B008 - frozen
) -> tuple[Tensor, Tensor]:
    """Random scale, crop, flip and colour; a pure function of its arguments.

    Equal to scaling the image to `input_size` times a factor of `augmentation.scales` and cutting a random crop out of
    it (padded with the mean colour and `ignore_index` where it is larger), but only the pixels of the crop are scaled.

    Args:
        image: uint8 [3, H, W].
        label: uint8 [H, W].
        generator: where all random numbers come from.
        input_size: (height, width) the image has at factor 1.
        crop_size: (height, width) of the result.
        ignore_index: label of padded pixels.
        normalization: see `normalize`.
        augmentation: how much is changed.

    Returns:
        The normalised image, float32 [3, h, w], and its label, int64 [h, w].
    """
    numbers = torch.rand(9, generator=generator, dtype=torch.float64).tolist()
    low, high = augmentation.scales
    factor = low + (high - low) * numbers[0]
    rows, columns = (
        choose_window(size, max(1, round(base * factor)), crop, where, place)
        for size, base, crop, where, place in zip(
            image.shape[1:], input_size, crop_size, numbers[1:3], numbers[3:5], strict=True
        )
    )
    box = (rows.start, columns.start, rows.extent, columns.extent)
    length = (rows.length, columns.length)
    image = _resize(F.crop(image, *box), length)
    label = _resize_label(F.crop(label, *box), length)
    if augmentation.flip and numbers[5] < 0.5:
        image, label = F.horizontal_flip(image), F.horizontal_flip(label)
    strength = augmentation.jitter
    pixels = jitter(image, *(1 - strength + 2 * strength * number for number in numbers[6:9]))
    # Zero is the mean colour after normalisation.
    padded_image = torch.zeros(3, *crop_size)
    padded_label = torch.full(crop_size, ignore_index, dtype=torch.int64)
    inside = (slice(rows.place, rows.place + rows.length), slice(columns.place, columns.place + columns.length))
    padded_image[(slice(None), *inside)] = normalize(pixels, normalization)
    padded_label[inside] = label.long()
    return padded_image, padded_label


def choose_window(size: int, scaled: int, crop: int, where: float, place: float) -> Window:
    """Places a crop in a scaled image along one axis, and says which source pixels it shows.

    Args:
        size: length of the source image.
        scaled: length the whole image would be scaled to.
        crop: length of the crop.
        where: 0..1, which part of the image is shown.
        place: 0..1, where it lies in the crop.
    """
    length = min(scaled, crop)
    extent = min(size, max(1, round(length * size / scaled)))
    return Window(int(where * (size - extent + 1)), extent, int(place * (crop - length + 1)), length)


def jitter(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Changes brightness, then contrast about the mean grey, then saturation.

    The three steps are linear and are done as one, clamped once at the end. The mean is summed in whole
    numbers, so that the result does not depend on the number of threads.

    Args:
        image: uint8 [3, H, W].
        brightness: factor; 1 changes nothing, as for the others.
        contrast: factor.
        saturation: factor.

    Returns:
        float32 [3, H, W] in 0..255.
    """
    sums = image.sum(dim=(1, 2), dtype=torch.int64).tolist()
    mean_grey = sum(weight * total for weight, total in zip(_GREY, sums, strict=True)) / image[0].numel()
    pixels = image.float()
    grey = pixels[0] * _GREY[0]
    grey += pixels[1] * _GREY[1]
    grey += pixels[2] * _GREY[2]
    grey *= (1 - saturation) * contrast * brightness
    grey += (1 - contrast) * brightness * mean_grey
    pixels *= saturation * contrast * brightness
    pixels += grey
    return pixels.clamp_(0, 255)


def network_input(
    image: Tensor,
    input_size: Size,
    normalization: Normalization = IMAGENET,
    change: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """What the network sees when it is scored: the image at `input_size`, normalised.

    Args:
        image: uint8 [3, H, W].
        input_size: (height, width).
        normalization: see `normalize`.
        change: what befalls the image at that size, uint8 -> uint8.

    Returns:
        float32 [3, height, width].
    """
    shown = _resize(image, input_size)
    return normalize((change(shown) if change else shown).float(), normalization)


def network_label(label: Tensor, input_size: Size) -> Tensor:
    """A label at the network's size, for a loss (scores use the label's own size): uint8 [H, W] -> int64 [h, w]."""
    return _resize_label(label, input_size).long()


def normalize(pixels: Tensor, normalization: Normalization = IMAGENET) -> Tensor:
    """float32 [3, H, W] in 0..255 -> zero mean and unit deviation over the images meant, contiguous."""
    mean = torch.tensor(normalization.mean).mul_(255)[:, None, None]
    scale = torch.tensor(normalization.std).mul_(255).reciprocal_()[:, None, None]
    return (pixels.contiguous() - mean).mul_(scale)


def _resize(image: Tensor, size: Size) -> Tensor:
    if tuple(image.shape[1:]) == tuple(size):
        return image
    return F.resize(image, list(size), InterpolationMode.BILINEAR, antialias=True)


def _resize_label(label: Tensor, size: Size) -> Tensor:
    if tuple(label.shape) == tuple(size):
        return label
    # Nearest by pixel centres, as the image's filter has it; plain nearest is shifted by half a pixel.
    return F.resize(label[None], list(size), InterpolationMode.NEAREST_EXACT)[0]
