"""The base class of data sets: their classes, and which image belongs to which label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np


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
