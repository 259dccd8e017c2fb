"""Draws street scenes with their labels, in CamVid's class ids.

Things stand in a world of metres on a flat street and are projected into the picture, painted from far to near.
Colours of different classes overlap, thin things are thin, and light, haze, blur and noise vary, so that a network
has to look at shape and context.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bench.datasets.camvid import NAMES, VOID

VERSION = 2
"""To be raised with every change of the drawing, so that pictures drawn before are not taken for new ones."""

# How hard the scenes are.
NOISE = 3.0
"""Largest standard deviation of the sensor's noise, in grey levels."""
TEXTURE = 0.06
"""Strength of surface texture, as a share of brightness."""
BLUR = 0.5
"""Largest radius of the lens's blur, in pixels."""
HAZE_METRES = (200.0, 800.0)
"""Distances at which haze hides 63 % of a thing's own colour: thickest and thinnest."""
EXPOSURE = (0.8, 1.12)
"""Darkest and brightest."""
BLEACH = 0.15
"""Largest share of its colour a thing loses; grey things of different classes look alike."""

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(len(NAMES))

_OVERSAMPLING = 2
_FARTHEST, _NEAREST = 90.0, 1.2

Colour = np.ndarray
Point = tuple[float, float]
Ball = tuple[float, float, float, float]
"""Column and row of an ellipse's centre, horizontal and vertical radius."""
Span = tuple[float, float, float, float]
"""Near, far, low and high edge of an upright rectangle along the street, in metres."""
Random = np.random.Generator


class Thing(NamedTuple):
    """Something at a distance (in metres) and how to draw it."""

    distance: float
    draw: Callable[[Canvas], None]


