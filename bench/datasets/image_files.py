"""Image files, decoded exactly or refused by name: bit depth, palette, transparency, orientation and frames.

Images and labels are opened here alone, so that whatever a file may be is decided once for both.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image
from PIL.Image import Transpose

from bench.errors import BenchError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")
"""Of files that are taken for images, in small letters or capitals."""

MASK_ENDINGS = (*IMAGE_ENDINGS, ".gif")
"""Of files that are taken for masks: a GIF has few colours, but as many as a map of classes."""

_ORIENTATION = 0x0112
# What turns an image of each EXIF orientation upright; 1 is upright, and other values mean nothing.
_TURNED = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

# A phone's pictures have a preview or a depth map behind the picture itself.
_SIDE_PICTURES = "MPO"
# Whose files may hold pictures that follow each other in time; those of a TIFF are pages.
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
# What keeps every value as it was written; the others smear class ids into their neighbours'.
_LOSSLESS = ("PNG", "BMP", "TIFF", "GIF")

_WITH_ALPHA = ("LA", "PA", "RGBA")
_AS_RGB = ("1", "L", "P", "RGB", "RGBX", "YCbCr", *_WITH_ALPHA)
# Greys of fewer than eight bits are spread over 0..255 when they are decoded; a class id is the sample itself.
_SPREAD = {"L;2": 85, "L;4": 17}
_ID_LAYOUTS = ("L", *_SPREAD)

# Where 65535 is white, a picture that stays below this holds values of 8, 10 or 12 bits that were never scaled.
_DARKEST_WHITE = 1 << 12

# What decoders raise over damaged or hostile files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class _Picture:
    """A decoded file.

    Attributes:
        image: its pixels, upright.
        format: the file's, such as `PNG`.
        layout: how pixels are stored, in Pillow's words: `L;4`, `RGB;16B`.
        where: "image FILE" or "label FILE", for messages.
    """

    image: Image.Image
    format: str | None
    layout: str
    where: str

    def refuse(self, why: str) -> NoReturn:
        raise BenchError(f"{self.where} {why}")


def read_image(path: Path) -> np.ndarray:
    """Reads an image as uint8 [H, W, 3], RGB, turned upright as its EXIF orientation says.

    Of 16 bits the upper 8 are kept; grey becomes three equal channels.

    Raises:
        BenchError: missing, damaged or not an image; several frames, transparent pixels, or colours that have no one
            meaning in RGB (CMYK, floats).
    """
    return _rgb(_decoded(path, "image"))


def read_colours(path: Path) -> np.ndarray:
    """Reads a label map that holds colours as uint8 [H, W, 3]; everything is as for `read_image`."""
    return _rgb(_decoded(path, "label"))


def read_ids(
    path: Path, colours: Mapping[tuple[int, int, int], int] | None = None, *, largest: int = 255
) -> np.ndarray:
    """Reads a label map as integer [H, W]: grey values as they are stored, of 1 to 16 bits, or palette indices.

    Args:
        path: the file.
        colours: colour -> the class it stands for in this data set, if there are such colours.
        largest: id there may be; up to 255 all maps are uint8, above it those of more than eight bits are uint16.

    Raises:
        BenchError: an unreadable or lossy file, one with colours, transparent pixels or larger ids, or a palette
            that says of the pixels something else than the indices do.
    """
    picture = _decoded(path, "label")
    image, mode = picture.image, picture.image.mode
    if picture.format not in _LOSSLESS:
        picture.refuse(f"is a {picture.format} file, which does not keep class ids; save it as an 8-bit PNG")
    if mode == "LA" and not _is_see_through(image):
        image = image.getchannel("L")
    elif _is_deep_grey(image, picture.format) or (mode == "I" and picture.format == "TIFF"):
        return _narrowed(picture, largest)
    elif mode not in ("1", "P") and picture.layout not in _ID_LAYOUTS:
        picture.refuse(f"is not an 8-bit map of class ids (mode {mode}); {_advice(image)}")
    ids = np.array(image).astype(np.uint8, copy=False)
    if mode == "P":
        _check_palette(picture, ids, colours or {})
    return ids // _SPREAD.get(picture.layout, 1)


def frames_in(path: Path) -> int:
    """How many pictures an animation shows (GIF, APNG, WebP, AVIF), by its header; 1 of any other file.

    Raises:
        BenchError: missing or not an image.
    """
    with _opened(path, "image") as image:
        return getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """Reads the pictures of an animation one after the other, each as `read_image` gives an image.

    Raises:
        BenchError: as for `read_image`; those before a damaged one have been given by then.
    """
    with _opened(path, "image") as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            layout = _layout(image)
            yield _rgb(_Picture(image.copy(), image.format, layout, f"image {path}, picture {number + 1},"))


def header_size(path: Path, kind: str = "image") -> tuple[int, int]:
    """(height, width) of an image or a label, from its header; where EXIF turns it on its side, perhaps the other way.

    Raises:
        BenchError: missing or not an image.
    """
    with _opened(path, kind) as image:
        return image.height, image.width


def holds_colours(path: Path) -> bool:
    """Whether a label holds colours, and not ids or indices, by its header.

    Raises:
        BenchError: missing or not an image.
    """
    with _opened(path, "label") as image:
        return image.mode not in ("1", "L", "LA", "P", "PA", "I") and not image.mode.startswith("I;16")


def palette_of(path: Path) -> list[tuple[int, int, int]]:
    """Colour of each index of a label; nothing where it has no palette."""
    with _opened(path, "label") as image:
        return [tuple(entry) for entry in np.reshape(image.getpalette("RGB") or [], (-1, 3)).tolist()]


def orientation(path: Path) -> int:
    """EXIF orientation of an image that can be read; 1 is upright."""
    with _opened(path, "image") as image:
        return image.getexif().get(_ORIENTATION, 1)


def list_images(folder: Path, pattern: str = "*", endings: tuple[str, ...] = IMAGE_ENDINGS) -> list[Path]:
    """The image files of a folder, sorted by name; hidden files are left out.

    Args:
        folder: where to look.
        pattern: what their paths in it are like but for the ending, as `Path.glob` has it.
        endings: what counts as an image's, in small letters or capitals.

    Raises:
        BenchError: two files whose names differ in the ending alone.
    """
    return _without_twins(folder, folder.glob(f"{pattern}.*"), endings)


def images_below(folder: Path, endings: tuple[str, ...] = IMAGE_ENDINGS) -> list[Path]:
    """The image files of a folder and of all folders in it, linked ones too; otherwise as `list_images`."""
    found, seen = [], set()
    for base, folders, files in os.walk(folder, followlinks=True):
        # A link may lead back.
        folders[:] = [name for name in folders if not name.startswith(".") and os.path.realpath(base) not in seen]
        if os.path.realpath(base) not in seen:
            found += [Path(base, name) for name in files]
        seen.add(os.path.realpath(base))
    return _without_twins(folder, found, endings)


def _without_twins(folder: Path, paths: Iterable[Path], endings: tuple[str, ...]) -> list[Path]:
    found = sorted(path for path in paths if path.suffix.lower() in endings and not path.name.startswith("."))
    for before, path in itertools.pairwise(found):
        if before.with_suffix("") == path.with_suffix(""):
            raise BenchError(
                f"two images of {folder.name} are called {path.stem}: {before} and {path}; remove one of them"
            )
    return found


@contextlib.contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    """The file's header; the block may decode the pixels."""
    try:
        # Not by its name: Pillow then maps files into memory, and does so wrongly where a TIFF lies on its side.
        with path.open("rb") as file, Image.open(file) as image:
            yield image
    except Image.UnidentifiedImageError as error:
        raise BenchError(f"cannot read {kind} {path}: it is no image of a known format; replace the file") from error
    except _DAMAGE as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BenchError(f"cannot read {kind} {path}: {text.splitlines()[0]}; replace the file") from error


