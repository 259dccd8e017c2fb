"""Tiny folders of images and masks in the usual layouts: stripes of classes, so that any network can learn them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bench.datasets.description import usual_colour

SIZES = ((24, 32), (32, 24), (40, 40))
NAMES = ("sky", "wall", "road", "car", "tree")


def numbers(seed: int, size: tuple[int, int], classes: int = 5) -> np.ndarray:
    """A map of class numbers, uint8 [H, W]; -1 as 255 along the upper edge."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(classes)
    found = order[np.arange(size[1]) * classes // size[1]]
    found = np.tile(found, (size[0], 1)).astype(np.uint8)
    found[0] = 255
    return found


def image_of(found: np.ndarray, seed: int) -> np.ndarray:
    """An image in which each class has its own brightness, and noise, uint8 [H, W, 3]."""
    noise = np.random.default_rng(seed).integers(0, 20, (*found.shape, 3))
    return (np.minimum(found, 5)[..., None] * 40 + noise).clip(0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, palette: Sequence[int] | None = None) -> Path:
    """Writes a file, with folders where they are missing; a palette makes it one of indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(list(palette))
    image.save(path)
    return path


def voc_palette() -> list[int]:
    """Of PASCAL VOC: 256 colours, index 255 being void."""
    return [part for number in range(255) for part in usual_colour(number)] + [224, 224, 192]


def voc_set(root: Path, train: int = 6, val: int = 3) -> Path:
    """PASCAL VOC's layout: masks with a palette, three sizes in turn, no test split."""
    for number in range(train + val):
        found = numbers(number, SIZES[number % 3])
        save(root / "JPEGImages" / f"photo {number}.JPG", image_of(found, number))
        save(root / "SegmentationClass" / f"photo {number}.png", found, voc_palette())
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, range_of in (("train", range(train)), ("val", range(train, train + val))):
        (lists / f"{split}.txt").write_text("".join(f"photo {number}\n" for number in range_of))
    return root


def deep_set(root: Path, images: int = 10) -> Path:
    """Two folders and no split; masks of 16 bits whose ids are 1000, 2000, ...; 65535 is void."""
    for number in range(images):
        found = numbers(number, SIZES[0], classes=3)
        ids = (found.astype(np.uint16) + 1) * 1000
        ids[found == 255] = 65535
        save(root / "images" / f"{number}.png", image_of(found, number))
        save(root / "masks" / f"{number}_mask.png", ids)
    return root


def colour_set(root: Path, each: int = 4) -> Path:
    """Folders of splits; masks in RGB, in which black is void."""
    for split in ("train", "val", "test"):
        for number in range(each):
            found = numbers(number, SIZES[0], classes=3)
            colours = np.array([(200, 0, 0), (0, 200, 0), (10, 20, 30)], np.uint8)[np.minimum(found, 2)]
            colours[found == 255] = 0
            save(root / "images" / split / f"{split}{number}.png", image_of(found, number))
            save(root / "masks" / split / f"{split}{number}.PNG", colours)
    return root
