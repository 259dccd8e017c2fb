"""Reads what a `classes.yaml`, or the file of a network, says of a folder's data; what is wrong with it in a line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from bench.datasets.base import IMAGENET, Augmentation, Normalization, Size
from bench.datasets.description import COLOURS, DRAWN, IDS, RECORD, Description, Places, Shares
from bench.datasets.label_tables import LARGEST_ID, UNKNOWN, Value
from bench.errors import BenchError


def recorded(meta: Mapping[str, Any], where: str) -> Description | None:
    """The description that a network's file carries of its data; None where it carries none.

    Raises:
        BenchError: it is damaged.
    """
    content = meta.get(RECORD)
    if isinstance(content, Mapping):
        content = {key: value for key, value in content.items() if key != DRAWN}
    return None if content is None else _Reader(where).description(content)


def drawn_shares(meta: Mapping[str, Any], where: str) -> Shares | None:
    """Shares and seed of the splits that a network was trained on, if these were drawn."""
    described = recorded(meta, where)
    return described.shares if described and meta[RECORD].get(DRAWN) else None


def read_description(path: Path) -> Description:
    """Reads a `classes.yaml`.

    Raises:
        BenchError: missing, not YAML, or something in it that is not understood, which is named.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise BenchError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    return _Reader(str(path)).description(content)