def _decoded(path: Path, kind: str) -> _Picture:
    with _opened(path, kind) as image:
        file_format, layout = image.format, _layout(image)
        frames = 1 if file_format == _SIDE_PICTURES else getattr(image, "n_frames", 1)
        if frames == 1:
            image.load()
            # TIFF images are turned by the decoder and forget that they had to be.
            turn = _TURNED.get(image.getexif().get(_ORIENTATION, 1))
            image = image if turn is None else image.transpose(turn)
    if frames != 1:
        raise BenchError(f"{kind} {path} holds {frames} frames; save the one that is meant as a file of its own")
    return _Picture(image, file_format, layout, f"{kind} {path}")


def _layout(image: Image.Image) -> str:
    """How pixels are stored, which is narrower or wider than how they are decoded."""
    for tile in image.tile:
        arguments = tile[3]
        name = arguments if isinstance(arguments, str) or not arguments else arguments[0]
        return name if isinstance(name, str) else image.mode
    return image.mode


def _is_deep_grey(image: Image.Image, file_format: str | None) -> bool:
    """Whether an image is grey of 16 bits; Pillow has had several modes for that."""
    return image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM"))


def _rgb(picture: _Picture) -> np.ndarray:
    image = picture.image
    if _is_deep_grey(image, picture.format):
        values = np.array(image)
        if (values == image.info.get("transparency", -1)).any():
            picture.refuse(_SEE_THROUGH)
        _check_range(picture, int(values.max()))
        grey = (values >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode not in _AS_RGB:
        picture.refuse(
            f"has pixels of mode {image.mode}, which do not say what they are in RGB; convert it to 8-bit RGB"
        )
    if _is_see_through(image):
        picture.refuse(_SEE_THROUGH)
    # By way of RGBA, because a palette with alpha has no other.
    pixels = np.array((image.convert("RGBA") if image.mode == "PA" else image).convert("RGB"))
    if ";16" in picture.layout:
        # Decoding has left the upper byte.
        _check_range(picture, int(pixels.max()) << 8)
    return pixels


_SEE_THROUGH = "has transparent pixels; lay it on a background and save it without transparency"


def _is_see_through(image: Image.Image) -> bool:
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return False
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return lowest < 255


def _check_range(picture: _Picture, largest: int) -> None:
    if 0 < largest < _DARKEST_WHITE or (not largest and picture.image.mode == "RGB"):
        picture.refuse(
            f"has 16 bits, whose white is 65535, but no value above {max(largest, 255)}: it would be black; scale its "
            "values up or save it with 8 bits"
        )


def _narrowed(picture: _Picture, largest: int) -> np.ndarray:
    """The ids of a label of more than eight bits."""
    ids = np.array(picture.image)
    wrong = (ids < 0) | (ids > largest)
    if wrong.any():
        picture.refuse(f"holds id {ids[wrong][0]}; class ids are 0 to {largest}")
    return ids.astype(np.uint8 if largest <= 255 else np.uint16)


def _advice(image: Image.Image) -> str:
    if image.mode in ("RGB", "RGBA"):
        pixels = np.array(image.convert("RGB"))
        if (pixels == pixels[..., :1]).all():
            return "its three channels are equal: save one of them as an 8-bit PNG"
        return "it holds colours: turn each into its class id and save an 8-bit PNG"
    return "convert it"


def _check_palette(picture: _Picture, ids: np.ndarray, colours: Mapping[tuple[int, int, int], int]) -> None:
    """Refuses a palette whose entries name classes themselves, and others than the indices do.

    Programs that make files smaller put grey or colour maps into palettes, in whatever order.
    """
    entries = [tuple(entry) for entry in np.reshape(picture.image.getpalette("RGB") or [], (-1, 3)).tolist()]
    if all(len(set(entry)) == 1 for entry in entries) and len(set(entries)) == len(entries):
        meant = [entry[0] for entry in entries]
    elif all(entry in colours for entry in entries):
        meant = [colours[entry] for entry in entries]
    else:
        return
    for index in np.unique(ids).tolist():
        if index < len(meant) and meant[index] != index:
            picture.refuse(
                f"shows palette index {index} in the colour of class {meant[index]}, so either may be meant; save the "
                "class ids as an 8-bit grey PNG"
            )
