"""Draws `architecture.svg`, the rooms of `bench`, from what its modules import: `python -m docs.draw_architecture`.

A row is a floor of the table in `tests/test_house.py`; a box is a package, or a module of its own, with its headline
and all its modules. An arrow says that a room imports from another; those that follow from other arrows are left out.
Arrows between neighbouring rows are straight, the others run beside the boxes, one line for each room they lead to.
"""

from __future__ import annotations

import ast
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from tests.test_house import FLOORS, IMPORTS, MODULES, TREES, is_entry, room_of

PICTURE = Path(__file__).parent / "architecture.svg"

WIDTH, MARGIN, GAP, BETWEEN, LANE = 900, 14, 30, 16, 12
PADDING, LINE = 10, 17
# Widest advance of a character, in pixels; a line of text is broken before it could be too long.
TITLE, PROSE, CODE = 9.6, 6.7, 7.25
SIDES = ("left", "right")
STYLE = """
.prose { font: 12px 'DejaVu Sans', Verdana, sans-serif; fill: #1e293b }
.title { font-size: 15px; font-weight: bold; fill: #0f172a }
.module { font: 12px 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #334155 }
.room { fill: #f8fafc; stroke: #94a3b8 }
.stage { fill: #e0f2fe; stroke: #0284c7 }
.halo { fill: none; stroke: #ffffff; stroke-width: 5 }
.arrow { fill: none; stroke: #475569; stroke-width: 1.3 }
.joint { fill: #475569 }
"""


@dataclass
class Box:
    """A room in the picture.

    Attributes:
        name: package or module, without `bench.`.
        row: its floor, from the top of the picture.
        lines: its headline, broken to the width of the box.
        chunks: its modules, those of a subpackage together, broken likewise.
        is_stage: whether it is one of the five stages, by the capitals its headline begins with.
        place: whether it is the first, the last or the only box of its row, or between others.
    """

    name: str
    row: int
    x: float
    width: float
    lines: list[str]
    chunks: list[list[str]]
    is_stage: bool
    place: str
    y: float = 0.0

    @property
    def height(self) -> float:
        return 2 * PADDING + LINE * (len(self.lines) + len(self.chunks)) - 3

    @property
    def bottom(self) -> float:
        return self.y + self.height

    def near(self, side: str) -> float:
        """Where a line to a side of the picture leaves or meets the box's bottom or top, apart from other arrows."""
        return self.x + self.width * {"left": 0.2, "right": 0.8}[side]

    def touches(self, side: str) -> bool:
        """Whether nothing of its row stands between the box and a side of the picture."""
        return self.place in ("only", {"left": "first", "right": "last"}[side])


@dataclass
class Bus:
    """The line beside the boxes that leads to one room.

    Attributes:
        target: where the arrow ends.
        sources: the rooms it comes from.
        side: of the picture.
        lane: 0 is the nearest to the boxes.
    """

    target: Box
    sources: list[Box] = field(default_factory=list)
    side: str = "left"
    lane: int = 0

    @property
    def rows(self) -> range:
        """The rows it passes, from the highest source to the target."""
        return range(min(source.row for source in self.sources), self.target.row + 1)


# --- what there is


def modules_of(room: str) -> list[str]:
    """The modules of a room, sorted; a package itself is one that holds others."""
    return sorted(name for name in MODULES if name != "bench" and room_of(name) == room)


def headline(room: str) -> str:
    """The first line of a room's docstring."""
    return ast.get_docstring(TREES[f"bench.{room}"]).splitlines()[0]


def direct_imports() -> dict[str, set[str]]:
    """Room -> the rooms it imports from, without those that it reaches through others of them."""
    imports: dict[str, set[str]] = {room: set() for floor in FLOORS for room in floor.split()}
    for room, other in imports_of_rooms():
        imports[room].add(other)
    below: dict[str, set[str]] = {}
    for room in imports:  # from the ground up
        below[room] = imports[room].union(*(below[other] for other in imports[room]))
    return {room: {one for one in found if not any(one in below[o] for o in found)} for room, found in imports.items()}


def imports_of_rooms() -> Iterator[tuple[str, str]]:
    """All pairs of a room and another that it imports from."""
    for module, imported in IMPORTS.items():
        for other in imported - {"bench"}:
            if module != "bench" and not is_entry(module) and room_of(module) != room_of(other):
                yield room_of(module), room_of(other)


# --- where it goes


def broken(words: Iterable[str], width: float, per_character: float, space: int) -> list[list[str]]:
    """Words in lines of at most a width in pixels, with so many spaces between them."""
    lines: list[list[str]] = [[]]
    for word in words:
        length = sum(len(other) + space for other in lines[-1]) + len(word)
        if lines[-1] and length * per_character > width:
            lines.append([])
        lines[-1].append(word)
    return lines