class _Reader:
    """Turns the content of a file into a description, or says in a line what is wrong with it."""

    def __init__(self, where: str):
        self._where = where

    def refuse(self, why: str) -> NoReturn:
        raise BenchError(f"{self._where}: {why}")

    def description(self, content: Any) -> Description:
        keys = ("classes", "labels", "ignore", "input-size", "crop-size", "split", "normalize", "augment",
                "images", "masks", "image-suffix", "mask-suffix")  # fmt: skip
        content = self._mapping(content, keys, "the file")
        if "classes" not in content:
            self.refuse("`classes:` is missing; list the names of the classes there")
        labels = content.get("labels", IDS)
        labels = {"colors": COLOURS}.get(labels, labels) if isinstance(labels, str) else labels
        if labels not in (IDS, COLOURS):
            self.refuse(f"labels is {labels!r}; write ids or colours, as the masks hold them")
        names, values, colours, weights = self._classes(content["classes"], labels)
        ignore = tuple(self._values(content.get("ignore", []), labels, "ignore"))
        self._check_unique([*ignore, *(value for of_class in values for value in of_class)])
        places = {key.replace("-", "_"): self._text(content[key], key) for key in keys[8:] if key in content}
        if ("images" in places) != ("masks" in places):
            self.refuse("images and masks go together; write both folders, or neither")
        if "crop-size" in content and "input-size" not in content:
            self.refuse("crop-size is said, but not of which input-size; write both")
        return Description(
            self._where,
            names,
            values,
            labels,
            ignore,
            colours,
            weights,
            self._size(content, "input-size"),
            self._size(content, "crop-size"),
            self._shares(content.get("split", {})),
            Places(**places),
            self._normalization(content.get("normalize")),
            self._augmentation(content.get("augment", {})),
        )

    def _classes(self, content: Any, labels: str) -> tuple[Any, Any, Any, Any]:
        if not isinstance(content, list) or not content:
            self.refuse("classes must be a list, of names or of {name: ..., id: ...}")
        if len(content) >= UNKNOWN:
            self.refuse(f"{len(content)} classes are too many; there may be {UNKNOWN - 1}")
        names, values, colours, weights = [], [], [], []
        for number, entry in enumerate(content):
            entry = entry if isinstance(entry, dict) else {"name": entry}
            where = f"class {number}"
            entry = self._mapping(entry, ("name", "id", "colour", "weight"), where)
            # YAML reads some names, such as `on` or `1`, as something else than text.
            if not isinstance(entry.get("name"), str) or not entry["name"].strip():
                self.refuse(f"{where} has no name; write name: NAME, in quotes if it is a number or a word such as no")
            names.append(entry["name"])
            shown = self._values(entry["colour"], COLOURS, where) if "colour" in entry else []
            if labels == COLOURS and not shown:
                self.refuse(f"class {entry['name']} has no colour; masks of colours need one, such as [128, 64, 0]")
            if labels == COLOURS and "id" in entry:
                self.refuse(f"class {entry['name']} has an id, but labels are colours; leave one of the two out")
            colours += shown[:1]
            values.append(tuple(shown if labels == COLOURS else self._values(entry.get("id", number), IDS, where)))
            if "weight" in entry:
                weights.append(self._number(entry["weight"], f"{where}: weight", 0, float("inf")))
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            self.refuse(f"two classes are called {twice}; give one class several ids with id: [1, 2]")
        for what, found in (("a colour", colours), ("a weight", weights)):
            if found and len(found) != len(names):
                self.refuse(f"{len(found)} of {len(names)} classes have {what}; write it for all, or for none")
        return tuple(names), tuple(values), tuple(colours) or None, tuple(weights) or None

    def _values(self, content: Any, labels: str, where: str) -> list[Value]:
        """One id or colour, or a list of them."""
        if labels == IDS:
            found = content if isinstance(content, list) else [content]
            wrong = [value for value in found if type(value) is not int or not 0 <= value <= LARGEST_ID]
            if wrong:
                self.refuse(f"{where}: {wrong[0]!r} is no id; ids are whole numbers from 0 to {LARGEST_ID}")
            return found
        is_one = isinstance(content, list) and content and not isinstance(content[0], list)
        found = [content] if is_one else content
        if not isinstance(found, list):
            self.refuse(f"{where}: {content!r} is no colour; write [red, green, blue], each from 0 to 255")
        for colour in found:
            is_right = isinstance(colour, list) and len(colour) == 3
            if not is_right or any(type(part) is not int or not 0 <= part <= 255 for part in colour):
                self.refuse(f"{where}: {colour!r} is no colour; write [red, green, blue], each from 0 to 255")
        return [tuple(colour) for colour in found]

    def _check_unique(self, values: list[Value]) -> None:
        seen: set[Value] = set()
        for value in values:
            if value in seen:
                self.refuse(f"{value} stands there twice; an id or a colour means one class, or is ignored")
            seen.add(value)

    def _shares(self, content: Any) -> Shares:
        content = self._mapping(content, ("val", "test", "seed"), "split")
        seed = content.get("seed", 0)
        if type(seed) is not int or seed < 0:
            self.refuse(f"split: seed is {seed!r}; write a whole number")
        shares = {key: self._number(content[key], f"split: {key}", 0, 1) for key in ("val", "test") if key in content}
        found = Shares(seed=seed, **shares)
        if not found.val or found.val + found.test >= 1:
            self.refuse(f"split: val {found.val:g} and test {found.test:g} leave no image for val or for train")
        return found

    def _normalization(self, content: Any) -> Normalization:
        if content is None:
            return IMAGENET
        content = self._mapping(content, ("mean", "std"), "normalize")
        mean, std = (self._numbers(content.get(key), f"normalize: {key}", 3, 0, 1) for key in ("mean", "std"))
        if min(std) == 0:
            self.refuse("normalize: std holds 0, by which nothing can be divided")
        return Normalization(mean, std)

    def _augmentation(self, content: Any) -> Augmentation:
        content = self._mapping(content, tuple(spec.name for spec in fields(Augmentation)), "augment")
        found = Augmentation()
        if "scales" in content:
            scales = self._numbers(content["scales"], "augment: scales", 2, 0.05, 20)
            if scales[0] > scales[1]:
                self.refuse(f"augment: scales {list(scales)} begin with the larger one")
            found = replace(found, scales=scales)
        if "jitter" in content:
            found = replace(found, jitter=self._number(content["jitter"], "augment: jitter", 0, 1))
        if "flip" in content:
            if not isinstance(content["flip"], bool):
                self.refuse(f"augment: flip is {content['flip']!r}; write true or false")
            found = replace(found, flip=content["flip"])
        return found

    def _size(self, content: Mapping[str, Any], key: str) -> Size | None:
        size = content.get(key)
        if size is None:
            return None
        is_size = isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
        if not is_size:
            self.refuse(f"{key} is {size!r}; write [height, width] in pixels")
        return tuple(size)

    def _mapping(self, content: Any, keys: Iterable[str], where: str) -> dict[str, Any]:
        if not isinstance(content, dict):
            self.refuse(f"{where} must be a mapping of {', '.join(keys)}")
        spelt = {"color": "colour", "ids": "id"}
        found = {spelt.get(name := str(key).replace("_", "-"), name): value for key, value in content.items()}
        unknown = next((key for key in found if key not in keys), None)
        if unknown is not None:
            near = difflib.get_close_matches(unknown, list(keys), n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(keys)}"
            self.refuse(f"{where} has the unknown key '{unknown}'; {hint}")
        return found

    def _numbers(self, content: Any, where: str, count: int, low: float, high: float) -> Any:
        if not isinstance(content, list) or len(content) != count:
            self.refuse(f"{where} must be a list of {count} numbers")
        return tuple(self._number(value, where, low, high) for value in content)

    def _number(self, value: Any, where: str, low: float, high: float) -> float:
        if type(value) not in (int, float) or not low <= value <= high or value == float("inf"):
            self.refuse(f"{where} is {value!r}; write a number from {low:g}" + (f" to {high:g}" if high < 1e9 else ""))
        return float(value)

    def _text(self, value: Any, key: str) -> str:
        if not isinstance(value, str) or not value:
            self.refuse(f"{key} is {value!r}; write a name")
        return value
