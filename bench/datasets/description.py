"""What a folder of images and masks is about, as its `classes.yaml` says: classes, ids or colours, sizes, how to train.

A network's file carries the same, so that it can be used where that file has gone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from bench.datasets.base import IMAGENET, Augmentation, Classes, Normalization, Size
from bench.datasets.label_tables import Colour, Value
from bench.system.files import digest, plain

FILE = "classes.yaml"
IGNORED = 255
IDS, COLOURS = "ids", "colours"

RECORD, DRAWN = "description", "drawn"
"""Keys of a network's file: what it says of its data, and in that which splits were drawn."""


@dataclass(frozen=True)
class Shares:
    """Of images that no split is said of: which share goes to val and to test, drawn with a seed."""

    val: float = 0.15
    test: float = 0.15
    seed: int = 0


@dataclass(frozen=True)
class Places:
    """Where images and masks lie, if the usual layouts do not say it; folders may hold `{split}`."""

    images: str | None = None
    masks: str | None = None
    image_suffix: str | None = None
    mask_suffix: str | None = None


@dataclass(frozen=True)
class Description:
    """A folder's data set.

    Attributes:
        where: the file it comes from, for messages.
        names: of the classes.
        values: of each class, the ids or the colours that mean it in the masks.
        labels: whether masks hold `IDS` or `COLOURS`.
        ignore: ids or colours that are not scored.
        colours: the colour each class is shown in, where that is said.
        weights: of each class in the loss, likewise.
        input_size: (height, width) the network sees by default.
        crop_size: (height, width) of a training crop by default.
        shares: of splits that are drawn.
        places: where the files are.
        normalization: of images.
        augmentation: of training images.
    """

    where: str
    names: tuple[str, ...]
    values: tuple[tuple[Value, ...], ...]
    labels: str = IDS
    ignore: tuple[Value, ...] = ()
    colours: tuple[Colour, ...] | None = None
    weights: tuple[float, ...] | None = None
    input_size: Size | None = None
    crop_size: Size | None = None
    shares: Shares = field(default_factory=Shares)
    places: Places = field(default_factory=Places)
    normalization: Normalization = IMAGENET
    augmentation: Augmentation = field(default_factory=Augmentation)

    @property
    def classes(self) -> Classes:
        """The label set: class i is output i; what is not scored is 255, whatever the masks hold."""
        colours = self.colours or tuple(usual_colour(number + 1) for number in range(len(self.names)))
        return Classes(self.names, colours, len(self.names), IGNORED, self.weights)

    @property
    def meanings(self) -> dict[Value, int]:
        """Id or colour -> number of the class, or 255."""
        found = dict.fromkeys(self.ignore, IGNORED)
        return found | {value: number for number, values in enumerate(self.values) for value in values}

    @property
    def record(self) -> dict[str, Any]:
        """All of it as plain data, as `classes.yaml` would hold it; `recorded` reads it."""
        classes: list[dict[str, Any]] = [{"name": name} for name in self.names]
        for number, entry in enumerate(classes):
            if self.labels == IDS:
                entry["id"] = self.values[number]
            if self.colours:
                entry["colour"] = self.values[number] if self.labels == COLOURS else self.colours[number]
            if self.weights:
                entry["weight"] = self.weights[number]
        sizes = {"input-size": self.input_size, "crop-size": self.crop_size}
        places = {key.replace("_", "-"): value for key, value in asdict(self.places).items()}
        said = {key: value for key, value in (sizes | places).items() if value is not None}
        groups = {"split": self.shares, "normalize": self.normalization, "augment": self.augmentation}
        return plain({"classes": classes, "labels": self.labels, "ignore": self.ignore, **said, **groups})

    @property
    def decoding(self) -> str:
        """Names what masks and images are read as."""
        return digest([self.labels, self.values, self.ignore, self.names, asdict(self.normalization)])

    @property
    def training(self) -> str:
        """Names all that decides what a network learns, beside the files."""
        return digest([self.decoding, self.weights, asdict(self.augmentation)])


def usual_colour(number: int) -> Colour:
    """Colour of a number in the palette of PASCAL VOC: its bits, three by three, from the highest bit down."""
    red = green = blue = 0
    for bit in range(8):
        red, green, blue = (
            channel | (number >> (3 * bit + place) & 1) << (7 - bit) for place, channel in enumerate((red, green, blue))
        )
    return red, green, blue
