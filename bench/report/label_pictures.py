"""Writes label maps and predictions as PNGs: beside their image for people, or as class ids for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.datasets.base import Classes
from bench.system.files import whole_file

if TYPE_CHECKING:
    from torch import Tensor

PANEL_WIDTH = 480
COLUMNS = 3
SHEET_WIDTH, SHEET_COLUMNS = 300, 4
_GAP, _TEXT, _SWATCH = 12, 17, 14
_INK = (34, 34, 34)
NOT_SCORED = (0, 0, 0)


def prediction_picture(
    path: Path | str, image: np.ndarray | Tensor, maps: Mapping[str, np.ndarray | Tensor], classes: Classes
) -> None:
    """Writes one PNG: the image, the maps with their captions, and the classes' colours.

    Args:
        path: the file.
        image: uint8 [3, H, W], RGB.
        maps: caption -> integer [H, W] of class ids, such as the label and the predictions; what is no
            scored class is black.
        classes: the label set.
    """
    colours = np.array([*classes.palette, NOT_SCORED], dtype=np.uint8)
    scored = len(classes.palette)
    ids = {caption: np.asarray(ids) for caption, ids in maps.items()}
    ids = {caption: np.where((entry >= 0) & (entry < scored), entry, scored) for caption, entry in ids.items()}
    panels = {"input": np.asarray(image).transpose(1, 2, 0)} | {name: colours[entry] for name, entry in ids.items()}
    present = np.unique(np.concatenate([entry.ravel() for entry in ids.values()])) if ids else []
    with whole_file(path) as temporary:
        _draw(panels, _legend(present, classes)).save(temporary, format="PNG")


def write_ids(path: Path | str, ids: np.ndarray, colours: Classes | None = None) -> None:
    """Writes a map of class ids as a PNG that holds the ids themselves, of 8 bits, or of 16 where they are uint16.

    Args:
        path: the file.
        ids: integer [H, W] in 0..255, or uint16 [H, W].
        colours: the label set whose colours they are shown in, what is no scored class in black; without one the map
            is grey.
    """
    grey = ids if ids.dtype == np.uint16 else ids.astype(np.uint8)
    image = Image.fromarray(grey) if colours is None else indexed(ids, colours.palette)
    with whole_file(path) as temporary:
        image.save(temporary, format="PNG")


def indexed(ids: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> Image.Image:
    """A palette image that holds the ids themselves.

    Args:
        ids: integer [H, W] in 0..255.
        colours: RGB colour of id 0, 1, ...; all further ids are black.
    """
    image = Image.fromarray(ids.astype(np.uint8))
    # Makes a palette image of the grey one without touching its pixels.
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours)] = colours
    image.putpalette(palette.tobytes())
    return image


def overlaid(image: np.ndarray, ids: np.ndarray, classes: Classes) -> np.ndarray:
    """An image half covered by the colours of its classes.

    Args:
        image: uint8 [H, W, 3], RGB.
        ids: integer [H, W] of class ids; where they are none of the scored classes, the image stays as it is.
        classes: the label set.

    Returns:
        uint8 [H, W, 3].
    """
    colours = np.array([*classes.palette, NOT_SCORED], dtype=np.uint8)
    known = np.minimum(ids, len(classes.palette))
    mixed = (image.astype(np.uint16) + colours[known] + 1) // 2
    return np.where((known == len(classes.palette))[..., None], image, mixed).astype(np.uint8)


def contact_sheet(
    path: Path | str, pairs: Sequence[tuple[str, Image.Image, Image.Image]], present: Sequence[int], classes: Classes
) -> None:
    """Writes one PNG of many images: each beside what was made of it, under its name, and the classes' colours.

    Args:
        path: the file.
        pairs: name, image and its counterpart, as `thumbnail` gives them; at least one.
        present: ids of the classes that are explained, in order.
        classes: the label set.
    """
    cells = [cell for name, *images in pairs for cell in zip((name, ""), images, strict=True)]
    size = (SHEET_WIDTH, max(image.height for _, image in cells))
    with whole_file(path) as temporary:
        _page(cells, size, SHEET_COLUMNS, _legend(present, classes)).save(temporary, format="PNG")


def thumbnail(pixels: np.ndarray) -> Image.Image:
    """An image, uint8 [H, W, 3], as wide as it is in a contact sheet, and at most as high as wide."""
    height, width = pixels.shape[:2]
    scale = SHEET_WIDTH / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BICUBIC)


def _legend(present: Sequence[int], classes: Classes) -> list[tuple[str, tuple[int, ...]]]:
    """Name and colour of classes; what lies behind the last is not scored."""
    entries = [*zip(classes.names, classes.palette, strict=True), ("not scored", NOT_SCORED)]
    return [entries[number] for number in present]


def _draw(panels: Mapping[str, np.ndarray], legend: Sequence[tuple[str, tuple[int, ...]]]) -> Image.Image:
    """Panels in rows of three, each under its caption, and the legend below them."""
    height, width = next(iter(panels.values())).shape[:2]
    size = (PANEL_WIDTH, max(1, round(PANEL_WIDTH * height / width)))
    cells = []
    for position, (caption, pixels) in enumerate(panels.items()):
        # Only the photograph may be smoothed: between two classes' colours lies a third one's.
        smooth = Image.Resampling.BICUBIC if position == 0 else Image.Resampling.NEAREST
        cells.append((caption, Image.fromarray(np.ascontiguousarray(pixels)).resize(size, smooth)))
    return _page(cells, size, 2 if len(panels) == 4 else min(COLUMNS, len(panels)), legend)


def _page(
    cells: Sequence[tuple[str, Image.Image]],
    size: tuple[int, int],
    columns: int,
    legend: Sequence[tuple[str, tuple[int, ...]]],
) -> Image.Image:
    """Images of at most a (width, height) in rows, each under its caption, and the legend below them."""
    font = _font(_TEXT)
    columns = min(columns, len(cells))
    row_height = _TEXT + _GAP // 2 + size[1] + _GAP
    page_width = _GAP + columns * (size[0] + _GAP)
    places = _legend_places([name for name, _ in legend], page_width, font)
    legend_top = _GAP + math.ceil(len(cells) / columns) * row_height
    page_height = legend_top + (places[-1][1] + _TEXT + _GAP if places else 0)

    page = Image.new("RGB", (page_width, page_height), "white")
    pen = ImageDraw.Draw(page)
    for position, (caption, image) in enumerate(cells):
        left = _GAP + position % columns * (size[0] + _GAP)
        top = _GAP + position // columns * row_height
        pen.text((left, top), _fitted(caption, font, size[0]), fill=_INK, font=font)
        page.paste(image, (left, top + _TEXT + _GAP // 2))
    for (name, colour), (left, top) in zip(legend, places, strict=True):
        top += legend_top
        pen.rectangle((left, top + 2, left + _SWATCH, top + 2 + _SWATCH), fill=colour, outline=_INK)
        pen.text((left + _SWATCH + 6, top), name, fill=_INK, font=font)
    return page


def _legend_places(names: Sequence[str], page_width: int, font: ImageFont.FreeTypeFont) -> list[tuple[int, int]]:
    """(left, top) of each entry, wrapped at the page's width."""
    places = []
    left, top = _GAP, 0
    for name in names:
        width = _SWATCH + 6 + math.ceil(font.getlength(name)) + 2 * _GAP
        if left > _GAP and left + width > page_width:
            left, top = _GAP, top + _TEXT + 8
        places.append((left, top))
        left += width
    return places


def _fitted(caption: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """A caption cut where its panel ends."""
    if font.getlength(caption) <= width:
        return caption
    while font.getlength(caption + "…") > width:
        caption = caption[:-1]
    return caption + "…"


def _font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow before 10.1 has no scalable font of its own; matplotlib always brings this one.
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
