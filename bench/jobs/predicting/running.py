"""Predicts images one batch after the other as scoring does, and writes what came out."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.datasets.transforms import network_input
from bench.errors import BenchError
from bench.jobs.predicting.frames import Frame, Source, ahead, frames_of
from bench.jobs.predicting.networks import Network
from bench.measure.evaluation import predictions
from bench.measure.inference import Scoring
from bench.report.label_pictures import contact_sheet, overlaid, thumbnail, write_ids
from bench.system.console import say
from bench.system.files import make_folder, whole_file, write_csv
from bench.torch_utils.batches import Batch

LABELS, OVERLAYS, SHEET, LEGEND = "labels", "overlays", "contact_sheet.png", "classes.csv"
"""What a folder of predictions holds."""

_ON_SHEET, _QUALITY = 12, 90


@dataclass
class Predicted:
    """What came of a run.

    Attributes:
        images: how many were predicted.
        unread: why others could not be read.
        seconds: all it took, with reading and writing.
        waiting: of these, in which the next images were not ready yet.
        computing: in which the network computed.
    """

    images: int = 0
    unread: list[BenchError] = field(default_factory=list)
    seconds: float = 0.0
    waiting: float = 0.0
    computing: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.images} images in {self.seconds:.1f} s: {self.images / self.seconds:.1f} frames a second with "
            f"reading and writing, {self.images / self.computing:.1f} in the network"
        )


def predict_images(
    network: Network,
    sources: Sequence[Source],
    folder: Path,
    *,
    device: torch.device,
    scoring: Scoring,
    batch_size: int,
) -> Predicted:
    """Writes the label map and an overlay of each image, then a contact sheet and the classes' names and colours.

    Label maps are as large as their image, and what `bench.measure.evaluation` scores on the same images. An image
    that cannot be read is told and left out. What is finished when something else goes wrong stays.

    Args:
        network: on the device.
        sources: the images.
        folder: where to; subfolders are those of the images' names.
        device: where the network computes.
        scoring: how often and how large the network sees an image.
        batch_size: images a pass, as far as they are of one size.

    Raises:
        BenchError: no image can be read, the network's output is not finite, or a file cannot be written.
    """
    _check_places(sources, folder)
    make_folder(folder)
    found, start = Predicted(), time.perf_counter()
    total = sum(source.count for source in sources)
    batches = _Batches(network, sources, total, batch_size, found)
    wanted = set(np.linspace(0, total - 1, min(_ON_SHEET, total)).round().astype(int).tolist())
    tiles: list[tuple[str, Image.Image, Image.Image]] = []
    counts = np.zeros(network.classes.outputs, np.int64)
    settings = {"device": device, "scoring": scoring, "label": "predicting"}
    for frames, maps in _timed(predictions(network.model, batches, **settings), batches, found):
        for frame, ids in zip(frames, maps, strict=True):
            covered = overlaid(frame.pixels, ids, network.classes)
            _write(folder, frame.name, ids, covered, network)
            counts = counts + np.bincount(ids.ravel(), minlength=len(counts))
            if found.images in wanted:
                tiles.append((frame.name, thumbnail(frame.pixels), thumbnail(covered)))
            found.images += 1
    if not found.images:
        raise found.unread[0]
    present = sorted({min(int(number), len(network.classes.names)) for number in counts.nonzero()[0]})
    contact_sheet(folder / SHEET, tiles, present, network.classes)
    _write_legend(folder / LEGEND, counts, network)
    found.seconds = time.perf_counter() - start
    return found


class _Batches:
    """Batches of images of one size, as scoring has them; and the frames of those that the network has seen."""

    def __init__(self, network: Network, sources: Sequence[Source], total: int, size: int, found: Predicted):
        self._network, self._sources, self._total, self._size, self._found = network, sources, total, size, found
        self.seen: deque[list[Frame]] = deque()

    def __len__(self) -> int:
        # More, where images of several sizes follow each other.
        return -(-self._total // self._size)

    def __iter__(self) -> Iterator[Batch]:
        start = time.perf_counter()
        for frames, images in ahead(self._made(), 2):
            height, width = frames[0].pixels.shape[:2]
            self.seen.append(frames)
            self._found.waiting += time.perf_counter() - start
            # There are no labels; predictions are as large as these.
            yield images, torch.zeros(1, dtype=torch.int64).expand(len(frames), height, width)
            start = time.perf_counter()

    def _made(self) -> Iterator[tuple[list[Frame], Tensor]]:
        for _, group in itertools.groupby(self._read(), key=lambda frame: frame.pixels.shape):
            while frames := list(itertools.islice(group, self._size)):
                yield frames, torch.stack([self._shown(frame.pixels) for frame in frames])

    def _read(self) -> Iterator[Frame]:
        for frame in frames_of(self._sources):
            if isinstance(frame.pixels, BenchError):
                self._found.unread.append(frame.pixels)
                say(f"left out: {frame.pixels}")
            else:
                yield frame

    def _shown(self, pixels: np.ndarray) -> Tensor:
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        return network_input(image, self._network.input_size or pixels.shape[:2], self._network.normalization)


def _timed(maps: Iterator[Batch], batches: _Batches, found: Predicted) -> Iterator[tuple[list[Frame], np.ndarray]]:
    """Yields the frames of each batch and their label maps [N, H, W]; counts how long the network takes."""
    while True:
        start, waited = time.perf_counter(), found.waiting
        chosen = next(maps, None)
        ids = None if chosen is None else chosen[0].cpu().numpy()
        found.computing += time.perf_counter() - start - (found.waiting - waited)
        if ids is None:
            return
        yield batches.seen.popleft(), ids


def _check_places(sources: Sequence[Source], folder: Path) -> None:
    """Raises BenchError where results would lie among the images they are made of."""
    for source in sources:
        for inner in (LABELS, OVERLAYS):
            if (folder / inner).resolve() in source.path.resolve().parents:
                raise BenchError(f"{source.path} lies where results go ({folder / inner}); choose another `save`")


def _write(folder: Path, name: str, ids: np.ndarray, covered: np.ndarray, network: Network) -> None:
    # Two bytes a pixel where one does not hold the number of the last output.
    is_wide = network.classes.outputs > 256
    for inner, ending in ((LABELS, ".png"), (OVERLAYS, ".jpg")):
        path = folder / inner / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if inner == LABELS:
            write_ids(path, ids.astype(np.uint16) if is_wide else ids, None if is_wide else network.classes)
            continue
        with whole_file(path) as temporary:
            Image.fromarray(covered).save(temporary, format="JPEG", quality=_QUALITY)


def _write_legend(path: Path, counts: np.ndarray, network: Network) -> None:
    classes, rows = network.classes, []
    for number, pixels in enumerate(counts.tolist()):
        is_class = number < len(classes.names)
        row = {"id": number, "class": classes.names[number] if is_class else "not scored", "pixels": pixels}
        colour = classes.palette[number] if is_class else (0, 0, 0)
        rows.append({**row, **dict(zip(("red", "green", "blue"), colour, strict=True))})
    write_csv(path, ["id", "class", "red", "green", "blue", "pixels"], rows)
