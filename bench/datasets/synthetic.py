"""Synthetic street scenes in CamVid's layout, drawn once on first use: data for a machine that has none."""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from bench.datasets.camvid import CamVid
from bench.datasets.scenes import VERSION, draw_scene
from bench.errors import BenchError
from bench.system.console import progress

IMAGES = {"train": 160, "val": 40, "test": 40}
SIZE = (144, 192)
SEED = 0

_ABOUT = "about.json"


class Synthetic(CamVid):
    """Drawn street scenes with CamVid's classes; written to the root folder when that is missing or empty."""

    name = "synthetic"
    native_size = SIZE
    crop_size = SIZE

    def __init__(self, root: Path):
        super().__init__(root)
        if not root.exists() or (root.is_dir() and not any(root.iterdir())):
            draw_dataset(root)
        _check_drawn(root)


def draw_dataset(
    root: Path, *, images: dict[str, int] = IMAGES, size: tuple[int, int] = SIZE, seed: int = SEED
) -> None:
    """Draws a data set in CamVid's layout; the folder appears when it is complete.

    Where another process puts the folder there first, that one stays.

    Args:
        root: folder to create.
        images: number of images in each split.
        size: (height, width) in pixels.
        seed: the same seed gives the same bytes.

    Raises:
        BenchError: the folder cannot be written.
    """
    temporary = root.absolute().with_name(f".{root.name}.{secrets.token_hex(6)}.tmp")
    jobs = [(position, split, index) for position, split in enumerate(images) for index in range(images[split])]
    try:
        for split in images:
            (temporary / split).mkdir(parents=True)
            (temporary / f"{split}annot").mkdir()
        for position, split, index in progress(jobs, "drawing the synthetic data set"):
            image, label = draw_scene(np.random.default_rng([seed, position, index]), size)
            name = f"{split}_{index:04d}.png"
            Image.fromarray(image).save(temporary / split / name)
            Image.fromarray(label).save(temporary / f"{split}annot" / name)
        about = {"version": VERSION, "seed": seed, "size": list(size), "images": images}
        (temporary / _ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")
        _move(temporary, root)
    except OSError as error:
        raise BenchError(
            f"cannot draw the synthetic data set in {root}: {error.strerror or error}; set `data_root`"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(folder: Path, target: Path) -> None:
    """Renames a folder; a target that another process completed meanwhile stays."""
    try:
        folder.rename(target)
    except OSError:
        if not (target / _ABOUT).is_file():
            raise


def _check_drawn(root: Path) -> None:
    try:
        about = json.loads((root / _ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(
            f"{root} does not hold the synthetic data set; delete it or set another `data_root`"
        ) from error
    if about["version"] != VERSION:
        raise BenchError(f"{root} was drawn by another version of this program; delete it to have it drawn again")
