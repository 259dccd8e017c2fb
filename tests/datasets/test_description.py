"""What a classes.yaml says, and what is said of one that cannot be understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.datasets.base import Augmentation, Normalization
from bench.datasets.classes_file import drawn_shares, read_description, recorded
from bench.datasets.description import DRAWN, RECORD, Shares, usual_colour
from bench.errors import BenchError

FULL = """
classes:
  - {name: road, id: [7, 8], colour: [128, 64, 128], weight: 0.5}
  - {name: "no", id: 1000, color: [1, 2, 3], weight: 2}
ignore: [0, 255]
input-size: [96, 128]
crop_size: [64, 64]
split: {val: 0.2, test: 0, seed: 3}
normalize: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
augment: {scales: [0.8, 1.2], jitter: 0, flip: false}
images: photos
masks: truth
"""


def read(folder: Path, text: str) -> Any:
    (folder / "classes.yaml").write_text(text, encoding="utf-8")
    return read_description(folder / "classes.yaml")


def refused(folder: Path, text: str) -> str:
    with pytest.raises(BenchError) as caught:
        read(folder, text)
    assert "\n" not in str(caught.value) and str(folder / "classes.yaml") in str(caught.value)
    return str(caught.value)


def test_everything(tmp_path: Path) -> None:
    found = read(tmp_path, FULL)
    assert found.meanings == {7: 0, 8: 0, 1000: 1, 0: 255, 255: 255}
    classes = found.classes
    assert (classes.names, classes.outputs, classes.ignore_index) == (("road", "no"), 2, 255)
    assert (classes.palette, classes.weights) == (((128, 64, 128), (1, 2, 3)), (0.5, 2.0))
    assert (found.input_size, found.crop_size, found.shares) == ((96, 128), (64, 64), Shares(0.2, 0, 3))
    assert found.normalization == Normalization((0.5,) * 3, (0.25,) * 3)
    assert found.augmentation == Augmentation((0.8, 1.2), 0.0, False)
    assert (found.places.images, found.places.masks, found.places.mask_suffix) == ("photos", "truth", None)


def test_names_alone(tmp_path: Path) -> None:
    found = read(tmp_path, "classes: [road, sky]")
    assert found.meanings == {0: 0, 1: 1}
    # None is black, which pictures show for what is not scored.
    assert found.classes.palette == ((128, 0, 0), (0, 128, 0))


def test_colours(tmp_path: Path) -> None:
    text = "{labels: colors, ignore: [0, 0, 0], classes: [{name: a, colour: [[9, 8, 7], [6, 5, 4]]}]}"
    found = read(tmp_path, text)
    assert found.meanings == {(0, 0, 0): 255, (9, 8, 7): 0, (6, 5, 4): 0}
    assert found.classes.palette == ((9, 8, 7),)


@pytest.mark.parametrize(
    "text", [FULL, "classes: [a]", "{labels: colours, classes: [{name: a, colour: [[9, 8, 7], [6, 5, 4]]}]}"]
)
def test_a_networks_file_carries_all_of_it(text: str, tmp_path: Path) -> None:
    found = read(tmp_path, text)
    again = recorded({RECORD: found.record}, found.where)
    assert again == found and again.training == found.training
    assert recorded({}, "x") is None and drawn_shares({RECORD: found.record}, "x") is None
    assert drawn_shares({RECORD: {**found.record, DRAWN: ["val"]}}, "x") == found.shares
    # As a file it would say the same.
    assert read(tmp_path, yaml.safe_dump(found.record)) == found
    with pytest.raises(BenchError, match=r"x\.pt: the file must be a mapping"):
        recorded({RECORD: [1]}, "x.pt")


def test_what_decides_what_files_are_read_as(tmp_path: Path) -> None:
    first = read(tmp_path, "classes: [{name: a, id: 1}]")
    for text, decoded_alike, trained_alike in (
        ("classes: [{name: a, id: 1, colour: [1, 2, 3]}]", True, True),
        ("{classes: [{name: a, id: 1}], augment: {flip: false}}", True, False),
        ("classes: [{name: a, id: 2}]", False, False),
        ("{classes: [{name: a, id: 1}], ignore: [0]}", False, False),
    ):
        other = read(tmp_path, text)
        assert ((other.decoding == first.decoding), (other.training == first.training)) == (
            decoded_alike,
            trained_alike,
        )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file must be a mapping of classes, labels"),
        ("a: [", "is not a YAML file"),
        ("names: [a]", "the file has the unknown key 'names'"),
        ("clases: [a]", "did you mean classes?"),
        ("labels: ids", "`classes:` is missing"),
        ("classes: []", "classes must be a list"),
        ("classes: [no]", "class 0 has no name; write name: NAME, in quotes"),
        ("classes: [a, a]", "two classes are called a"),
        ("classes: [{name: a, id: 70000}]", "70000 is no id; ids are whole numbers from 0 to 65535"),
        ("classes: [{name: a, id: true}]", "True is no id"),
        ("classes: [{name: a, id: 1}, {name: b, id: 1}]", "1 stands there twice"),
        ("{classes: [a], ignore: 0}", "0 stands there twice"),
        ("classes: [{name: a, colour: red}]", "'red' is no colour; write [red, green, blue]"),
        ("classes: [{name: a, colour: [1, 2]}]", "[1, 2] is no colour"),
        ("{labels: colours, classes: [a]}", "class a has no colour; masks of colours need one"),
        ("classes: [{name: a, weight: 1}, b]", "1 of 2 classes have a weight; write it for all, or for none"),
        ("{classes: [a], input-size: 96}", "input-size is 96; write [height, width]"),
        ("{classes: [a], crop-size: [8, 8]}", "crop-size is said, but not of which input-size"),
        ("{classes: [a], split: {val: 0}}", "leave no image for val or for train"),
        ("{classes: [a], split: {val: 0.5, test: 0.5}}", "leave no image for val or for train"),
        ("{classes: [a], normalize: {mean: [0, 0, 0], std: [1, 0, 1]}}", "std holds 0"),
        ("{classes: [a], normalize: {mean: [123.7, 116, 104], std: [1, 1, 1]}}", "123.7; write a number from 0 to 1"),
        ("{classes: [a], augment: {scales: [2, 1]}}", "begin with the larger one"),
        ("{classes: [a], augment: {flip: 1}}", "flip is 1; write true or false"),
        ("{classes: [a], images: photos}", "images and masks go together"),
        ("{classes: [" + "a" + ", ".join(f"c{n}" for n in range(254)) + "]}", "254 classes are too many"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(text: str, says: str, tmp_path: Path) -> None:
    assert says in refused(tmp_path, text)


def test_the_palette_of_voc() -> None:
    assert [usual_colour(number) for number in (0, 1, 2, 15, 20)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 128, 128), (0, 64, 128)
    ]  # fmt: skip
