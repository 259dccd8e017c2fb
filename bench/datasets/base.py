"""The base class of data sets: their classes, and which image belongs to which label; and how both are read."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from PIL import Image

from bench.errors import BenchError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")


class Pair(NamedTuple):
    """One image and its label map on disk."""

    image: Path
    label: Path


@dataclass(frozen=True)
class Classes:
    """The label set of a data set.

    Attributes:
        names: the scored classes; class i has label id i.
        palette: RGB colour of each scored class, 0..255.
        outputs: channels of the network's head; may exceed the scored classes (CamVid's void has one).
        ignore_index: label id left out of the loss and of every metric.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    outputs: int
    ignore_index: int


class Dataset(ABC):
    """A data set on disk.

    Attributes:
        name: the registered name.
        classes: the label set.
        native_size: (height, width) in pixels the network sees by default.
        crop_size: (height, width) of a training crop by default.
        headline_split: the split whose score is reported.
        label_ids: the id each class has in the label files, where that is not its number.
    """

    name: ClassVar[str]
    classes: ClassVar[Classes]
    native_size: ClassVar[tuple[int, int]]
    crop_size: ClassVar[tuple[int, int]]
    headline_split: ClassVar[str] = "test"
    label_ids: ClassVar[tuple[int, ...] | None] = None

    def __init__(self, root: Path):
        self.root = root

    @abstractmethod
    def pairs(self, split: str) -> list[Pair]:
        """The images of `train`, `val` or `test` with their labels, sorted by name.

        Raises:
            BenchError: missing folder (naming the layout expected), image without label, empty split.
        """

    @abstractmethod
    def decode_label(self, path: Path) -> np.ndarray:
        """Reads a label map as uint8 [H, W] of class ids and `ignore_index`.

        Raises:
            BenchError: unreadable file or an id that means nothing, naming the file.
        """


def open_image(path: Path) -> Image.Image:
    """Reads and decodes an image file.

    Raises:
        BenchError: missing, truncated or not an image.
    """
    with _naming(path), Image.open(path) as image:
        image.load()
        return image


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image in pixels, from its header.

    Raises:
        BenchError: missing or not an image.
    """
    with _naming(path), Image.open(path) as image:
        return image.height, image.width


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    # The PNG decoder reports broken chunks as SyntaxError or ValueError.
    except (OSError, SyntaxError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise BenchError(f"cannot read image {path}: {reason}; replace the file") from error


def read_image(path: Path) -> np.ndarray:
    """Reads an image as uint8 [H, W, 3], RGB.

    Raises:
        BenchError: missing, truncated or not an image.
    """
    return np.array(open_image(path).convert("RGB"))


def read_ids(path: Path) -> np.ndarray:
    """Reads a single-channel PNG as uint8 [H, W], grey value or palette index.

    Raises:
        BenchError: unreadable file, or one with colours or 16-bit values.
    """
    image = open_image(path)
    if image.mode not in ("L", "P"):
        raise BenchError(f"label {path} is not an 8-bit map of class ids (mode {image.mode}); convert it")
    return np.array(image)


def list_images(folder: Path) -> list[Path]:
    """The .png, .jpg and .jpeg files of a folder, sorted by name; hidden files are left out."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith(".")
    )
