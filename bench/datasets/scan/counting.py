"""What masks hold: the pixels of each id or colour, their sizes, and the files that have no partner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.config.values import size_text
from bench.datasets.base import Pair, Size
from bench.datasets.class_weights import median_frequency
from bench.datasets.description import COLOURS, IDS, Places
from bench.datasets.image_files import header_size, holds_colours, orientation, palette_of, read_colours, read_ids
from bench.datasets.label_tables import LARGEST_ID, UNKNOWN, Colour, Value, packed, unpacked
from bench.datasets.layouts import Layout, find_layout
from bench.errors import BenchError
from bench.system.console import progress


@dataclass(frozen=True)
class Scan:
    """What is in a folder.

    Attributes:
        root: the folder.
        layout: where its files are.
        labels: whether masks hold ids or colours.
        counts: of each mask, by its split, the pixels of each id or colour.
        first: the first mask that has an id or a colour.
        sizes: (height, width) of masks -> how many there are.
        unequal: images whose size is not that of their mask.
        palette: colour of each index that is used, where masks have a palette, and the first mask that shows it.
        contradictions: indices that masks show in different colours.
    """

    root: Path
    layout: Layout
    labels: str
    counts: Mapping[str, Sequence[Mapping[Value, int]]]
    first: Mapping[Value, Path]
    sizes: Mapping[Size, int]
    unequal: Sequence[str]
    palette: Mapping[Value, tuple[Colour, Path]]
    contradictions: Sequence[str]

    @property
    def pixels(self) -> dict[Value, int]:
        """Pixels of each id or colour, in their order."""
        total: Counter[Value] = Counter()
        for of_mask in self._masks:
            total.update(of_mask)
        return dict(sorted(total.items()))

    @property
    def masks_with(self) -> dict[Value, int]:
        """In how many masks each id or colour is."""
        return dict(Counter(value for of_mask in self._masks for value in of_mask))

    @property
    def _masks(self) -> list[Mapping[Value, int]]:
        return [of_mask for masks in self.counts.values() for of_mask in masks]

    def weights(self, classes: Sequence[Sequence[Value]]) -> list[float]:
        """Median-frequency weight of each class, given by its ids or colours; of the training masks, else of all."""
        masks = self.counts.get("train") or self._masks
        table = np.array([[sum(mask.get(value, 0) for value in of_class) for of_class in classes] for mask in masks])
        return median_frequency(table).tolist()


class _Counted(NamedTuple):
    pixels: dict[Value, int]
    shown: dict[Value, Colour]
    size: Size
    unequal: str


def scan_folder(root: Path, places: Places, labels: str | None = None) -> Scan:
    """Reads every mask of a folder, and the header of every image.

    Args:
        root: the folder; nothing is written there.
        places: where its files are, if that is known.
        labels: whether masks are read as ids or as colours, those of palettes too; by default as they are stored.

    Raises:
        BenchError: no images with masks, masks of which some hold ids and some colours, or a file that cannot be read.
    """
    layout = find_layout(root, places)
    pairs = [(split, pair) for split, listing in layout.splits.items() for pair in listing.pairs]
    if not pairs:
        raise BenchError(f"{root.absolute()}: no image has a mask ({layout.said}); see to the names of the files")
    labels = labels or _kind_of([pair.label for _, pair in pairs])
    with ThreadPoolExecutor(4) as pool:
        work = pool.map(lambda each: _counted(each[1], labels), pairs)
        found = list(progress(work, "counting the pixels of masks", total=len(pairs)))
    counts: dict[str, list[dict[Value, int]]] = {split: [] for split in layout.splits}
    first: dict[Value, Path] = {}
    palette: dict[Value, tuple[Colour, Path]] = {}
    contradictions = []
    for (split, pair), counted in zip(pairs, found, strict=True):
        counts[split].append(counted.pixels)
        for value in counted.pixels:
            first.setdefault(value, pair.label)
        for value, colour in counted.shown.items():
            usual, where = palette.setdefault(value, (colour, pair.label))
            if usual != colour:
                contradictions.append(f"{value} is {usual} in {where} and {colour} in {pair.label}")
    if len(first) > UNKNOWN:
        raise BenchError(
            f"{root.absolute()}: masks hold {len(first)} different {labels}, too many for classes; are these maps of "
            "instances, depths or photographs? name the right folder in a classes.yaml (images: X, masks: Y)"
        )
    return Scan(
        root,
        layout,
        labels,
        counts,
        first,
        Counter(counted.size for counted in found),
        [counted.unequal for counted in found if counted.unequal],
        palette,
        contradictions,
    )


def _kind_of(labels: Sequence[Path]) -> str:
    with ThreadPoolExecutor(4) as pool:
        kinds = list(pool.map(holds_colours, labels))
    if len(set(kinds)) > 1:
        raise BenchError(
            f"{labels[kinds.index(True)]} holds colours, {labels[kinds.index(False)]} ids; turn all masks into one "
            "kind, or pass `colours` if those of palettes are meant"
        )
    return COLOURS if kinds[0] else IDS


def _counted(pair: Pair, labels: str) -> _Counted:
    shown: dict[Value, Colour] = {}
    if labels == IDS:
        ids, palette = read_ids(pair.label, largest=LARGEST_ID), palette_of(pair.label)
        bins = np.bincount(ids.ravel())
        pixels: dict[Value, int] = {int(value): int(bins[value]) for value in np.flatnonzero(bins)}
        shown = {value: palette[value] for value in pixels if value < len(palette)}
    else:
        ids = packed(read_colours(pair.label))
        codes, numbers = np.unique(ids, return_counts=True)
        pixels = {unpacked(code): int(number) for code, number in zip(codes, numbers, strict=True)}
    size = header_size(pair.image)
    if size != ids.shape and orientation(pair.image) in (5, 6, 7, 8):
        size = size[::-1]
    is_unequal = size != ids.shape
    return _Counted(
        pixels, shown, ids.shape, f"{pair.image} is {size_text(size)}, its mask {size_text(ids.shape)}" * is_unequal
    )
