"""What a program that has never heard of this project needs to know of a network: classes, colours, how images look."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.datasets import DATASETS, classes_of
from bench.datasets.base import IMAGENET, Normalization
from bench.datasets.description import usual_colour
from bench.datasets.options import DataOptions
from bench.datasets.recorded import normalization_of
from bench.errors import DamagedFile
from bench.models.checkpoint import SavedModel
from bench.torch_utils.network_form import form_of

FORMAT = "segmentation-pruning-bench-export/1"

KEY = "segmentation-pruning-bench"
"""Under which an ONNX file holds them, as JSON."""

SIZE = (96, 128)
"""(height, width) in pixels of a network whose file says none, as one that was never trained."""


@dataclass(frozen=True)
class Facts:
    """What is known of an exported network.

    Attributes:
        model: what it is called here.
        outputs: channels of its logits.
        classes: names of the scored classes, by output; outputs behind them are not scored. Empty where nobody said.
        colours: RGB of each output, 0..255.
        input_size: (height, width) in pixels that it was trained at.
        mean: what is taken from images of values in 0..1, red first.
        std: what they are divided by then.
        input_channels: of the images.
        dataset: what it was trained on, where that is known.
    """

    model: str
    outputs: int
    classes: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    input_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_channels: int = 3
    dataset: str | None = None

    @property
    def normalization(self) -> Normalization:
        """Mean and standard deviation of its images."""
        return Normalization(self.mean, self.std)

    def record(self) -> dict[str, Any]:
        """As plain data."""
        return {"format": FORMAT, **asdict(self)}

    def text(self) -> str:
        """As JSON in one line."""
        return json.dumps(self.record())

    @classmethod
    def of_text(cls, text: str, path: Path | str) -> Facts:
        """Reads back what `text` wrote.

        Args:
            text: JSON.
            path: the file it stood in, for messages.

        Raises:
            DamagedFile: it is something else, or of another version.
        """
        try:
            record = json.loads(text)
            found = record.pop("format")
            if found != FORMAT:
                raise DamagedFile(f"{path} has format '{found}'; this version reads '{FORMAT}'", path)
            return cls(**{key: _as_tuple(value) for key, value in record.items()})
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise DamagedFile(f"{path} is damaged: what it says of its network is of another form", path) from error


def facts_of(saved: SavedModel, path: Path | str, input_size: tuple[int, int] | None = None) -> Facts:
    """What is known of a network in a file.

    Args:
        saved: the network.
        path: its file, for messages.
        input_size: (height, width) of its images where that is not to be what the file says.

    Raises:
        BenchError: what the file says of its data is damaged.
    """
    outputs, meta = saved.spec.outputs, saved.meta
    recorded = meta.get("input_size")
    shown = normalization_of(meta, path)
    channels = form_of(saved.model).input_channels
    if channels != 3 and shown == IMAGENET:
        # Of other channels than red, green and blue nothing is known.
        shown = Normalization((0.0,) * channels, (1.0,) * channels)
    return Facts(
        saved.spec.name,
        outputs,
        tuple(meta.get("classes", ())),
        _colours(meta, outputs),
        input_size or (tuple(recorded) if recorded else form_of(saved.model).trace_size or SIZE),
        tuple(shown.mean),
        tuple(shown.std),
        channels,
        meta.get("dataset"),
    )


def _colours(meta: Mapping[str, Any], outputs: int) -> tuple[tuple[int, int, int], ...]:
    """The data set's colours as far as they go; behind them, and where there is no data set, those of PASCAL VOC."""
    name = meta.get("dataset")
    given = classes_of(DataOptions(dataset=name), meta).palette if name in DATASETS else ()
    # An output behind the scored classes is void, and black.
    usual = [(0, 0, 0) if given else usual_colour(number + 1) for number in range(len(given), outputs)]
    return (*(tuple(colour) for colour in given[:outputs]), *usual)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
