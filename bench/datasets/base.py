"""The base class of data sets: their classes, and which image belongs to which label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from bench.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from bench.datasets.options import DataOptions

Size = tuple[int, int]


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
        weights: of each output in the loss, where the data set says so.
    """

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    outputs: int
    ignore_index: int
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Normalization:
    """What becomes zero and one: mean and standard deviation of each channel, red first, of values in 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of ImageNet's images, and so of all networks that begin with its weights."""


@dataclass(frozen=True)
class Augmentation:
    """How much training images are changed.

    Attributes:
        scales: smallest and largest factor of the size.
        jitter: brightness, contrast and saturation are each multiplied by 1 - jitter to 1 + jitter.
        flip: whether half of the images are mirrored, left to right.
    """

    scales: tuple[float, float] = (0.5, 2.0)
    jitter: float = 0.3
    flip: bool = True


class Dataset(ABC):
    """A data set on disk; where all of a kind are alike, its class says how they are.

    Attributes:
        name: the registered name.
        classes: the label set.
        native_size: (height, width) in pixels the network sees by default; None where nothing says it.
        crop_size: (height, width) of a training crop by default.
        headline_split: the split whose score is reported.
        label_ids: the id each class has in the label files, where that is not its number.
        normalization: of images.
        augmentation: of training images.
        record: what a network that is trained on it says of it beside its name and classes, as plain data.
        identity: what else than files decides the numbers of a training, by the option that sets it.
        decoding: a text that differs where the same files would be read as something else.
    """

    name: ClassVar[str]
    classes: Classes
    native_size: Size | None
    crop_size: Size | None
    headline_split: str = "test"
    label_ids: tuple[int, ...] | None = None
    normalization: Normalization = IMAGENET
    augmentation: Augmentation = Augmentation()
    record: Mapping[str, Any] = MappingProxyType({})
    identity: Mapping[str, Any] = MappingProxyType({})
    decoding: str = ""

    def __init__(self, root: Path):
        self.root = root

    @classmethod
    def label_set(cls, root: Path, options: DataOptions, recorded: Mapping[str, Any]) -> Classes:
        """The classes that `opened` would give, known before any file is looked for."""
        return cls.classes

    @classmethod
    def opened(cls, root: Path, options: DataOptions, recorded: Mapping[str, Any]) -> Dataset:
        """Opens a data set.

        Args:
            root: its folder.
            options: what was asked for.
            recorded: what a network that was trained on it says of it: its `record`, or nothing.

        Raises:
            UsageError: an option that this data set does not have.
            BenchError: missing or foreign files.
        """
        for option in ("classes_file", "split_seed"):
            if getattr(options, option) is not None:
                raise UsageError(
                    f"{cls.name} has classes and splits of its own; leave `{option}` out, or pass `dataset=folder`"
                )
        return cls(root)

    def written_split(self) -> list[dict[str, str]] | None:
        """The images and labels of all splits, a row each, where the splits were drawn; else None."""
        return None

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
