"""Images and masks of the user's own, laid out in one of the usual ways and described by a `classes.yaml`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.datasets.base import Classes, Dataset, Pair
from bench.datasets.classes_file import drawn_shares, read_description, recorded
from bench.datasets.description import COLOURS, DRAWN, FILE, IDS, RECORD, Description, Shares
from bench.datasets.image_files import holds_colours
from bench.datasets.label_tables import decode_colours, decode_ids
from bench.datasets.layouts import UNDIVIDED, Layout, Listing, find_layout
from bench.errors import BenchError, UsageError
from bench.system.console import say

if TYPE_CHECKING:
    import numpy as np

    from bench.datasets.options import DataOptions


class Folder(Dataset):
    """Images and masks in a folder; see `bench.datasets.layouts`."""

    name = "folder"

    def __init__(self, root: Path, description: Description, split_seed: int | None = None):
        """Finds the files.

        Args:
            root: the folder.
            description: what is in it.
            split_seed: in place of the description's, where a split is drawn.

        Raises:
            UsageError: a seed for splits that need not be drawn.
            BenchError: no images with masks, or not one way alone to find them.
        """
        super().__init__(root)
        layout = find_layout(root, description.places)
        shares = replace(description.shares, seed=description.shares.seed if split_seed is None else split_seed)
        self._description = description = replace(description, shares=shares)
        self._splits, self._drawn = divided(root, layout, shares)
        if split_seed is not None and not self._drawn:
            raise UsageError(f"the splits of {root} are its own ({layout.said}), none is drawn; leave `split_seed` out")
        self.classes = description.classes
        self.native_size, self.crop_size = description.input_size, description.crop_size or description.input_size
        self.headline_split = "test" if "test" in self._splits else "val"
        self.label_ids = self._label_ids()
        self.normalization, self.augmentation = description.normalization, description.augmentation
        self.decoding = description.decoding
        self.record = {RECORD: {**description.record, **({DRAWN: self._drawn} if self._drawn else {})}}
        self.identity = {"classes_file": f"a description with digest {description.training}"}
        if self._drawn:
            self.identity["split_seed"] = shares.seed
        self._said = layout.said

    @classmethod
    def label_set(cls, root: Path, options: DataOptions, recorded: Mapping[str, Any]) -> Classes:
        return description_of(root, options, recorded).classes

    @classmethod
    def opened(cls, root: Path, options: DataOptions, recorded: Mapping[str, Any]) -> Folder:
        description, before = description_of(root, options, recorded), drawn_shares(recorded, "the checkpoint")
        if before and options.split_seed is None:
            # A network is not to be scored on what it was trained on, whatever has been written there since.
            description = replace(description, shares=before)
        found = cls(root, description, options.split_seed)
        say(str(found))
        return found

    def __str__(self) -> str:
        counts = ", ".join(f"{split} {len(listing.pairs)}" for split, listing in self._splits.items())
        seed = self._description.shares.seed
        drawn = f", {' and '.join(self._drawn)} drawn with seed {seed}" if self._drawn else ""
        return f"{self.root}: {self._said}; {counts}{drawn}; {len(self.classes.names)} classes"

    def pairs(self, split: str) -> list[Pair]:
        listing = self._splits.get(split)
        if listing is None:
            raise BenchError(
                f"{self.root.absolute()} has no {split} split: {self._said} holds {', '.join(self._splits)}"
            )
        if listing.lost:
            raise BenchError(f"there is no image {listing.lost[0]}, which {self._said} names; mend the list")
        if listing.without_mask:
            number = len(listing.without_mask)
            others = f" (nor have {number - 1} others)" if number > 1 else ""
            raise BenchError(
                f"image {listing.without_mask[0]} has no mask{others}; add it, or take the image out of {split}"
            )
        if not listing.pairs:
            raise BenchError(f"no images in the {split} split of {self.root.absolute()} ({self._said})")
        return listing.pairs

    def decode_label(self, path: Path) -> np.ndarray:
        described = self._description
        mend = f"which {described.where} does not know; give it a class there, or list it under ignore"
        if described.labels == COLOURS:
            return decode_colours(path, described.meanings, mend)
        # A colour that was not asked for by name says nothing of what an index means.
        shown = described.colours or ()
        colours = {colour: of_class[0] for colour, of_class in zip(shown, described.values, strict=bool(shown))}
        try:
            return decode_ids(path, described.meanings, colours, mend)
        except BenchError as error:
            if holds_colours(path):
                raise BenchError(
                    f"label {path} holds colours, {described.where} says that masks hold ids; write labels: colours"
                ) from error
            raise

    def written_split(self) -> list[dict[str, str]] | None:
        if not self._drawn:
            return None
        return [
            {"image": _place(pair.image, self.root), "mask": _place(pair.label, self.root), "split": split}
            for split, listing in self._splits.items()
            for pair in listing.pairs
        ]

    def _label_ids(self) -> tuple[int, ...] | None:
        firsts = tuple(of_class[0] for of_class in self._description.values)
        has_others = self._description.labels == IDS and firsts != tuple(range(len(firsts)))
        return firsts if has_others else None


def description_of(root: Path, options: DataOptions, content: Mapping[str, Any]) -> Description:
    """What is known of a folder: by the file that is asked for, else the folder's own, else a network's record.

    Raises:
        BenchError: none of them, or one that cannot be understood.
    """
    if options.classes_file is not None:
        return read_description(Path(options.classes_file))
    try:
        is_there = (root / FILE).is_file()
    except OSError as error:
        raise BenchError(f"{root}: {error.strerror}; pass the folder of the images as `data_root`") from error
    if is_there:
        return read_description(root / FILE)
    if described := recorded(content, f"the checkpoint's {FILE}"):
        return described
    if not root.is_dir():
        raise BenchError(f"there is no folder {root.absolute()}; pass the folder of your images as `data_root`")
    raise BenchError(
        f"{root.absolute()} has no {FILE}, which names the classes; python -m bench.datasets.scan {root} writes a draft"
    )


def divided(root: Path, layout: Layout, shares: Shares) -> tuple[dict[str, Listing], list[str]]:
    """The splits of a layout, and the names of those that had to be drawn.

    Where no split is said, val and test are drawn; where only val is missing, it is drawn from train.
    """
    splits = dict(layout.splits)
    wanted = {"val": shares.val, "test": shares.test}
    if UNDIVIDED in splits:
        source = splits.pop(UNDIVIDED)
    elif "train" in splits and "val" not in splits:
        source, wanted = splits.pop("train"), {"val": shares.val}
    else:
        return {split: splits[split] for split in ("train", "val", "test") if split in splits}, []
    wanted = {split: share for split, share in wanted.items() if share}
    rest = sorted(source.pairs, key=lambda pair: _lot(shares.seed, _place(pair.image, root)))
    total = len(rest)
    for split, share in wanted.items():
        count = max(1, round(share * total))
        splits[split] = Listing(sorted(rest[:count]))
        rest = rest[count:]
    splits["train"] = replace(source, pairs=sorted(rest))
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}, [*wanted]


def _lot(seed: int, name: str) -> bytes:
    """A place in the order images are drawn in: a function of name and seed, the same on every machine."""
    return hashlib.sha256(f"{seed} {name}".encode(errors="surrogateescape")).digest()


def _place(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
