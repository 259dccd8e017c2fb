"""Tables that turn what label files hold, ids or colours, into the numbers of classes: a look-up a pixel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from bench.datasets.image_files import read_colours, read_ids
from bench.errors import BenchError

Colour = tuple[int, int, int]
Value = int | Colour
"""What a label file holds in a pixel: an id or a colour."""

UNKNOWN = 254
"""In a table: what stands for nothing; classes are below it, 255 is left for what is not scored."""

LARGEST_ID = 65535


def decode_ids(path: Path, meanings: Mapping[int, int], colours: Mapping[Colour, int], unknown: str) -> np.ndarray:
    """Reads a label map of ids as uint8 [H, W] of what they mean.

    Args:
        path: the file.
        meanings: id, up to 65535 -> number.
        colours: colour -> the id it stands for, where a palette may say so; see `read_ids`.
        unknown: what is said of an id without meaning, behind the id.

    Raises:
        BenchError: as `read_ids`, or an id that means nothing.
    """
    ids = read_ids(path, colours, largest=LARGEST_ID)
    numbers = _id_table(tuple(meanings.items()))[ids]
    wrong = numbers == UNKNOWN
    if wrong.any():
        raise BenchError(f"label {path} holds id {ids[wrong][0]}, {unknown}")
    return numbers


def decode_colours(path: Path, meanings: Mapping[Colour, int], unknown: str) -> np.ndarray:
    """Reads a label map of colours as uint8 [H, W] of what they mean; otherwise as `decode_ids`."""
    codes = packed(read_colours(path))
    numbers = _colour_table(tuple(meanings.items()))[codes]
    wrong = numbers == UNKNOWN
    if wrong.any():
        raise BenchError(f"label {path} holds colour {unpacked(codes[wrong][0])}, {unknown}")
    return numbers


def packed(colours: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] -> int32 [...], a number for each colour."""
    red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def unpacked(code: int) -> Colour:
    """The colour of a number."""
    code = int(code)
    return code >> 16, code >> 8 & 255, code & 255


@lru_cache(4)
def _id_table(meanings: tuple[tuple[int, int], ...]) -> np.ndarray:
    return _table(LARGEST_ID + 1, meanings)


@lru_cache(4)
def _colour_table(meanings: tuple[tuple[Colour, int], ...]) -> np.ndarray:
    # 16 MiB, of which an image with few colours touches little.
    return _table(1 << 24, ((int(packed(np.array(colour))), number) for colour, number in meanings))


def _table(size: int, meanings: Iterable[tuple[int, int]]) -> np.ndarray:
    table = np.full(size, UNKNOWN, np.uint8)
    for value, number in meanings:
        table[value] = number
    return table
