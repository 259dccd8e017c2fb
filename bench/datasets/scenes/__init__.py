"""Draws street scenes with their labels, in CamVid's class ids.

Things stand in a world of metres on a flat street and are projected into the picture, painted from far to near.
Colours of different classes overlap, thin things are thin, and light, haze, blur and noise vary, so that a network
has to look at shape and context.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from bench.datasets.scenes.canvas import OVERSAMPLING, Canvas, Random, Street
from bench.datasets.scenes.road_users import bicyclists, cars, clutter, draw_bonnet, pedestrians, poles
from bench.datasets.scenes.surroundings import draw_ground, draw_sky, frontage, trees

VERSION = 2
"""To be raised with every change of the drawing, so that pictures drawn before are not taken for new ones."""
# How hard the scenes are.
NOISE = 3.0
"""Largest standard deviation of the sensor's noise, in grey levels."""
BLUR = 0.5
"""Largest radius of the lens's blur, in pixels."""
EXPOSURE = (0.8, 1.12)
"""Darkest and brightest."""


def draw_scene(rng: Random, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draws one street.

    Args:
        rng: where all random numbers come from.
        size: (height, width) in pixels.

    Returns:
        The picture, uint8 [H, W, 3], and its label, uint8 [H, W].
    """
    canvas = Canvas(rng, size[0] * OVERSAMPLING, size[1] * OVERSAMPLING)
    street = Street.random(rng)
    draw_sky(canvas, rng)
    draw_ground(canvas, street, rng)
    things = [
        *frontage(street, rng),
        *trees(street, rng),
        *poles(street, rng),
        *cars(street, rng),
        *pedestrians(street, rng),
        *bicyclists(street, rng),
        *clutter(street, rng),
    ]
    for thing in sorted(things, key=lambda thing: -thing.distance):
        thing.draw(canvas)
    if rng.random() < 0.3:
        draw_bonnet(canvas, rng)
    return _develop(canvas, rng)


def _develop(canvas: Canvas, rng: Random) -> tuple[np.ndarray, np.ndarray]:
    """Lens, light and sensor: scales down, blurs, exposes, adds noise."""
    size = (canvas.width // OVERSAMPLING, canvas.height // OVERSAMPLING)
    picture = Image.fromarray(np.clip(canvas.image, 0, 255).astype(np.uint8))
    picture = picture.resize(size, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(rng.uniform(0, BLUR)))
    pixels = np.asarray(picture, np.float32)
    rows, columns = (np.linspace(-1, 1, length, dtype=np.float32) for length in (size[1], size[0]))
    vignette = 1 - rng.uniform(0, 0.25) * (rows[:, None] ** 2 + columns[None, :] ** 2) / 2
    balance = rng.uniform(0.93, 1.07, 3)
    pixels = 255 * (pixels / 255) ** rng.uniform(0.85, 1.25)
    pixels = pixels * (rng.uniform(*EXPOSURE) * balance) * vignette[..., None]
    pixels = pixels + rng.normal(0, rng.uniform(0.25, 1) * NOISE, pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), canvas.label[::OVERSAMPLING, ::OVERSAMPLING].copy()
