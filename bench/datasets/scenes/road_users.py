"""Poles, signs, cars and people of a street."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from bench.datasets.camvid import VOID
from bench.datasets.scenes.canvas import (
    BICYCLIST,
    CAR,
    OVERSAMPLING,
    PEDESTRIAN,
    POLE,
    SIGN,
    Canvas,
    Colour,
    Point,
    Random,
    Street,
    Thing,
    pick_colour,
    pick_distance,
)
from bench.datasets.scenes.surroundings import relabel


def poles(street: Street, rng: Random) -> Iterator[Thing]:
    """Lamps, road signs and traffic lights."""
    for _ in range(rng.integers(3, 9)):
        side = int(rng.integers(2))
        z = pick_distance(rng, 4, 28)
        outward = -1 if side == 0 else 1
        x = street.kerbs[side] + outward * rng.uniform(0.2, 0.7)
        draw = [_lamp, _road_sign, _traffic_light][rng.choice(3, p=[0.4, 0.4, 0.2])]
        yield Thing(z, draw(rng, x, z, -outward, street.shade[side]))
    if rng.random() < 0.5:
        # A name plate or shop sign on a house.
        side = int(rng.integers(2))
        z = pick_distance(rng, 6, 30)
        plate = pick_colour(rng, (205, 45, 40), (225, 190, 50))
        x, low, long = street.walls[side], rng.uniform(2.6, 3.4), rng.uniform(1.5, 4)
        yield Thing(z, partial(_draw_plate, x=x, z=z, long=long, low=low, plate=plate))


def _draw_plate(canvas: Canvas, x: float, z: float, long: float, low: float, plate: Colour) -> None:
    canvas.wall(x, [(z, z + long, low, low + 0.8)], plate, SIGN)
    canvas.wall(x, [(z + long * 0.15, z + long * 0.85, low + 0.3, low + 0.5)], 255 - plate, None)


_METAL = ((25, 75, 60), (40, 66, 62), (30, 50, 70))


def _lamp(rng: Random, x: float, z: float, inward: int, shade: float) -> Callable[[Canvas], None]:
    metal, height, arm = pick_colour(rng, *_METAL, shade=shade), rng.uniform(4.5, 8.5), rng.uniform(0.6, 1.8)
    girth = rng.uniform(0.3, 0.5)

    def draw(canvas: Canvas) -> None:
        canvas.box(x, 0, z, girth, height, metal, POLE)
        canvas.box(x + inward * arm / 2, height, z, arm, 0.16, metal, POLE)
        canvas.box(x + inward * arm, height - 0.15, z, 0.6, 0.25, metal * np.float32(1.2), POLE)

    return draw


def _road_sign(rng: Random, x: float, z: float, inward: int, shade: float) -> Callable[[Canvas], None]:
    metal, height, radius = pick_colour(rng, *_METAL, shade=shade), rng.uniform(2.1, 3.0), rng.uniform(0.6, 0.95)
    rim = pick_colour(rng, (205, 35, 35), (225, 185, 40), (200, 45, 30), shade=shade)
    face = pick_colour(rng, (235, 235, 230), (235, 205, 70), shade=shade)
    corners = int(rng.choice([3, 4, 24]))

    def draw(canvas: Canvas) -> None:
        canvas.box(x, 0, z, 0.26, height, metal, POLE)
        column, row = canvas.project(x, height, z)
        for size, colour, label in ((radius, rim, SIGN), (radius * 0.65, face, None)):
            # Point up for triangles, flat on a side for squares.
            turn = np.pi / 4 if corners == 4 else -np.pi / 2
            angles = turn + 2 * np.pi * np.arange(corners) / corners
            reach = max(canvas.pixels(size, z), OVERSAMPLING if label is SIGN else 0)
            points = [(column + reach * float(np.cos(a)), row + reach * float(np.sin(a))) for a in angles]
            canvas.polygon(points, colour, label, z)

    return draw


def _traffic_light(rng: Random, x: float, z: float, inward: int, shade: float) -> Callable[[Canvas], None]:
    metal, housing = pick_colour(rng, *_METAL, shade=shade), pick_colour(rng, (35, 35, 38), (60, 60, 55), shade=shade)
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


def cars(street: Street, rng: Random) -> Iterator[Thing]:
    """Parked and driving cars."""
    left, right = street.kerbs
    for side in (0, 1):
        # Parked at the kerb, in a row.
        z = pick_distance(rng, 4, 25)
        for _ in range(rng.integers(0, 4)):
            x = street.kerbs[side] + (1.05 if side == 0 else -1.05)
            yield Thing(z, _car(rng, x, z, street.shade[side]))
            z += rng.uniform(5.5, 9)
    for _ in range(rng.integers(0, 3)):
        z = pick_distance(rng, 7, 50)
        yield Thing(z, _car(rng, rng.choice([left + 0.3 * (right - left), left + 0.72 * (right - left)]), z, 1.0))


def _car(rng: Random, x: float, z: float, shade: float) -> Callable[[Canvas], None]:
    paint = pick_colour(
        rng, (150, 30, 30), (40, 60, 120), (190, 192, 195), (35, 35, 38), (105, 108, 112), (225, 225, 220), shade=shade
    )
    is_van = rng.random() < 0.25
    width, length = rng.uniform(1.65, 1.95), rng.uniform(3.8, 4.8)
    height = rng.uniform(1.9, 2.5) if is_van else rng.uniform(1.4, 1.6)
    waist = height * (0.55 if is_van else 0.6)
    glass, rubber = pick_colour(rng, (50, 60, 70), (100, 115, 125)), np.full(3, 24, np.float32)
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


def pedestrians(street: Street, rng: Random) -> Iterator[Thing]:
    """People on pavements and road."""
    for _ in range(rng.integers(2, 7)):
        side = int(rng.integers(2))
        z = pick_distance(rng, 3, 16)
        x = rng.uniform(*street.kerbs) if rng.random() < 0.15 else street.on_pavement(rng, side)
        yield Thing(z, _pedestrian(rng, x, z, street.shade[side]))


def _pedestrian(rng: Random, x: float, z: float, shade: float) -> Callable[[Canvas], None]:
    tall, stride = rng.uniform(1.5, 1.9), rng.uniform(0.05, 0.32)
    coat, trousers = (pick_colour(rng, *_CLOTHES, shade=shade) for _ in range(2))
    skin = pick_colour(rng, *_SKIN, shade=shade)

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


def bicyclists(street: Street, rng: Random) -> Iterator[Thing]:
    """People on bicycles."""
    left, right = street.kerbs
    for _ in range(rng.integers(1, 5)):
        z = pick_distance(rng, 3.5, 15)
        x = rng.choice([left + rng.uniform(0.3, 1.3), right - rng.uniform(0.3, 1.3)])
        yield Thing(z, _bicyclist(rng, x, z))


def _bicyclist(rng: Random, x: float, z: float) -> Callable[[Canvas], None]:
    coat, trousers, frame = (
        pick_colour(rng, *_JERSEYS),
        pick_colour(rng, *_JERSEYS, *_CLOTHES),
        pick_colour(rng, *_JERSEYS),
    )
    skin = pick_colour(rng, *_SKIN)
    # How much of the bicycle's length is seen from behind.
    turn = float(rng.choice([-1, 1])) * rng.uniform(0.15, 1.0)
    rubber = np.full(3, 30, np.float32)

    def draw(canvas: Canvas) -> None:
        def shape(points: Sequence[Point], colour: Colour, label: int | None = BICYCLIST) -> None:
            canvas.polygon([canvas.project(x + across * turn, y, z) for across, y in points], colour, label, z)

        angles = np.linspace(0, 2 * np.pi, 14)
        for hub in (-0.52, 0.52):
            rim = [(hub + 0.34 * float(np.cos(a)), 0.34 + 0.34 * float(np.sin(a))) for a in angles]
            relabel(canvas, [canvas.project(x + across * turn, y, z) for across, y in rim], BICYCLIST)
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


def clutter(street: Street, rng: Random) -> Iterator[Thing]:
    """Bins, crates and the like: things that have no class."""
    for _ in range(rng.integers(0, 3)):
        side = int(rng.integers(2))
        z = pick_distance(rng, 5, 30)
        colour = pick_colour(rng, (60, 90, 60), (120, 120, 120), (140, 90, 50), (50, 60, 110), shade=street.shade[side])
        size = rng.uniform(0.5, 1.1), rng.uniform(0.7, 1.3)
        yield Thing(z, partial(_draw_bin, x=street.on_pavement(rng, side), z=z, size=size, colour=colour))


def _draw_bin(canvas: Canvas, x: float, z: float, size: tuple[float, float], colour: Colour) -> None:
    width, height = size
    canvas.box(x, 0, z, width, height, colour, VOID)
    canvas.box(x, height, z, width * 1.1, 0.12, colour * np.float32(0.7), VOID)


def draw_bonnet(canvas: Canvas, rng: Random) -> None:
    """The camera's own car at the lower edge, which has no class."""
    paint = pick_colour(rng, (40, 42, 46), (120, 122, 126), (60, 30, 30))
    centre = (canvas.width * rng.uniform(0.4, 0.6), canvas.height * rng.uniform(1.02, 1.06))
    canvas.ellipse((*centre, canvas.width * 0.6, canvas.height * rng.uniform(0.08, 0.13)), paint, VOID, 0.0)
