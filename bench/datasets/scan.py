"""Looks through a folder of images and masks: which ids or colours there are, how many pixels of each, what is missing.

    python -m bench.datasets.scan DIR

prints the counts, and writes a draft of the `classes.yaml` that the data set `folder` needs.
"""

from __future__ import annotations

import runpy
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from bench.datasets.base import Pair, Size
from bench.datasets.class_weights import median_frequency
from bench.datasets.description import COLOURS, FILE, IDS, IGNORED, Description, Places, usual_colour
from bench.datasets.image_files import header_size, holds_colours, orientation, palette_of, read_colours, read_ids
from bench.datasets.label_tables import LARGEST_ID, UNKNOWN, Colour, Value, packed, unpacked
from bench.datasets.layouts import UNDIVIDED, Layout, find_layout
from bench.errors import BenchError, UsageError
from bench.system.console import progress

_VOID = (255, LARGEST_ID)
"""What is not scored, by convention: the largest id of 8 and of 16 bits."""

_STEP = 32
"""Sizes that networks halve several times are best multiples of it."""


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
        pixels, shown, ids.shape, f"{pair.image} is {_times(size)}, its mask {_times(ids.shape)}" * is_unequal
    )


# --- what is said and written


def drafted(scan: Scan, ignore: Sequence[int]) -> Description:
    """A description with a class for each id or colour but those that are ignored.

    Args:
        scan: what there is.
        ignore: ids, or colours as numbers in a row, that are not scored. Beside others than 0, the largest id of 8 and
            of 16 bits is one of them.

    Raises:
        UsageError: numbers that are no colours.
        BenchError: nothing but what is ignored.
    """
    ignored: list[Value] = list(ignore)
    if scan.labels == COLOURS:
        if len(ignore) % 3:
            raise UsageError(f"--ignore {','.join(map(str, ignore))} is no colour; write red,green,blue")
        ignored = [tuple(ignore[start : start + 3]) for start in range(0, len(ignore), 3)]
    else:
        # Beside 0 alone it may be the other class.
        usual = [value for value in _VOID if value in scan.pixels and not set(scan.pixels) <= {0, value}]
        ignored += [value for value in usual if value not in ignored]
    values = [value for value in scan.pixels if value not in ignored]
    if not values:
        raise BenchError(f"masks of {scan.root.absolute()} hold nothing but what is ignored; see to --ignore")
    if scan.labels == COLOURS:
        names, shown = ["class_" + "_".join(map(str, value)) for value in values], values
    else:
        names = [f"class_{value}" for value in values]
        given = [scan.palette[value][0] for value in values if value in scan.palette]
        shown = given if len(given) == len(values) else [usual_colour(n + 1) for n in range(len(values))]
    size = next(iter(scan.sizes)) if len(scan.sizes) == 1 else _usual_size(scan.sizes)
    return Description(
        FILE, tuple(names), tuple((v,) for v in values), scan.labels, tuple(ignored), tuple(shown), input_size=size
    )


def _usual_size(sizes: Mapping[Size, int]) -> Size:
    """The median height and width, as multiples of 32."""
    sides = np.repeat(np.array(list(sizes)), list(sizes.values()), axis=0)
    height, width = (max(_STEP, round(float(side) / _STEP) * _STEP) for side in np.median(sides, axis=0))
    return height, width


