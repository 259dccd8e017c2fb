"""The canvas of drawn scenes: the camera and its picture, colours, and the lie of the street."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from bench.datasets.camvid import NAMES, VOID

TEXTURE = 0.06
"""Strength of surface texture, as a share of brightness."""
HAZE_METRES = (200.0, 800.0)
"""Distances at which haze hides 63 % of a thing's own colour: thickest and thinnest."""
BLEACH = 0.15
"""Largest share of its colour a thing loses; grey things of different classes look alike."""
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(len(NAMES))
OVERSAMPLING = 2
FARTHEST, NEAREST = 90.0, 1.2
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


class Canvas:
    """A picture and its label under way, with the camera that looks at the street.

    Attributes:
        image: float32 [H, W, 3], 0..255 before exposure.
        label: uint8 [H, W].
        horizon: row of the horizon.
    """

    def __init__(self, rng: Random, height: int, width: int):
        self.height, self.width = height, width
        # Stored plane by plane, where filling is several times as fast; seen as [H, W, 3].
        self._planes = np.zeros((3, height, width), np.float32)
        self.image = self._planes.transpose(1, 2, 0)
        self.label = np.full((height, width), VOID, np.uint8)
        self.horizon = height * rng.uniform(0.36, 0.5)
        self._centre = width * rng.uniform(0.38, 0.62)
        self._focal = width * rng.uniform(0.75, 1.05)
        self._eye = rng.uniform(1.3, 1.9)
        self._haze_metres = rng.uniform(*HAZE_METRES)
        warmth = rng.uniform(-14, 14)
        self.haze = np.array([192 + warmth, 196, 202 - warmth], np.float32) * np.float32(rng.uniform(0.75, 1.1))
        self._texture = 1 + TEXTURE * surface_texture(rng, height, width)

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
        spare = max(0.0, OVERSAMPLING - (right - left)) / 2
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
        surface = self._texture[window] * (colour * clear)[:, None, None]
        surface += (self.haze * (1 - clear))[:, None, None]
        np.copyto(self._planes[(slice(None), *window)], surface, where=inside)
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


def surface_texture(rng: Random, height: int, width: int) -> np.ndarray:
    """Fine and coarse variation around 0, float32 [H, W]."""
    field = rng.standard_normal((height, width), dtype=np.float32) * 0.45
    for step in (4, 16, 48):
        coarse = rng.standard_normal((height // step + 2, width // step + 2), dtype=np.float32)
        field += 0.5 * np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return field


def pick_colour(rng: Random, *choices: tuple[int, int, int], shade: float = 1.0) -> Colour:
    """One of some colours, varied, partly bleached to grey and shaded."""
    colour = np.array(choices[rng.integers(len(choices))], np.float32)
    colour = colour + rng.uniform(-9, 9, 3).astype(np.float32) + np.float32(rng.uniform(-22, 22))
    grey = np.float32(rng.uniform(0, BLEACH))
    return np.clip(colour * (1 - grey) + colour.mean() * grey, 10, 250) * np.float32(shade)


def pick_distance(rng: Random, nearest: float, farthest: float) -> float:
    """A distance in metres; near ones are more likely, as they show more."""
    return float(nearest * (farthest / nearest) ** rng.random())