def chunks_of(room: str) -> list[str]:
    """The modules of a room as they are written in its box: a subpackage with its modules is one word."""
    folders: dict[str, list[str]] = defaultdict(list)
    for module in modules_of(room):
        inner = module.split(".")[2:]
        is_package = MODULES[module].stem == "__init__"
        if inner:
            folders["/".join(inner if is_package else inner[:-1])] += [] if is_package else inner[-1:]
    own = folders.pop("", [])
    return own + [f"{folder}: {' '.join(modules)}" for folder, modules in folders.items()]


def box_of(room: str, row: int, x: float, width: float, place: str) -> Box:
    """A room's box, its text broken to its width."""
    is_package = MODULES[f"bench.{room}"].stem == "__init__"
    text, inner = headline(room), width - 2 * PADDING
    taken = " " * round((len(title_of(room)) * TITLE + 8) / PROSE)
    lines = textwrap.wrap(text, int(inner / PROSE), initial_indent=taken)
    chunks = broken(chunks_of(room), inner, CODE, 3) if is_package else []
    return Box(room, row, x, width, lines, chunks, text.partition(":")[0].isupper(), place)


def title_of(room: str) -> str:
    """How a room is called in the picture."""
    return f"{room}/" if MODULES[f"bench.{room}"].stem == "__init__" else f"{room}.py"


def boxes(gutters: Mapping[str, float]) -> dict[str, Box]:
    """All rooms, the highest floor first; each row fills the width between the gutters."""
    found: dict[str, Box] = {}
    y: float = MARGIN
    full = WIDTH - 2 * MARGIN - sum(gutters.values())
    for row, floor in enumerate(reversed(FLOORS)):
        rooms = floor.split()
        width = (full - BETWEEN * (len(rooms) - 1)) / len(rooms)
        in_row = []
        for column, room in enumerate(rooms):
            place = "only" if len(rooms) == 1 else {0: "first", len(rooms) - 1: "last"}.get(column, "between")
            x = MARGIN + gutters["left"] + column * (width + BETWEEN)
            in_row.append(box_of(room, row, x, width, place))
        for box in in_row:
            box.y = y
            found[box.name] = box
        y += max(box.height for box in in_row) + GAP
    return found


def buses(rooms: Mapping[str, Box]) -> list[Bus]:
    """The lines of all imports from rooms that are no neighbours, on lanes that keep them apart."""
    found: dict[str, Bus] = {}
    for room, imported in direct_imports().items():
        for other in sorted(imported):
            if rooms[other].row - rooms[room].row > 1:
                found.setdefault(other, Bus(rooms[other])).sources.append(rooms[room])
    lanes: dict[str, list[list[range]]] = {side: [] for side in SIDES}
    for bus in sorted(found.values(), key=lambda bus: (len(bus.rows), bus.target.row, bus.target.name)):
        bus.side, bus.lane = free_lane(bus, lanes)
        while len(lanes[bus.side]) <= bus.lane:
            lanes[bus.side].append([])
        lanes[bus.side][bus.lane].append(bus.rows)
    return list(found.values())


def free_lane(bus: Bus, lanes: Mapping[str, list[list[range]]]) -> tuple[str, int]:
    """The nearest lane, of the sides that the target touches, that nothing uses in these rows."""

    def lane_on(side: str) -> int:
        def is_free(taken: list[range]) -> bool:
            return all(set(rows).isdisjoint(bus.rows) for rows in taken)

        return next((lane for lane, taken in enumerate(lanes[side]) if is_free(taken)), len(lanes[side]))

    sides = [side for side in SIDES if bus.target.touches(side)] or list(SIDES)
    return min(((side, lane_on(side)) for side in sides), key=lambda choice: (choice[1], SIDES.index(choice[0])))


# --- how it looks


