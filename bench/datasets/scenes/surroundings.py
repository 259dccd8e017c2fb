"""Sky, ground and what stands along a street: houses, hedges, fences, trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from bench.datasets.scenes.canvas import (
    BUILDING,
    FARTHEST,
    FENCE,
    NEAREST,
    PAVEMENT,
    ROAD,
    SKY,
    TREE,
    Canvas,
    Colour,
    Point,
    Random,
    Street,
    Thing,
    pick_colour,
    pick_distance,
    surface_texture,
)


def draw_sky(canvas: Canvas, rng: Random) -> None:
    """Sky from the horizon upwards, with clouds at times."""
    zenith = pick_colour(rng, (120, 160, 215), (150, 175, 205), (190, 195, 200), (205, 200, 190))
    down = np.linspace(0, 1, canvas.height, dtype=np.float32)[:, None, None]
    fade = np.clip(down * canvas.height / canvas.horizon, 0, 1)
    clouds = surface_texture(rng, canvas.height // 2, canvas.width // 2)
    clouds = np.asarray(Image.fromarray(clouds).resize((canvas.width, canvas.height), Image.Resampling.BILINEAR))
    cover = np.clip(clouds[..., None] * rng.uniform(0.05, 0.45), 0, 0.8)
    canvas.image[:] = zenith * (1 - fade) + canvas.haze * fade
    canvas.image[:] = canvas.image * (1 - cover) + 240 * cover
    canvas.label[: int(canvas.horizon) + 1] = SKY


def draw_ground(canvas: Canvas, street: Street, rng: Random) -> None:
    """Road, pavements and their markings."""
    asphalt = pick_colour(rng, (96, 98, 106), (112, 112, 116), (84, 88, 96))
    paving = pick_colour(rng, (172, 156, 138), (160, 146, 140), (188, 176, 158))
    verge = pick_colour(rng, (95, 115, 60), (120, 118, 105), (90, 100, 70))
    canvas.floor(-400, 400, NEAREST, 400, verge, TREE if rng.random() < 0.5 else PAVEMENT)
    canvas.floor(*street.walls, NEAREST, 400, paving, PAVEMENT)
    kerb_stone = paving * np.float32(1.15)
    left, right = street.kerbs
    canvas.floor(left - 0.18, right + 0.18, NEAREST, 400, kerb_stone, PAVEMENT)
    canvas.floor(left, right, NEAREST, 400, asphalt, ROAD)
    for _ in range(rng.integers(0, 5)):
        # Mended patches and shadows across the road.
        near = pick_distance(rng, 3, 40)
        x = rng.uniform(left, right - 1)
        patch = asphalt * np.float32(rng.uniform(0.6, 1.2))
        canvas.floor(x, min(right, x + rng.uniform(1, 5)), near, near + rng.uniform(0.5, 5), patch, None)
    paint = pick_colour(rng, (215, 215, 210), (200, 190, 130))
    middle, step = (left + right) / 2, rng.uniform(3, 7)
    for start in np.arange(NEAREST, 60, step) + rng.uniform(0, step):
        canvas.floor(middle - 0.08, middle + 0.08, start, start + step * 0.55, paint, None)
    if rng.random() < 0.5:
        for x in (left + 0.3, right - 0.3):
            canvas.floor(x - 0.06, x + 0.06, NEAREST, 80, paint, None)
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
    points = [canvas.project(x, 0, z) for z, order in ((NEAREST, 1), (200, -1)) for x in across[::order]]
    mask = Image.new("1", (canvas.width, canvas.height))
    ImageDraw.Draw(mask).polygon(points, fill=1)
    canvas.image[np.asarray(mask)] *= np.float32(factor)


def frontage(street: Street, rng: Random) -> Iterator[Thing]:
    """What lines the street: houses, gaps with hedges, fences."""
    for side in (0, 1):
        outward = -1 if side == 0 else 1
        set_back = rng.uniform(0, 4) if rng.random() < 0.5 else 0.0
        z = NEAREST
        while z < FARTHEST:
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
    yield Thing(FARTHEST + 20, _skyline(rng))


def _house(street: Street, rng: Random, side: int, x: float, near: float, far: float) -> Callable[[Canvas], None]:
    height = rng.uniform(4, 16)
    front = pick_colour(
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
    glass = pick_colour(rng, (60, 70, 80), (110, 125, 140), (45, 45, 50), shade=street.shade[side])
    door = pick_colour(rng, (90, 50, 40), (40, 60, 90), (60, 60, 60))
    storey, bay = rng.uniform(2.6, 3.4), rng.uniform(2.0, 3.6)
    sill, tall, wide = rng.uniform(0.8, 1.2), rng.uniform(1.0, 1.6), rng.uniform(0.8, 1.4)
    roof = pick_colour(rng, (110, 70, 60), (80, 80, 85), (100, 95, 90)) if rng.random() < 0.5 else None
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
    base = pick_colour(rng, (70, 95, 45), (95, 110, 60), (60, 75, 50), (120, 100, 60), shade=shade)
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
    colour = pick_colour(rng, (150, 95, 45), (170, 110, 60), (190, 140, 90), shade=shade)
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
        relabel(
            canvas, [canvas.project(x, y, z) for z, y in ((near, 0), (near, height), (far, height), (far, 0))], FENCE
        )
        rails = [(near, far, 0.12, 0.22), (near, far, height - 0.1, height)]
        bars = [(start, min(far, start + gap * 0.3), 0, height) for start in np.arange(near, far, gap)]
        canvas.wall(x, rails + bars, colour, FENCE)

    return draw


def relabel(canvas: Canvas, points: Sequence[Point], label: int) -> None:
    """Gives what is painted inside a polygon another label."""
    mask = Image.new("1", (canvas.width, canvas.height))
    ImageDraw.Draw(mask).polygon(list(points), fill=1)
    canvas.label[np.asarray(mask)] = label


def _skyline(rng: Random) -> Callable[[Canvas], None]:
    blocks = [(x, rng.uniform(4, 14), rng.uniform(6, 14), rng.random() < 0.5) for x in np.arange(-90, 90, 9)]
    stone, leaves = pick_colour(rng, (150, 140, 130), (120, 120, 125)), _leaves(rng, 0.9)

    def draw(canvas: Canvas) -> None:
        z = FARTHEST + 20
        for x, height, width, is_house in blocks:
            if is_house:
                canvas.box(x, 0, z, width, height, stone, BUILDING)
            else:
                _foliage(canvas, [(x, height * 0.35, z, height * 0.55)], leaves)

    return draw


def trees(street: Street, rng: Random) -> Iterator[Thing]:
    """Trees on the pavements."""
    for _ in range(rng.integers(0, 6)):
        side = int(rng.integers(2))
        z = pick_distance(rng, 5, 60)
        x = street.kerbs[side] + (street.walls[side] - street.kerbs[side]) * rng.uniform(0.2, 1.3)
        yield Thing(z, _tree(rng, x, z, street.shade[side]))


def _tree(rng: Random, x: float, z: float, shade: float) -> Callable[[Canvas], None]:
    bark = pick_colour(rng, (90, 75, 60), (70, 65, 60), shade=shade)
    leaves = _leaves(rng, shade)
    trunk, crown, girth = rng.uniform(1.6, 3.2), rng.uniform(1.2, 2.6), rng.uniform(0.2, 0.45)
    around = rng.normal(0, 0.5 * crown, (12, 2)).tolist()
    lumps = [(x + across, trunk + 0.8 * crown + 0.7 * up, z, 0.5 * crown) for across, up in around]

    def draw(canvas: Canvas) -> None:
        canvas.box(x, 0, z, girth, trunk + crown * 0.5, bark, TREE)
        _foliage(canvas, lumps, leaves)

    return draw
