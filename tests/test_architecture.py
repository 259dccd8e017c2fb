"""The picture of the rooms, and what the page about them says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from docs.draw_architecture import PICTURE, boxes, broken, buses, direct_imports, drawing
from tests.test_house import FLOORS, IMPORTS, MODULES, is_entry, room_of

SVG = "{http://www.w3.org/2000/svg}"
PAGE = PICTURE.with_name("architecture.md")
AGAIN = "run: python -m docs.draw_architecture"


@pytest.fixture(scope="module")
def picture() -> ElementTree.Element:
    return ElementTree.fromstring(PICTURE.read_text(encoding="utf-8"))


def named_in(picture: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """Full name and shown text of every module in the picture."""
    for part in picture.iter(f"{SVG}tspan"):
        title = part.find(f"{SVG}title")
        if title is not None:
            yield title.text, title.tail


def test_the_picture_is_that_of_the_code() -> None:
    assert PICTURE.read_text(encoding="utf-8") == drawing(), AGAIN


def test_every_module_is_named_once(picture: ElementTree.Element) -> None:
    names = [name for name, _ in named_in(picture)]
    assert sorted(names) == sorted(MODULES.keys() - {"bench"}), AGAIN
    for name, shown in named_in(picture):
        assert shown.rstrip("/:").removesuffix(".py").split("/")[-1] == name.split(".")[-1]


def test_boxes_and_lines_stay_apart() -> None:
    gutters = {"left": 34.0, "right": 46.0}
    rooms = boxes(gutters)
    assert list(rooms) == [room for floor in reversed(FLOORS) for room in floor.split()]
    for one, other in combinations(rooms.values(), 2):
        beside = one.x + one.width < other.x or other.x + other.width < one.x
        assert beside or one.bottom < other.y or other.bottom < one.y
    for one, other in combinations(buses(rooms), 2):
        is_shared = (one.side, one.lane) == (other.side, other.lane)
        assert not is_shared or set(one.rows).isdisjoint(other.rows)


def test_text_is_broken_before_it_is_too_wide() -> None:
    assert broken(["aaa", "bb", "c"], 60, 10, 1) == [["aaa", "bb"], ["c"]]
    assert broken(["aaaaaaaa", "b"], 30, 10, 1) == [["aaaaaaaa"], ["b"]]


def test_arrows_that_are_left_out_follow_from_those_that_are_drawn() -> None:
    drawn = direct_imports()

    def reached(room: str) -> set[str]:
        return drawn[room].union(*map(reached, drawn[room]))

    imported = {
        (room_of(module), room_of(other))
        for module in MODULES.keys() - {"bench"}
        for other in IMPORTS[module] - {"bench"}
        if not is_entry(module) and room_of(module) != room_of(other)
    }
    assert {(room, other) for room in drawn for other in drawn[room]} <= imported
    assert {(room, other) for room in drawn for other in reached(room)} >= imported
    for room, others in drawn.items():
        assert not any(one in reached(other) for one in others for other in others), room


def test_what_the_page_links_to_is_there(project_root: Path) -> None:
    for page in (PAGE, project_root / "CONTRIBUTING.md"):
        links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        assert links
        assert [link for link in links if not (page.parent / link).is_file()] == []


def test_from_the_script_to_the_cut_each_file_imports_the_next(project_root: Path) -> None:
    section = PAGE.read_text(encoding="utf-8").split("## From prune.py to the cut\n")[1].split("\n## ")[0]
    script, *files = re.findall(r"^\d\. `(\S+\.py)`", section, re.MULTILINE)
    modules = [file.removesuffix(".py").replace("/", ".") for file in files]
    assert f"from {modules[0]} import main" in (project_root / script).read_text(encoding="utf-8")
    assert len(files) == 5
    for module, following in pairwise(modules):
        assert following in IMPORTS[module], f"{module} does not import {following}"
