"""Where the images and masks of a folder are: the usual layouts, found by the names of their folders.

    images/{train,val,test}/  masks/{train,val,test}/     also labels, annotations, img_dir and ann_dir, ...; ADE20K's
    {train,val,test}/images/  {train,val,test}/masks/     training and validation; folders within a split (Cityscapes)
    {train,val,test}/         {train,val,test}annot/      CamVid's
    JPEGImages/               SegmentationClass/          with ImageSets/Segmentation/{train,val,test}.txt, PASCAL VOC's
    images/                   masks/                      of which no split is said
    pairs.csv, or {train,val,test}.txt                    an image and its mask a line

Nothing is guessed: where two readings are possible, both are named.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from bench.datasets.base import Pair
from bench.datasets.description import FILE, Places
from bench.datasets.image_files import MASK_ENDINGS, images_below
from bench.errors import BenchError

UNDIVIDED = "all"
"""The one split of a layout that says of none."""

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test", "testing"),
}
IMAGES = ("images", "image", "imgs", "img", "img_dir", "jpegimages", "leftimg8bit", "inputs")
MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "ann_dir", "segmentationclass",
         "segmentationclassaug", "gtfine", "gt", "segmentations", "targets")  # fmt: skip
BESIDE_A_SPLIT = ("annot", "_annot", "_labels", "labels", "_masks", "masks")
IMAGE_SUFFIXES = ("", "_leftImg8bit", "_image", "_img")
MASK_SUFFIXES = ("", "_gtFine_labelIds", "_labelIds", "_mask", "_label", "_labels", "_L", "_gt", "_seg")
LISTS = (Path("ImageSets", "Segmentation"), Path("splits"), Path())
"""Folders of lists that say which image is of which split."""

_COLUMNS = {
    "image": ("image", "images", "img"),
    "mask": ("mask", "masks", "label", "labels", "annotation"),
    "split": ("split",),
}


@dataclass(frozen=True)
class Listing:
    """The files of one split.

    Attributes:
        pairs: images with their masks, sorted by name.
        without_mask: images that have none.
        without_image: masks that have none.
        lost: images that a list names and that are not there.
    """

    pairs: list[Pair]
    without_mask: list[Path] = field(default_factory=list)
    without_image: list[Path] = field(default_factory=list)
    lost: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """How a folder is laid out.

    Attributes:
        said: in a few words, such as "images/{train,val} with masks/{train,val}".
        splits: name -> its files; `UNDIVIDED` alone where no split is said.
    """

    said: str
    splits: Mapping[str, Listing]


def find_layout(root: Path, places: Places) -> Layout:
    """Looks for images and masks in a folder.

    Args:
        root: the folder.
        places: where they are, if the description says so.

    Raises:
        BenchError: no folder, no layout that is known, or two that are.
    """
    try:
        if not root.is_dir():
            raise BenchError(f"there is no folder {root.absolute()}; pass the folder of the images as `data_root`")
    except OSError as error:
        raise BenchError(f"{root}: {error.strerror}; pass the folder of the images as `data_root`") from error
    finder = _Finder(root, places)
    layout = finder.by_places() or finder.by_lists_of_pairs() or finder.by_folders()
    if layout is None:
        raise BenchError(
            f"no images with masks found in {root.absolute()}: expected images/ beside masks/ (or labels/, "
            "annotations/, ...), each with train/ and val/ or without, train/images/ beside train/masks/, train/ "
            f"beside trainannot/, VOC's folders, or pairs.csv; or name the folders in {FILE} (images: X, masks: Y)"
        )
    return layout


class _Finder:
    def __init__(self, root: Path, places: Places):
        self._root, self._places = root, places
        self._folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))

    # --- each way gives a layout, or None

    def by_places(self) -> Layout | None:
        """As the description says."""
        if not self._places.images or not self._places.masks:
            return None
        images, masks = self._places.images, self._places.masks
        for text in (images, masks):
            if "{split}" not in text and not (self._root / text).is_dir():
                self._refuse(f"there is no folder {text}, which {FILE} names")
        if "{split}" not in images:
            return self._in_two(self._root / images, self._root / masks)
        found = {
            split: (self._root / images.replace("{split}", spelling), self._root / masks.replace("{split}", spelling))
            for split, spellings in SPLITS.items()
            for spelling in spellings
            if (self._root / images.replace("{split}", spelling)).is_dir()
        }
        if not found:
            self._refuse(f"there is no folder {images} for any split, which {FILE} names")
        return self._layout(f"{images} with {masks}", found)

    def by_lists_of_pairs(self) -> Layout | None:
        """`pairs.csv`, or a list a split with an image and a mask in each line."""
        files = [path for ending in ("csv", "tsv", "txt") if (path := self._root / f"pairs.{ending}").is_file()]
        if len(files) > 1:
            self._refuse(f"both {files[0].name} and {files[1].name} list pairs; remove one of them")
        lists = self._split_lists(self._root, ("csv", "tsv", "txt"))
        if files:
            rows = list(self._rows(files[0]))
        else:
            lists = {split: path for split, path in lists.items() if self._lists_pairs(path)}
            rows = [(pair, split) for split, path in lists.items() for pair, _ in self._rows(path)]
        if not rows:
            return None
        found: dict[str, list[Pair]] = {}
        for pair, split in rows:
            found.setdefault(split or UNDIVIDED, []).append(pair)
        if UNDIVIDED in found and len(found) > 1:
            self._refuse(f"{files[0].name} names the split of some pairs only; name it in every line, or in none")
        said = files[0].name if files else ", ".join(path.name for path in lists.values())
        return Layout(said, {split: self._checked(pairs) for split, pairs in found.items()})

    def by_folders(self) -> Layout | None:
        """Two folders, two folders in each split, or two for each split."""
        images, masks = self._one_of(self._folders, IMAGES), self._one_of(self._folders, MASKS)
        if images and masks:
            return self._in_two(images, masks)
        splits = self._splits_in(self._root)
        inside, beside = {}, {}
        for split, folder in splits.items():
            children = [path for path in folder.iterdir() if path.is_dir()]
            pair = self._one_of(children, IMAGES), self._one_of(children, MASKS)
            if all(pair):
                inside[split] = pair
            names = {path.name.lower(): path for path in self._folders}
            found = [names[name] for ending in BESIDE_A_SPLIT if (name := f"{folder.name}{ending}".lower()) in names]
            if len(found) > 1:
                self._refuse_choice("masks", found)
            if found:
                beside[split] = folder, found[0]
        chosen = inside or beside
        return self._layout(self._said(chosen, [splits[name].name for name in chosen]), chosen) if chosen else None

    # --- what they are made of

    def _in_two(self, images: Path, masks: Path) -> Layout:
        """One folder of images and one of masks, each with folders of splits, or with lists, or neither."""
        of_images, of_masks = self._splits_in(images), self._splits_in(masks)
        if of_images:
            # A split without masks, such as a test split whose labels are not public, is none that can be used.
            found = {split: (of_images[split], of_masks[split]) for split in of_images if split in of_masks}
            if not found:
                self._refuse(f"{self._name(masks)}/ has no folder for {' or '.join(of_images)}, as {images.name}/ has")
            said = self._said(found, [of_images[split].name for split in found])
            without = [split for split in of_images if split not in found]
            return self._layout(said + f"; {' and '.join(without)} without masks, left out" * bool(without), found)
        said, whole = f"{self._name(images)}/ with {self._name(masks)}/", self._listing(images, masks)
        for folder in LISTS:
            lists = self._split_lists(self._root / folder, ("txt",))
            if lists:
                return self._listed(f"{said} by the lists in {folder.as_posix()}/", images, whole, lists)
        return Layout(said, {UNDIVIDED: whole})

    def _listed(self, said: str, images: Path, whole: Listing, lists: Mapping[str, Path]) -> Layout:
        """Splits by lists of names."""
        places = {self._key(pair.image, images): pair for pair in whole.pairs}
        lonely = {self._key(path, images): path for path in whole.without_mask}
        splits = {}
        for split, path in lists.items():
            names = [name for line in self._lines(path) if (name := line.strip())]
            keys = [name if name in places or name in lonely else str(Path(name).with_suffix("")) for name in names]
            missing = next((name for name in keys if name not in places and name not in lonely), None)
            if missing is not None:
                self._refuse(f"{path} names {missing}, of which there is no image in {images}")
            pairs = sorted(places[key] for key in dict.fromkeys(keys) if key in places)
            splits[split] = Listing(pairs, [lonely[key] for key in keys if key in lonely])
        return Layout(said, splits)

    def _layout(self, said: str, folders: Mapping[str, tuple[Path, Path]]) -> Layout:
        return Layout(said, {split: self._listing(*pair) for split, pair in folders.items()})

    def _listing(self, images: Path, masks: Path) -> Listing:
        """Matches images and masks by their places in the two folders and their names, but for known suffixes."""
        if not masks.is_dir():
            self._refuse(f"there is no folder {masks} for the masks of {images}")
        given = self._places
        image_suffixes = IMAGE_SUFFIXES if given.image_suffix is None else (given.image_suffix,)
        mask_suffixes = MASK_SUFFIXES if given.mask_suffix is None else (given.mask_suffix,)
        of_masks = {self._key(path, masks): path for path in images_below(masks, MASK_ENDINGS)}
        pairs, lonely, bases = [], [], set()
        for image in images_below(images):
            key = self._key(image, images)
            stems = {key[: len(key) - len(suffix)] for suffix in image_suffixes if key.endswith(suffix)}
            if given.image_suffix and not stems:
                continue
            bases |= stems
            names = {stem + suffix for stem in stems for suffix in mask_suffixes}
            found = sorted(of_masks[name] for name in names if name in of_masks)
            if len(found) > 1:
                self._refuse(
                    f"image {image} has two masks, {found[0].name} and {found[1].name}; write mask-suffix: in {FILE}"
                )
            if found:
                pairs.append(Pair(image, found[0]))
            else:
                lonely.append(image)
        used = {pair.label for pair in pairs}
        # Where both lie in one folder.
        lonely = [path for path in lonely if path not in used]
        # What is called like an image and some more is another kind of mask of it, such as Cityscapes' instances.
        others = [path for key, path in of_masks.items() if path not in used and not _continues(key, bases)]
        return Listing(pairs, lonely, others)

    def _checked(self, pairs: Iterable[Pair]) -> Listing:
        pairs = sorted(set(pairs))
        there = [pair for pair in pairs if pair.image.is_file()]
        whole = [pair for pair in there if pair.label.is_file()]
        lonely = [pair.image for pair in there if not pair.label.is_file()]
        return Listing(whole, lonely, lost=[pair.image for pair in pairs if not pair.image.is_file()])

    def _splits_in(self, folder: Path) -> dict[str, Path]:
        """Split -> its folder, whatever it is spelt like; the number of a year may follow, as in `train2017`."""
        folders = sorted(path for path in folder.iterdir() if path.is_dir())
        found = {}
        for split, spellings in SPLITS.items():
            of_split = [path for path in folders if re.sub(r"[-_]?\d+$", "", path.name.lower()) in spellings]
            if len(of_split) > 1:
                self._refuse(f"both {of_split[0]} and {of_split[1]} may be the {split} split; remove or rename one")
            if of_split:
                found[split] = of_split[0]
        return found

    def _split_lists(self, folder: Path, endings: Iterable[str]) -> dict[str, Path]:
        """Split -> the list that names its images."""
        found = {}
        for split, spellings in SPLITS.items():
            names = [f"{name}.{ending}" for name in spellings for ending in endings]
            files = [path for name in names if (path := folder / name).is_file()]
            if len(files) > 1:
                self._refuse(f"both {files[0]} and {files[1]} may list the {split} split; remove or rename one")
            if files:
                found[split] = files[0]
        return found

    def _one_of(self, folders: Iterable[Path], names: tuple[str, ...]) -> Path | None:
        """The one folder of some names that holds images."""
        found = [path for path in folders if path.name.lower() in names and _holds_images(path)]
        if len(found) > 1:
            self._refuse_choice("images" if names is IMAGES else "masks", found)
        return found[0] if found else None

    def _lists_pairs(self, path: Path) -> bool:
        """Whether the first line that is not empty names two files, and not one whose name has a space in it."""
        first = next((line for line in self._lines(path) if line.strip()), "")
        cells = _cells(first)
        return len(cells) > 1 and (
            "," in first or "\t" in first or any((self._root / cell).is_file() for cell in cells)
        )

    def _rows(self, path: Path) -> Iterator[tuple[Pair, str | None]]:
        """The pairs of a list, each with its split where that is named."""
        columns = {"image": 0, "mask": 1, "split": 2}
        for number, line in enumerate(self._lines(path), start=1):
            cells = _cells(line)
            if number == 1 and (header := _header(cells)):
                columns = header
                continue
            if not any(cells):
                continue
            if len(cells) < max(columns["image"], columns["mask"]) + 1 or len(cells) > max(3, len(columns)):
                self._refuse(f"line {number} of {path.name} is not an image and its mask, apart by a comma or a tab")
            word = cells[columns["split"]].lower() if columns.get("split", 99) < len(cells) else ""
            split = next((name for name, spellings in SPLITS.items() if word in spellings), None)
            if word and split is None:
                self._refuse(f"line {number} of {path.name} names the split '{word}'; write train, val or test")
            yield Pair(self._root / cells[columns["image"]], self._root / cells[columns["mask"]]), split

    def _lines(self, path: Path) -> list[str]:
        try:
            return path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise BenchError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}") from error

    def _key(self, path: Path, folder: Path) -> str:
        return path.relative_to(folder).with_suffix("").as_posix()

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self._root).as_posix()

    def _said(self, folders: Mapping[str, tuple[Path, Path]], spellings: list[str]) -> str:
        """The two folders of the first split, with what stands in place of its name in the others."""
        every = f"{{{','.join(spellings)}}}" if len(spellings) > 1 else spellings[0]
        images, masks = (self._name(path).replace(spellings[0], every) for path in next(iter(folders.values())))
        return f"{images}/ with {masks}/"

    def _refuse_choice(self, kind: str, found: list[Path]) -> NoReturn:
        names = " and ".join(self._name(path) for path in found)
        self._refuse(f"{names} may each hold the {kind}; write images: NAME and masks: NAME in {FILE}")

    def _refuse(self, why: str) -> NoReturn:
        raise BenchError(f"{self._root.absolute()}: {why}")


def _holds_images(folder: Path) -> bool:
    walked = os.walk(folder, followlinks=True)
    return any(name.lower().endswith(MASK_ENDINGS) for _, _, files in walked for name in files)


def _continues(key: str, bases: set[str]) -> bool:
    return any(key[:end] in bases for end in range(len(key)) if key[end] in "_-.")


def _cells(line: str) -> list[str]:
    """What a line names, set apart by tabs, else commas (quoted as in CSV), else spaces."""
    delimiter = next((sign for sign in "\t," if sign in line), None)
    cells = next(csv.reader([line], delimiter=delimiter), []) if delimiter else line.split()
    return [cell.strip() for cell in cells]


def _header(cells: list[str]) -> dict[str, int] | None:
    """Column -> its place, where a line names columns."""
    lower = [cell.lower() for cell in cells]
    found = {
        column: next(place for place, cell in enumerate(lower) if cell in names)
        for column, names in _COLUMNS.items()
        if any(cell in names for cell in lower)
    }
    return found if {"image", "mask"} <= found.keys() else None
