"""Common corruptions of images, at three severities: noise, blur, fog, brightness, contrast, JPEG.

After Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
2019: one of each of their kinds but weather, of which there is fog, by their formulas and with the constants of the
first, the third and the fifth of their five severities. They corrupt images as the network sees them, at 224x224; so it
is here, at whatever size that is, and lengths stay in pixels.

What is drawn depends on the corruption, its severity and the number of the image alone: every network sees the same.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SEVERITIES: dict[str, tuple[Any, ...]] = {
    "noise": (0.08, 0.18, 0.38),
    "blur": ((3, 0.1), (6, 0.5), (10, 0.5)),
    "fog": ((1.5, 2.0), (2.5, 1.7), (3.0, 1.4)),
    "brightness": (0.1, 0.3, 0.5),
    "contrast": (0.4, 0.2, 0.05),
    "jpeg": (25, 15, 7),
}
"""Corruption -> its constants, mildest first: deviation of Gaussian noise; radius of the disk and deviation of the
Gaussian that smooths its edge, in pixels; thickness of the fog and how much flatter each finer structure of it is;
addition to the value (HSV); share that is left of the distance from the mean colour; quality. Pixels are in 0..1."""


@dataclass(frozen=True)
class Corruption:
    """One corruption at one severity.

    Attributes:
        name: a key of `SEVERITIES`.
        severity: from 1.
    """

    name: str
    severity: int

    def __call__(self, image: Tensor, number: int) -> Tensor:
        """The corrupted image, uint8 [3, H, W].

        Args:
            image: uint8 [3, H, W], at the size that the network sees.
            number: of the image in its split, which is the seed of what is drawn.
        """
        constants = SEVERITIES[self.name][self.severity - 1]
        generator = np.random.default_rng([zlib.crc32(self.name.encode()), self.severity, number])
        if self.name == "jpeg":
            return compressed(image, constants)
        pixels = np.divide(image.numpy(), 255, dtype=np.float64)
        if self.name == "noise":
            pixels = pixels + generator.normal(scale=constants, size=pixels.shape)
        elif self.name == "blur":
            pixels = defocused(pixels, *constants)
        elif self.name == "fog":
            pixels = in_fog(pixels, *constants, generator)
        elif self.name == "brightness":
            pixels = brighter(pixels, constants)
        else:
            mean = pixels.mean(axis=(1, 2), keepdims=True)
            pixels = mean + constants * (pixels - mean)
        return torch.from_numpy(np.rint(255 * pixels.clip(0, 1)).astype(np.uint8))


def compressed(image: Tensor, quality: int) -> Tensor:
    """What JPEG leaves of an image, uint8 [3, H, W]."""
    packed = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(packed, "JPEG", quality=quality)
    with Image.open(packed) as opened:
        return torch.from_numpy(np.array(opened)).permute(2, 0, 1).contiguous()


def defocused(pixels: np.ndarray, radius: int, smoothing: float) -> np.ndarray:
    """An image out of focus: each point becomes a disk; the border goes on beyond the image.

    Args:
        pixels: [3, H, W].
        radius: of the disk, pixels.
        smoothing: deviation of the Gaussian over its edge, pixels.
    """
    kernel = disk(radius, smoothing)
    around = len(kernel) // 2
    padded = np.pad(pixels, ((0, 0), (around, around), (around, around)), "edge")
    size = padded.shape[1:]
    # By the Fourier transform, as hundreds of taps are slow; what it wraps around lies in the padding.
    convolved = np.fft.irfft2(np.fft.rfft2(padded) * np.fft.rfft2(kernel, size), size)
    return convolved[:, 2 * around :, 2 * around :]


def disk(radius: int, smoothing: float) -> np.ndarray:
    """A disk with a soft edge, whose sum is 1, float64 [side, side]; `defocused` says what the arguments are."""
    reach = np.arange(-radius - 2, radius + 3)
    flat = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(np.float64)
    taps = np.exp(-0.5 * (np.arange(-2, 3) / smoothing) ** 2)
    for _ in range(2):
        flat = np.stack([np.convolve(line, taps, "same") for line in flat.T])
    return flat / flat.sum()


def in_fog(pixels: np.ndarray, thickness: float, decay: float, generator: np.random.Generator) -> np.ndarray:
    """An image in fog that is thicker here and thinner there; the brightest point keeps its brightness.

    Args:
        pixels: [3, H, W].
        thickness: of the thickest fog, over the brightness of the image.
        decay: see `plasma`.
        generator: of the fog.
    """
    height, width = pixels.shape[1:]
    # A power of two that covers the image.
    side = 1 << (max(height, width, 2) - 1).bit_length()
    brightest = pixels.max()
    fog = thickness * plasma(side, decay, generator)[:height, :width]
    return (pixels + fog) * brightest / (brightest + thickness)


def plasma(side: int, decay: float, generator: np.random.Generator) -> np.ndarray:
    """A cloud by midpoint displacement (diamond-square; Fournier et al., CACM 1982), float64 [side, side] from 0 to 1.

    Opposite borders fit each other.

    Args:
        side: a power of two, at least 2.
        decay: structure of half the size is flatter by the square of this.
        generator: of the displacements.
    """
    heights, step, reach = np.zeros((side, side)), side, 1.0

    def displaced(total: np.ndarray) -> np.ndarray:
        return total / 4 + generator.uniform(-reach, reach, total.shape)

    while step >= 2:
        half, corners = step // 2, heights[::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=0)
        middles = displaced(pairs + np.roll(pairs, -1, axis=1))
        # The middle of an edge lies between its ends, and between the middles of the squares on both sides.
        across = displaced(middles + np.roll(middles, 1, axis=0) + corners + np.roll(corners, -1, axis=1))
        down = displaced(middles + np.roll(middles, 1, axis=1) + corners + np.roll(corners, -1, axis=0))
        heights[half::step, half::step] = middles
        heights[::step, half::step], heights[half::step, ::step] = across, down
        step, reach = half, reach / decay**2
    heights -= heights.min()
    return heights / heights.max()


def brighter(pixels: np.ndarray, amount: float) -> np.ndarray:
    """An image with another value in HSV, hue and saturation as they were; [3, H, W] in 0..1."""
    value = pixels.max(axis=0)
    wanted = np.minimum(value + amount, 1)
    # Black has no colour, and becomes grey.
    return np.where(value > 0, pixels * (wanted / np.where(value > 0, value, 1)), wanted)