def text(x: float, y: float, content: str, kind: str = "prose") -> str:
    """A line of text, its left end on the baseline."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{content}</text>'


def drawn_box(box: Box) -> Iterator[str]:
    """A rectangle with its title, its headline and its modules; each module carries its full name as a title."""
    left, baseline = box.x + PADDING, box.y + PADDING + 12
    kind = "stage" if box.is_stage else "room"
    shape = f'x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="6"'
    yield f'<g><rect class="{kind}" {shape}/>'
    title = named(f"bench.{box.name}", title_of(box.name), "title")
    first, *others = (escape(line.strip(), quote=False) for line in box.lines)
    yield text(left, baseline, f'{title}<tspan dx="9">{first}</tspan>')
    for number, line in enumerate(others, start=1):
        yield text(left, baseline + number * LINE, line)
    for number, chunks in enumerate(box.chunks, start=len(box.lines)):
        x = left
        for chunk in chunks:
            yield text(x, baseline + number * LINE, drawn_chunk(box.name, chunk), "module")
            x += (len(chunk) + 3) * CODE
    yield "</g>"


def drawn_chunk(room: str, chunk: str) -> str:
    """A module, or a subpackage and its modules."""
    folder, colon, modules = chunk.rpartition(":")
    if not colon:
        return named(f"bench.{room}.{chunk}", chunk)
    package = f"bench.{room}.{folder.replace('/', '.')}"
    parts = [named(f"{package}.{module}", module) for module in modules.split()]
    return " ".join([named(package, f"{folder}:"), *parts])


def named(module: str, shown: str, kind: str = "module") -> str:
    """Text that says which module it stands for."""
    return f'<tspan class="{kind}"><title>{module}</title>{shown}</tspan>'


def line(points: Iterable[tuple[float, float]], *, arrow: bool = True) -> str:
    """A line of straight pieces in front of a halo, so that it seems to pass over what it crosses."""
    path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    end = ' marker-end="url(#head)"' if arrow else ""
    return f'<path class="halo" d="{path}"/><path class="arrow" d="{path}"{end}/>'


def drawn_neighbours(rooms: Mapping[str, Box]) -> Iterator[str]:
    """Straight arrows between rows that follow one another."""
    for room, imported in direct_imports().items():
        for other in sorted(imported):
            above, below = rooms[room], rooms[other]
            if below.row - above.row == 1:
                left, right = max(above.x, below.x), min(above.x + above.width, below.x + below.width)
                if left < right:
                    ends = ((left + right) / 2,) * 2
                else:
                    ends = (left + 24, right - 24) if above.x > below.x else (right - 24, left + 24)
                yield line([(ends[0], above.bottom), (ends[1], below.y)])


def drawn_bus(bus: Bus, ports: Mapping[tuple[str, str, str], float], gutters: Mapping[str, float]) -> Iterator[str]:
    """A line from each source to the lane, along it, and with an arrow to the target."""
    away = 10 + LANE * bus.lane
    x = MARGIN + gutters["left"] - away if bus.side == "left" else WIDTH - MARGIN - gutters["right"] + away

    def edge(box: Box) -> float:
        return box.x if bus.side == "left" else box.x + box.width

    starts = []
    for source in bus.sources:
        if source.touches(bus.side):
            points = [(edge(source), ports[source.name, bus.target.name, bus.side])]
        else:
            points = [(source.near(bus.side), source.bottom), (source.near(bus.side), source.bottom + 0.45 * GAP)]
        starts.append([*points, (x, points[-1][1])])
    target = bus.target
    if target.touches(bus.side):
        y = ports[target.name, target.name, bus.side]
        end = [(x, y), (edge(target), y)]
    else:
        y = target.y - 0.55 * GAP
        end = [(x, y), (target.near(bus.side), y), (target.near(bus.side), target.y)]
    highest, *others = sorted(starts, key=lambda points: points[-1][1])
    yield line([*highest, *end])
    for points in others:
        yield line(points, arrow=False)
        yield f'<circle class="joint" cx="{x:.1f}" cy="{points[-1][1]:.1f}" r="3"/>'


def ports_of(all_buses: Iterable[Bus]) -> dict[tuple[str, str, str], float]:
    """(box, target of the line, side) -> the height at which the line meets the box.

    Lines that arrive come first and the nearest lanes highest, lines that leave below and the nearest lanes lowest: so
    no two lines of a box cross.
    """
    at: dict[tuple[str, str], list[tuple[int, Box, str]]] = defaultdict(list)
    for bus in all_buses:
        if bus.target.touches(bus.side):
            at[bus.target.name, bus.side].append((bus.lane, bus.target, bus.target.name))
        for source in bus.sources:
            if source.touches(bus.side):
                at[source.name, bus.side].append((100 - bus.lane, source, bus.target.name))
    ports: dict[tuple[str, str, str], float] = {}
    for (name, side), lines in at.items():
        for number, (_, box, target) in enumerate(sorted(lines, key=lambda one: (one[0], one[2])), start=1):
            ports[name, target, side] = box.y + box.height * number / (len(lines) + 1)
    return ports


def drawing() -> str:
    """The whole picture, as SVG."""
    # How many lanes there are does not depend on how much room they get.
    needed = buses(boxes(dict.fromkeys(SIDES, 0.0)))
    gutters = {side: max((10 + LANE * bus.lane for bus in needed if bus.side == side), default=0) for side in SIDES}
    rooms = boxes(gutters)
    lines = buses(rooms)
    ports = ports_of(lines)
    height = max(box.bottom for box in rooms.values()) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {WIDTH} {height:.0f}" role="img">',
        "<title>The rooms of bench and what they import</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" class="joint"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        *drawn_neighbours(rooms),
        *(part for bus in lines for part in drawn_bus(bus, ports, gutters)),
        *(part for box in rooms.values() for part in drawn_box(box)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