def draft_text(scan: Scan, draft: Description) -> str:
    """A `classes.yaml` with comments about what was counted."""
    whole, weights = sum(scan.pixels.values()), scan.weights(draft.values)
    lines = [
        f"# {scan.root.name}: {scan.layout.said}. A draft: give the classes their names; see docs/data.md.",
        "# Behind each class: its share of the pixels, and `weight:`, should the loss be weighted by median frequency.",
        "classes:",
    ]
    for number, entry in enumerate(draft.record["classes"]):
        (value,) = draft.values[number]
        entry = {**entry, "id": value} if draft.labels == IDS else {**entry, "colour": list(value)}
        text = yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=1000).strip()
        lines.append(f"  - {text}  # {scan.pixels[value] / whole:.2%}, weight: {weights[number]:.4g}")
    lines += [f"labels: {draft.labels}", f"ignore: {_listed(draft.ignore)}"]
    height, width = draft.input_size
    differ = "  # sizes differ; the median, as multiples of 32" if len(scan.sizes) > 1 else ""
    lines.append(f"input-size: [{height}, {width}]{differ}")
    if UNDIVIDED in scan.layout.splits or "val" not in scan.layout.splits:
        what = "val: 0.15, test: 0.15" if UNDIVIDED in scan.layout.splits else "val: 0.15"
        lines.append(f"split: {{{what}, seed: 0}}  # no split is said: drawn by these shares and this seed")
    return "\n".join(lines) + "\n"


def report(scan: Scan, known: Description, *, is_draft: bool) -> list[str]:
    """What was found, in lines for people.

    Args:
        scan: what there is.
        known: what it means.
        is_draft: whether that was made from the scan itself.
    """
    lines = [f"{scan.root}: {scan.layout.said}"]
    for split, listing in scan.layout.splits.items():
        lines.append(
            f"{split}: {len(listing.pairs)} images with masks, {len(listing.without_mask)} without"
            + (f" (first {listing.without_mask[0].name})" if listing.without_mask else "")
            + f", {len(listing.without_image)} masks without image"
            + (f" (first {listing.without_image[0].name})" if listing.without_image else "")
            + (f", {len(listing.lost)} images named that are not there ({listing.lost[0]})" if listing.lost else "")
        )
    sizes = sorted(scan.sizes.items(), key=lambda each: -each[1])
    shown = ", ".join(f"{_times(size)}: {number}" for size, number in sizes[:5])
    others = f" and {len(sizes) - 5} others" if len(sizes) > 5 else ""
    lines.append(f"sizes (height x width: masks): {shown}{others}")
    if scan.unequal:
        lines.append(f"of another size than their mask: {len(scan.unequal)} images, first {scan.unequal[0]}")
    if scan.contradictions:
        lines.append(
            f"palettes differ, so that either may be meant: index {scan.contradictions[0]}; if it is the colours, add "
            "--colours"
        )
    lines += _table(scan, known)
    unknown = [value for value in scan.pixels if value not in known.meanings]
    for value in unknown:
        lines.append(f"{value} is not in {known.where}: {scan.pixels[value]} pixels, first in {scan.first[value]}")
    absent = [name for name, values in zip(known.names, known.values, strict=True) if not scan.pixels.keys() & values]
    if absent and not is_draft:
        lines.append(f"in no mask: {', '.join(absent)}")
    return lines


def _table(scan: Scan, known: Description) -> list[str]:
    pixels, masks = scan.pixels, scan.masks_with
    whole, weights = sum(pixels.values()), scan.weights(known.values)
    rows = [("id" if scan.labels == IDS else "colour", "class", "pixels", "share", "images", "weight")]
    for value, number in pixels.items():
        meaning = known.meanings.get(value)
        is_class = meaning is not None and meaning != IGNORED
        name = known.names[meaning] if is_class else "(unknown)" if meaning is None else "(ignored)"
        weight = f"{weights[meaning]:.4g}" if is_class else "-"
        rows.append((str(value), name, str(number), f"{number / whole:.2%}", str(masks[value]), weight))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = []
    for row in rows:
        cells = [_cell(cell, width, column) for column, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    void = sum(number for value, number in pixels.items() if known.meanings.get(value) == IGNORED)
    return [*lines, f"void: {void} of {whole} pixels, {void / whole:.2%}"]


def _cell(text: str, width: int, column: int) -> str:
    # Names to the left, numbers to the right.
    return text.ljust(width) if column == 1 else text.rjust(width)


def _listed(values: Sequence[Value]) -> str:
    return str([list(value) if isinstance(value, tuple) else value for value in values])


def _times(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


if __name__ == "__main__":
    # The command line is floors above this room, which may import nothing from there.
    runpy.run_module("bench.commands.scan", run_name="__main__")