def draw_scene(rng: Random, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draws one street.

    Args:
        rng: where all random numbers come from.
        size: (height, width) in pixels.

    Returns:
        The picture, uint8 [H, W, 3], and its label, uint8 [H, W].
    """
    canvas = Canvas(rng, size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING)
    street = Street.random(rng)
    _draw_sky(canvas, rng)
    _draw_ground(canvas, street, rng)
    things = [
        *_frontage(street, rng),
        *_trees(street, rng),
        *_poles(street, rng),
        *_cars(street, rng),
        *_pedestrians(street, rng),
        *_bicyclists(street, rng),
        *_clutter(street, rng),
    ]
    for thing in sorted(things, key=lambda thing: -thing.distance):
        thing.draw(canvas)
    if rng.random() < 0.3:
        _draw_bonnet(canvas, rng)
    return _develop(canvas, rng)


class Canvas:
    """A picture and its label under way, with the camera that looks at the street.

    Attributes:
        image: float32 [H, W, 3], 0..255 before exposure.
        label: uint8 [H, W].
        horizon: row of the horizon.
    """

    def __init__(self, rng: Random, height: int, width: int):
        self.height, self.width = height, width
        self.image = np.zeros((height, width, 3), np.float32)
        self.label = np.full((height, width), VOID, np.uint8)
        self.horizon = height * rng.uniform(0.36, 0.5)
        self._centre = width * rng.uniform(0.38, 0.62)
        self._focal = width * rng.uniform(0.75, 1.05)
        self._eye = rng.uniform(1.3, 1.9)
        self._haze_metres = rng.uniform(*HAZE_METRES)
        warmth = rng.uniform(-14, 14)
        self.haze = np.array([192 + warmth, 196, 202 - warmth], np.float32) * np.float32(rng.uniform(0.75, 1.1))
        self._texture = 1 + TEXTURE * _texture(rng, height, width)[..., None]

    def project(self, x: float, y: float, z: float) -> Point:
        """Metres to the right, above the ground and ahead -> (column, row)."""
        return self._centre + self._focal * x / z, self.horizon - self._focal * (y - self._eye) / z

    def pixels(self, metres: float, z: float) -> float:
        """Length in the picture of something at a distance."""
        return self._focal * metres / z

    def polygon(self, points: Sequence[Point], colour: Colour, label: int | None, z: float) -> None:
        """Fills a polygon of (column, row) points at distance z; with label None only the picture changes."""
        self.polygons([points], colour, label, z)

    def polygons(self, shapes: Sequence[Sequence[Point]], colour: Colour, label: int | None, z: float) -> None:
        """Fills several polygons of one colour at once, which is faster than one by one."""
        self._fill(ImageDraw.ImageDraw.polygon, shapes, colour, label, z)

    def ellipse(self, ball: Ball, colour: Colour, label: int | None, z: float) -> None:
        """Fills an ellipse with upright axes."""
        self.ellipses([ball], colour, label, z)

    def ellipses(self, balls: Sequence[Ball], colour: Colour, label: int | None, z: float) -> None:
        """Fills several ellipses of one colour at once."""
        shapes = [[(column - x, row - y), (column + x, row + y)] for column, row, x, y in balls]
        self._fill(ImageDraw.ImageDraw.ellipse, shapes, colour, label, z)

    def box(self, x: float, y: float, z: float, width: float, height: float, colour: Colour, label: int | None) -> None:
        """Fills an upright rectangle in metres that faces the camera; (x, y) is the middle of its lower edge."""
        left, bottom = self.project(x - width / 2, y, z)
        right, top = self.project(x + width / 2, y + height, z)
        # A thin thing stays one picture pixel wide.
        spare = max(0.0, _OVERSAMPLING - (right - left)) / 2
        left, right = left - spare, right + spare
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], colour, label, z)

    def wall(self, x: float, spans: Sequence[Span], colour: Colour, label: int | None) -> None:
        """Fills upright rectangles along the street."""
        if not spans:
            return
        shapes = [
            [self.project(x, y, z) for z, y in ((near, low), (near, high), (far, high), (far, low))]
            for near, far, low, high in spans
        ]
        self.polygons(shapes, colour, label, (spans[0][0] + spans[-1][1]) / 2)

    def floor(self, left: float, right: float, near: float, far: float, colour: Colour, label: int | None) -> None:
        """Fills a rectangle on the ground."""
        corners = [(left, near), (left, far), (right, far), (right, near)]
        # Hazy as its near part, which is most of its area.
        self.polygon([self.project(x, 0, z) for x, z in corners], colour, label, near)

    def _fill(
        self,
        draw: Callable[..., None],
        shapes: Sequence[Sequence[Point]],
        colour: Colour,
        label: int | None,
        z: float,
    ) -> None:
        columns, rows = zip(*itertools.chain.from_iterable(shapes), strict=True)
        left, top = max(0, int(min(columns)) - 1), max(0, int(min(rows)) - 1)
        right, bottom = min(self.width, int(max(columns)) + 2), min(self.height, int(max(rows)) + 2)
        if left >= right or top >= bottom:
            return
        mask = Image.new("L", (right - left, bottom - top))
        pen = ImageDraw.Draw(mask)
        for points in shapes:
            draw(pen, [(column - left, row - top) for column, row in points], fill=1)
        inside = np.asarray(mask).view(bool)
        window = (slice(top, bottom), slice(left, right))
        clear = np.float32(np.exp(-z / self._haze_metres))
        surface = self._texture[window] * (colour * clear)
        surface += self.haze * (1 - clear)
        np.copyto(self.image[window], surface, where=inside[..., None])
        if label is not None:
            self.label[window][inside] = label


class Street(NamedTuple):
    """The lie of the street, in metres to the right of the camera.

    Attributes:
        kerbs: left and right edge of the road.
        walls: where the left and right pavement end.
        shade: brightness of the left and the right side.
    """

    kerbs: tuple[float, float]
    walls: tuple[float, float]
    shade: tuple[float, float]

    @staticmethod
    def random(rng: Random) -> Street:
        """A street of drawn width, lanes and lighting."""
        lane = rng.uniform(3.0, 4.2)
        left, right = (-0.5 * lane, 1.5 * lane) if rng.random() < 0.5 else (-1.5 * lane, 0.5 * lane)
        shade = rng.uniform(0.95, 1.15), rng.uniform(0.5, 0.9)
        return Street(
            (left, right),
            (left - rng.uniform(1.8, 4.5), right + rng.uniform(1.8, 4.5)),
            shade if rng.random() < 0.5 else shade[::-1],
        )

    def on_pavement(self, rng: Random, side: int) -> float:
        """A place across the pavement of side 0 (left) or 1 (right), in metres."""
        kerb, wall = self.kerbs[side], self.walls[side]
        return kerb + (wall - kerb) * rng.uniform(0.12, 0.85)


def _texture(rng: Random, height: int, width: int) -> np.ndarray:
    """Fine and coarse variation around 0, float32 [H, W]."""
    field = rng.standard_normal((height, width), dtype=np.float32) * 0.45
    for step in (4, 16, 48):
        coarse = rng.standard_normal((height // step + 2, width // step + 2), dtype=np.float32)
        field += 0.5 * np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return field


def _colour(rng: Random, *choices: tuple[int, int, int], shade: float = 1.0) -> Colour:
    """One of some colours, varied, partly bleached to grey and shaded."""
    colour = np.array(choices[rng.integers(len(choices))], np.float32)
    colour = colour + rng.uniform(-9, 9, 3).astype(np.float32) + np.float32(rng.uniform(-22, 22))
    grey = np.float32(rng.uniform(0, BLEACH))
    return np.clip(colour * (1 - grey) + colour.mean() * grey, 10, 250) * np.float32(shade)


def _distance(rng: Random, nearest: float, farthest: float) -> float:
    """A distance in metres; near ones are more likely, as they show more."""
    return float(nearest * (farthest / nearest) ** rng.random())


def _draw_sky(canvas: Canvas, rng: Random) -> None:
    zenith = _colour(rng, (120, 160, 215), (150, 175, 205), (190, 195, 200), (205, 200, 190))
    down = np.linspace(0, 1, canvas.height, dtype=np.float32)[:, None, None]
    fade = np.clip(down * canvas.height / canvas.horizon, 0, 1)
    clouds = _texture(rng, canvas.height // 2, canvas.width // 2)
    clouds = np.asarray(Image.fromarray(clouds).resize((canvas.width, canvas.height), Image.Resampling.BILINEAR))
    cover = np.clip(clouds[..., None] * rng.uniform(0.05, 0.45), 0, 0.8)
    canvas.image[:] = zenith * (1 - fade) + canvas.haze * fade
    canvas.image[:] = canvas.image * (1 - cover) + 240 * cover
    canvas.label[: int(canvas.horizon) + 1] = SKY


def _draw_ground(canvas: Canvas, street: Street, rng: Random) -> None:
    asphalt = _colour(rng, (96, 98, 106), (112, 112, 116), (84, 88, 96))
    paving = _colour(rng, (172, 156, 138), (160, 146, 140), (188, 176, 158))
    verge = _colour(rng, (95, 115, 60), (120, 118, 105), (90, 100, 70))
    canvas.floor(-400, 400, _NEAREST, 400, verge, TREE if rng.random() < 0.5 else PAVEMENT)
    canvas.floor(*street.walls, _NEAREST, 400, paving, PAVEMENT)
    kerb_stone = paving * np.float32(1.15)
    left, right = street.kerbs
    canvas.floor(left - 0.18, right + 0.18, _NEAREST, 400, kerb_stone, PAVEMENT)
    canvas.floor(left, right, _NEAREST, 400, asphalt, ROAD)
    for _ in range(rng.integers(0, 5)):
        # Mended patches and shadows across the road.
        near = _distance(rng, 3, 40)
        x = rng.uniform(left, right - 1)
        patch = asphalt * np.float32(rng.uniform(0.6, 1.2))
        canvas.floor(x, min(right, x + rng.uniform(1, 5)), near, near + rng.uniform(0.5, 5), patch, None)
    paint = _colour(rng, (215, 215, 210), (200, 190, 130))
    middle, step = (left + right) / 2, rng.uniform(3, 7)
    for start in np.arange(_NEAREST, 60, step) + rng.uniform(0, step):
        canvas.floor(middle - 0.08, middle + 0.08, start, start + step * 0.55, paint, None)
    if rng.random() < 0.5:
        for x in (left + 0.3, right - 0.3):
            canvas.floor(x - 0.06, x + 0.06, _NEAREST, 80, paint, None)
    if rng.random() < 0.25:
        near = rng.uniform(5, 20)
        for x in np.arange(left + 0.3, right - 0.5, 1.1):
            canvas.floor(x, x + 0.55, near, near + 2.5, paint, None)
    for side in (0, 1):
        # The shady side lies partly in the shadow of its houses.
        if street.shade[side] < 0.85 and rng.random() < 0.7:
            inner = street.walls[side] + (street.walls[1 - side] - street.walls[side]) * rng.uniform(0.1, 0.45)
            _darken_floor(canvas, sorted((street.walls[side], inner)), street.shade[side])


def _darken_floor(canvas: Canvas, across: Sequence[float], factor: float) -> None:
    points = [canvas.project(x, 0, z) for z, order in ((_NEAREST, 1), (200, -1)) for x in across[::order]]
    mask = Image.new("1", (canvas.width, canvas.height))
    ImageDraw.Draw(mask).polygon(points, fill=1)
    canvas.image[np.asarray(mask)] *= np.float32(factor)


def _frontage(street: Street, rng: Random) -> Iterator[Thing]:
    """What lines the street: houses, gaps with hedges, fences."""
    for side in (0, 1):
        outward = -1 if side == 0 else 1
        set_back = rng.uniform(0, 4) if rng.random() < 0.5 else 0.0
        z = _NEAREST
        while z < _FARTHEST:
            length = rng.uniform(6, 18)
            x = street.walls[side] + outward * set_back
            if rng.random() < 0.75:
                yield Thing(z + length, _house(street, rng, side, x, z, z + length))
            else:
                yield Thing(z + length, _hedge(rng, x + outward * rng.uniform(0, 3), z, z + length, street.shade[side]))
            if rng.random() < (0.9 if set_back else 0.6):
                begin = z + rng.uniform(0, length / 3)
                yield Thing(
                    begin, _fence(rng, street.walls[side], begin, begin + rng.uniform(4, 9), street.shade[side])
                )
            z += length
    yield Thing(_FARTHEST + 20, _skyline(rng))


def _house(street: Street, rng: Random, side: int, x: float, near: float, far: float) -> Callable[[Canvas], None]:
    height = rng.uniform(4, 16)
    front = _colour(
        rng,
        (160, 90, 70),
        (190, 175, 150),
        (150, 145, 140),
        (205, 200, 190),
        (120, 110, 105),
        (175, 150, 110),
        shade=street.shade[side],
    )
    gable = front * np.float32(rng.uniform(0.7, 0.95))
    glass = _colour(rng, (60, 70, 80), (110, 125, 140), (45, 45, 50), shade=street.shade[side])
    door = _colour(rng, (90, 50, 40), (40, 60, 90), (60, 60, 60))
    storey, bay = rng.uniform(2.6, 3.4), rng.uniform(2.0, 3.6)
    sill, tall, wide = rng.uniform(0.8, 1.2), rng.uniform(1.0, 1.6), rng.uniform(0.8, 1.4)
    roof = _colour(rng, (110, 70, 60), (80, 80, 85), (100, 95, 90)) if rng.random() < 0.5 else None
    pitch = rng.uniform(1, 3)
    outward = -1 if side == 0 else 1

    def draw(canvas: Canvas) -> None:
        # The wall that faces the camera, seen where the house before is lower or set back.
        corners = [(0, 0), (0, height), (12, height), (12, 0)]
        canvas.polygon([canvas.project(x + outward * out, y, near) for out, y in corners], gable, BUILDING, near)
        canvas.wall(x, [(near, far, 0, height)], front, BUILDING)
        if roof is not None:
            eaves = [(0, near, 0), (0, far, 0), (3, far, pitch), (3, near, pitch)]
            points = [canvas.project(x + outward * out, height + up, z) for out, z, up in eaves]
            canvas.polygon(points, roof, BUILDING, near)
        windows = [
            (start, start + wide, floor + sill, floor + sill + tall)
            for start in np.arange(near + 0.6, far - wide, bay)
            for floor in np.arange(0, height - storey + 0.1, storey)
        ]
        canvas.wall(x, windows, glass, None)
        if far - near > 8:
            canvas.wall(x, [(near + 3, near + 4.1, 0, 2.1)], door, None)

    return draw


def _hedge(rng: Random, x: float, near: float, far: float, shade: float) -> Callable[[Canvas], None]:
    leaves = _leaves(rng, shade)
    lumps = [(x, rng.uniform(0.8, 6), rng.uniform(near, far), rng.uniform(0.8, 2.2)) for _ in range(20)]
    return partial(_foliage, lumps=lumps, leaves=leaves)


def _leaves(rng: Random, shade: float) -> list[Colour]:
    base = _colour(rng, (70, 95, 45), (95, 110, 60), (60, 75, 50), (120, 100, 60), shade=shade)
    return [base * np.float32(factor) for factor in (0.65, 0.9, 1.15)]


def _foliage(canvas: Canvas, lumps: Sequence[tuple[float, float, float, float]], leaves: Sequence[Colour]) -> None:
    """Lumps of leaves, each (x, y, z, radius) in metres: dark below, light above."""
    for part, leaf in enumerate(leaves):
        balls = []
        for x, y, z, radius in lumps:
            size = canvas.pixels(radius, z)
            column, row = canvas.project(x, y, z)
            shrunk = size * (1 - 0.28 * part)
            balls.append((column + 0.1 * part * size, row - 0.22 * part * size, shrunk, 0.85 * shrunk))
        canvas.ellipses(balls, leaf, TREE, lumps[-1][2])


def _fence(rng: Random, x: float, near: float, far: float, shade: float) -> Callable[[Canvas], None]:
    colour = _colour(rng, (150, 95, 45), (170, 110, 60), (190, 140, 90), shade=shade)
    height, is_open = rng.uniform(1.3, 2.3), rng.random() < 0.25
    gap = rng.uniform(0.25, 0.5)

    def draw(canvas: Canvas) -> None:
        whole = (near, far, 0, height)
        if not is_open:
            canvas.wall(x, [whole], colour, FENCE)
            grooves = [(start, start + 0.05, 0, height) for start in np.arange(near, far, gap * 2)]
            canvas.wall(x, grooves, colour * np.float32(0.7), None)
            return
        # What lies behind railings shows through and is fence all the same.
        _relabel(
            canvas, [canvas.project(x, y, z) for z, y in ((near, 0), (near, height), (far, height), (far, 0))], FENCE
        )
        rails = [(near, far, 0.12, 0.22), (near, far, height - 0.1, height)]
        bars = [(start, min(far, start + gap * 0.3), 0, height) for start in np.arange(near, far, gap)]
        canvas.wall(x, rails + bars, colour, FENCE)

    return draw


def _relabel(canvas: Canvas, points: Sequence[Point], label: int) -> None:
    mask = Image.new("1", (canvas.width, canvas.height))
    ImageDraw.Draw(mask).polygon(list(points), fill=1)
    canvas.label[np.asarray(mask)] = label


def _skyline(rng: Random) -> Callable[[Canvas], None]:
    blocks = [(x, rng.uniform(4, 14), rng.uniform(6, 14), rng.random() < 0.5) for x in np.arange(-90, 90, 9)]
    stone, leaves = _colour(rng, (150, 140, 130), (120, 120, 125)), _leaves(rng, 0.9)

    def draw(canvas: Canvas) -> None:
        z = _FARTHEST + 20
        for x, height, width, is_house in blocks:
            if is_house:
                canvas.box(x, 0, z, width, height, stone, BUILDING)
            else:
                _foliage(canvas, [(x, height * 0.35, z, height * 0.55)], leaves)

    return draw


def _trees(street: Street, rng: Random) -> Iterator[Thing]:
    for _ in range(rng.integers(0, 6)):
        side = int(rng.integers(2))
        z = _distance(rng, 5, 60)
        x = street.kerbs[side] + (street.walls[side] - street.kerbs[side]) * rng.uniform(0.2, 1.3)
        yield Thing(z, _tree(rng, x, z, street.shade[side]))


def _tree(rng: Random, x: float, z: float, shade: float) -> Callable[[Canvas], None]:
    bark = _colour(rng, (90, 75, 60), (70, 65, 60), shade=shade)
    leaves = _leaves(rng, shade)
    trunk, crown, girth = rng.uniform(1.6, 3.2), rng.uniform(1.2, 2.6), rng.uniform(0.2, 0.45)
    around = rng.normal(0, 0.5 * crown, (12, 2)).tolist()
    lumps = [(x + across, trunk + 0.8 * crown + 0.7 * up, z, 0.5 * crown) for across, up in around]

    def draw(canvas: Canvas) -> None:
        canvas.box(x, 0, z, girth, trunk + crown * 0.5, bark, TREE)
        _foliage(canvas, lumps, leaves)

    return draw


def _poles(street: Street, rng: Random) -> Iterator[Thing]:
    for _ in range(rng.integers(3, 9)):
        side = int(rng.integers(2))
        z = _distance(rng, 4, 28)
        outward = -1 if side == 0 else 1
        x = street.kerbs[side] + outward * rng.uniform(0.2, 0.7)
        draw = [_lamp, _road_sign, _traffic_light][rng.choice(3, p=[0.4, 0.4, 0.2])]
        yield Thing(z, draw(rng, x, z, -outward, street.shade[side]))
    if rng.random() < 0.5:
        # A name plate or shop sign on a house.
        side = int(rng.integers(2))
        z = _distance(rng, 6, 30)
        plate = _colour(rng, (205, 45, 40), (225, 190, 50))
        x, low, long = street.walls[side], rng.uniform(2.6, 3.4), rng.uniform(1.5, 4)
        yield Thing(z, partial(_draw_plate, x=x, z=z, long=long, low=low, plate=plate))


def _draw_plate(canvas: Canvas, x: float, z: float, long: float, low: float, plate: Colour) -> None:
    canvas.wall(x, [(z, z + long, low, low + 0.8)], plate, SIGN)
    canvas.wall(x, [(z + long * 0.15, z + long * 0.85, low + 0.3, low + 0.5)], 255 - plate, None)


_METAL = ((25, 75, 60), (40, 66, 62), (30, 50, 70))


def _lamp(rng: Random, x: float, z: float, inward: int, shade: float) -> Callable[[Canvas], None]:
    metal, height, arm = _colour(rng, *_METAL, shade=shade), rng.uniform(4.5, 8.5), rng.uniform(0.6, 1.8)
    girth = rng.uniform(0.3, 0.5)

    def draw(canvas: Canvas) -> None:
        canvas.box(x, 0, z, girth, height, metal, POLE)
        canvas.box(x + inward * arm / 2, height, z, arm, 0.16, metal, POLE)
        canvas.box(x + inward * arm, height - 0.15, z, 0.6, 0.25, metal * np.float32(1.2), POLE)

    return draw


def _road_sign(rng: Random, x: float, z: float, inward: int, shade: float) -> Callable[[Canvas], None]:
    metal, height, radius = _colour(rng, *_METAL, shade=shade), rng.uniform(2.1, 3.0), rng.uniform(0.6, 0.95)
    rim = _colour(rng, (205, 35, 35), (225, 185, 40), (200, 45, 30), shade=shade)
    face = _colour(rng, (235, 235, 230), (235, 205, 70), shade=shade)
    corners = int(rng.choice([3, 4, 24]))

    def draw(canvas: Canvas) -> None:
        canvas.box(x, 0, z, 0.26, height, metal, POLE)
        column, row = canvas.project(x, height, z)
        for size, colour, label in ((radius, rim, SIGN), (radius * 0.65, face, None)):
            # Point up for triangles, flat on a side for squares.
            turn = np.pi / 4 if corners == 4 else -np.pi / 2
            angles = turn + 2 * np.pi * np.arange(corners) / corners
            reach = max(canvas.pixels(size, z), _OVERSAMPLING if label is SIGN else 0)
            points = [(column + reach * float(np.cos(a)), row + reach * float(np.sin(a))) for a in angles]
            canvas.polygon(points, colour, label, z)

    return draw


def _traffic_light(rng: Random, x: float, z: float, inward: int, shade: float) -> Callable[[Canvas], None]:
    metal, housing = _colour(rng, *_METAL, shade=shade), _colour(rng, (35, 35, 38), (60, 60, 55), shade=shade)
    lit, height = int(rng.integers(3)), rng.uniform(2.2, 3.2)
    lamps = ((220, 50, 40), (230, 170, 50), (60, 200, 110))

    def draw(canvas: Canvas) -> None:
        canvas.box(x, 0, z, 0.13, height, metal, POLE)
        canvas.box(x, height, z, 0.42, 1.05, housing, SIGN)
        for position, lamp in enumerate(lamps):
            glow = np.array(lamp, np.float32) * np.float32(1.0 if position == lit else 0.3)
            size = canvas.pixels(0.12, z)
            canvas.ellipse((*canvas.project(x, height + 0.87 - 0.33 * position, z), size, size), glow, None, z)

    return draw


def _cars(street: Street, rng: Random) -> Iterator[Thing]:
    left, right = street.kerbs
    for side in (0, 1):
        # Parked at the kerb, in a row.
        z = _distance(rng, 4, 25)
        for _ in range(rng.integers(0, 4)):
            x = street.kerbs[side] + (1.05 if side == 0 else -1.05)
            yield Thing(z, _car(rng, x, z, street.shade[side]))
            z += rng.uniform(5.5, 9)
    for _ in range(rng.integers(0, 3)):
        z = _distance(rng, 7, 50)
        yield Thing(z, _car(rng, rng.choice([left + 0.3 * (right - left), left + 0.72 * (right - left)]), z, 1.0))


def _car(rng: Random, x: float, z: float, shade: float) -> Callable[[Canvas], None]:
    paint = _colour(
        rng, (150, 30, 30), (40, 60, 120), (190, 192, 195), (35, 35, 38), (105, 108, 112), (225, 225, 220), shade=shade
    )
    is_van = rng.random() < 0.25
    width, length = rng.uniform(1.65, 1.95), rng.uniform(3.8, 4.8)
    height = rng.uniform(1.9, 2.5) if is_van else rng.uniform(1.4, 1.6)
    waist = height * (0.55 if is_van else 0.6)
    glass, rubber = _colour(rng, (50, 60, 70), (100, 115, 125)), np.full(3, 24, np.float32)
    lights = np.array([190, 40, 35] if rng.random() < 0.6 else [235, 230, 205], np.float32)
    dark, roof_width = paint * np.float32(0.72), width * (0.96 if is_van else 0.78)

    def draw(canvas: Canvas) -> None:
        far = z + length
        canvas.floor(x - width * 0.55, x + width * 0.55, z - 0.1, far, np.full(3, 34, np.float32), None)
        # The side towards the middle of the view shows.
        flank = x + (width / 2 if canvas.project(x, 0, z)[0] < canvas.project(0, 0, z)[0] else -width / 2)
        roof_flank = x + (flank - x) * roof_width / width
        front, back = z + length * (0.02 if is_van else 0.1), far - length * (0.05 if is_van else 0.25)
        canvas.wall(flank, [(z, far, 0.28, waist)], dark, CAR)
        cabin = [(flank, waist, z), (roof_flank, height, front), (roof_flank, height, back), (flank, waist, far)]
        canvas.polygon([canvas.project(*corner) for corner in cabin], dark, CAR, z)
        pane = [(flank, waist + 0.04, z + 0.5), (roof_flank, height - 0.1, front + 0.3)]
        pane += [(roof_flank, height - 0.1, back - 0.2), (flank, waist + 0.04, far - 0.6)]
        canvas.polygon([canvas.project(*corner) for corner in pane], glass, None, z)
        for axle in (z + 0.75, far - 0.8):
            wheel = [(axle + 0.33 * np.cos(a), 0.32 + 0.32 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 12)]
            canvas.polygon([canvas.project(flank, y, depth) for depth, y in wheel], rubber, CAR, z)
        for wheel_x in (x - width * 0.4, x + width * 0.4):
            canvas.box(wheel_x, 0, z, 0.22, 0.4, rubber, CAR)
        canvas.box(x, 0.28, z, width, waist - 0.28, paint, CAR)
        corners = [(-width / 2, waist), (-roof_width / 2, height), (roof_width / 2, height), (width / 2, waist)]
        canvas.polygon([canvas.project(x + across, y, z) for across, y in corners], paint, CAR, z)
        pane = [(across * 0.86, waist + 0.05 + (y - waist) * 0.82) for across, y in corners]
        canvas.polygon([canvas.project(x + across, y, z) for across, y in pane], glass, None, z)
        for lamp in (x - width * 0.38, x + width * 0.38):
            canvas.box(lamp, waist * 0.68, z, 0.3, 0.2, lights, None)
        canvas.box(x, 0.42, z, 0.5, 0.13, np.full(3, 215, np.float32), None)

    return draw


_CLOTHES = ((220, 115, 40), (150, 50, 140), (200, 60, 95), (95, 50, 130))
_JERSEYS = ((195, 215, 55), (60, 195, 190), (110, 200, 90))
_SKIN = ((205, 165, 140), (150, 110, 85), (100, 70, 55))


def _pedestrians(street: Street, rng: Random) -> Iterator[Thing]:
    for _ in range(rng.integers(2, 7)):
        side = int(rng.integers(2))
        z = _distance(rng, 3, 16)
        x = rng.uniform(*street.kerbs) if rng.random() < 0.15 else street.on_pavement(rng, side)
        yield Thing(z, _pedestrian(rng, x, z, street.shade[side]))


def _pedestrian(rng: Random, x: float, z: float, shade: float) -> Callable[[Canvas], None]:
    tall, stride = rng.uniform(1.5, 1.9), rng.uniform(0.05, 0.32)
    coat, trousers = (_colour(rng, *_CLOTHES, shade=shade) for _ in range(2))
    skin = _colour(rng, *_SKIN, shade=shade)

    def draw(canvas: Canvas) -> None:
        hip, neck = tall * 0.48, tall * 0.84
        for foot in (-stride, stride):
            leg = [(-0.09 + foot, 0), (0.07 + foot, 0), (0.13, hip), (-0.13, hip)]
            canvas.polygon([canvas.project(x + across, y, z) for across, y in leg], trousers, PEDESTRIAN, z)
        torso = [(-0.17, hip - 0.1), (-0.23, neck), (0.23, neck), (0.17, hip - 0.1)]
        canvas.polygon([canvas.project(x + across, y, z) for across, y in torso], coat, PEDESTRIAN, z)
        for arm in (-0.26, 0.26):
            canvas.box(x + arm, hip, z, 0.1, neck - hip, coat * np.float32(0.85), PEDESTRIAN)
        radius = canvas.pixels(0.12, z)
        canvas.ellipse((*canvas.project(x, tall - 0.12, z), radius, radius * 1.2), skin, PEDESTRIAN, z)

    return draw


def _bicyclists(street: Street, rng: Random) -> Iterator[Thing]:
    left, right = street.kerbs
    for _ in range(rng.integers(1, 5)):
        z = _distance(rng, 3.5, 15)
        x = rng.choice([left + rng.uniform(0.3, 1.3), right - rng.uniform(0.3, 1.3)])
        yield Thing(z, _bicyclist(rng, x, z))


def _bicyclist(rng: Random, x: float, z: float) -> Callable[[Canvas], None]:
    coat, trousers, frame = _colour(rng, *_JERSEYS), _colour(rng, *_JERSEYS, *_CLOTHES), _colour(rng, *_JERSEYS)
    skin = _colour(rng, *_SKIN)
    # How much of the bicycle's length is seen from behind.
    turn = float(rng.choice([-1, 1])) * rng.uniform(0.15, 1.0)
    rubber = np.full(3, 30, np.float32)

    def draw(canvas: Canvas) -> None:
        def shape(points: Sequence[Point], colour: Colour, label: int | None = BICYCLIST) -> None:
            canvas.polygon([canvas.project(x + across * turn, y, z) for across, y in points], colour, label, z)

        angles = np.linspace(0, 2 * np.pi, 14)
        for hub in (-0.52, 0.52):
            rim = [(hub + 0.34 * float(np.cos(a)), 0.34 + 0.34 * float(np.sin(a))) for a in angles]
            _relabel(canvas, [canvas.project(x + across * turn, y, z) for across, y in rim], BICYCLIST)
            inner = [(hub + 0.76 * (across - hub), 0.34 + 0.76 * (y - 0.34)) for across, y in rim]
            ring = [
                [
                    canvas.project(x + across * turn, y, z)
                    for across, y in (*rim[part : part + 2], *inner[part : part + 2][::-1])
                ]
                for part in range(len(rim) - 1)
            ]
            canvas.polygons(ring, rubber, BICYCLIST, z)
        canvas.box(x, 0, z, 0.07, 0.7, rubber, BICYCLIST)
        for bar in ([(-0.52, 0.34), (-0.15, 0.85)], [(-0.15, 0.85), (0.42, 0.88)], [(0.42, 0.98), (0.52, 0.34)]):
            (a, low), (b, high) = bar
            shape([(a - 0.03, low), (b - 0.03, high), (b + 0.04, high + 0.05), (a + 0.04, low + 0.05)], frame)
        shape([(-0.22, 0.9), (-0.02, 0.35), (0.1, 0.4), (0.02, 0.95)], trousers)
        shape([(-0.28, 0.9), (0.1, 1.5), (0.3, 1.42), (0.02, 0.85)], coat)
        shape([(0.2, 1.4), (0.5, 1.02), (0.56, 1.08), (0.28, 1.46)], coat * np.float32(0.85))
        width = canvas.pixels(0.16, z)
        canvas.ellipse((*canvas.project(x, 1.2, z), width, width * 2), coat, BICYCLIST, z)
        radius = canvas.pixels(0.13, z)
        canvas.ellipse((*canvas.project(x + 0.26 * turn, 1.62, z), radius, radius * 1.15), skin, BICYCLIST, z)

    return draw


def _clutter(street: Street, rng: Random) -> Iterator[Thing]:
    """Bins, crates and the like: things that have no class."""
    for _ in range(rng.integers(0, 3)):
        side = int(rng.integers(2))
        z = _distance(rng, 5, 30)
        colour = _colour(rng, (60, 90, 60), (120, 120, 120), (140, 90, 50), (50, 60, 110), shade=street.shade[side])
        size = rng.uniform(0.5, 1.1), rng.uniform(0.7, 1.3)
        yield Thing(z, partial(_draw_bin, x=street.on_pavement(rng, side), z=z, size=size, colour=colour))


def _draw_bin(canvas: Canvas, x: float, z: float, size: tuple[float, float], colour: Colour) -> None:
    width, height = size
    canvas.box(x, 0, z, width, height, colour, VOID)
    canvas.box(x, height, z, width * 1.1, 0.12, colour * np.float32(0.7), VOID)


def _draw_bonnet(canvas: Canvas, rng: Random) -> None:
    """The camera's own car at the lower edge, which has no class."""
    paint = _colour(rng, (40, 42, 46), (120, 122, 126), (60, 30, 30))
    centre = (canvas.width * rng.uniform(0.4, 0.6), canvas.height * rng.uniform(1.02, 1.06))
    canvas.ellipse((*centre, canvas.width * 0.6, canvas.height * rng.uniform(0.08, 0.13)), paint, VOID, 0.0)


def _develop(canvas: Canvas, rng: Random) -> tuple[np.ndarray, np.ndarray]:
    """Lens, light and sensor: scales down, blurs, exposes, adds noise."""
    size = (canvas.width // _OVERSAMPLING, canvas.height // _OVERSAMPLING)
    picture = Image.fromarray(np.clip(canvas.image, 0, 255).astype(np.uint8))
    picture = picture.resize(size, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(rng.uniform(0, BLUR)))
    pixels = np.asarray(picture, np.float32)
    rows, columns = (np.linspace(-1, 1, length, dtype=np.float32) for length in (size[1], size[0]))
    vignette = 1 - rng.uniform(0, 0.25) * (rows[:, None] ** 2 + columns[None, :] ** 2) / 2
    balance = rng.uniform(0.93, 1.07, 3)
    pixels = 255 * (pixels / 255) ** rng.uniform(0.85, 1.25)
    pixels = pixels * (rng.uniform(*EXPOSURE) * balance) * vignette[..., None]
    pixels = pixels + rng.normal(0, rng.uniform(0.25, 1) * NOISE, pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), canvas.label[::_OVERSAMPLING, ::_OVERSAMPLING].copy()
