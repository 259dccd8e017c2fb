"""The images of folders, files, patterns and animations, in order, read while the network computes."""

from __future__ import annotations

import glob
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from bench.datasets.image_files import IMAGE_ENDINGS, frames_in, list_images, read_frames, read_image
from bench.errors import BenchError

Item = TypeVar("Item")

ENDINGS = (*IMAGE_ENDINGS, ".gif", ".apng", ".avif")
"""Of files that are looked for in a folder."""


class Frame(NamedTuple):
    """One image to be predicted.

    Attributes:
        name: what its results are called: a path without ending, below the folder of all that was named.
        pixels: uint8 [H, W, 3], RGB, upright; or why there are none.
    """

    name: str
    pixels: np.ndarray | BenchError


@dataclass(frozen=True)
class Source:
    """A file that holds one image, or an animation.

    Attributes:
        path: the file.
        name: of its results; pictures of an animation have a number behind it.
        count: how many pictures it holds.
    """

    path: Path
    name: str
    count: int

    @property
    def names(self) -> list[str]:
        """The name of each picture."""
        return [self.name] if self.count == 1 else [f"{self.name}_{number + 1:06d}" for number in range(self.count)]

    def frames(self) -> Iterator[Frame]:
        """The pictures. One that cannot be read is an error; in an animation it is the last."""
        pictures = iter([read_image(self.path)]) if self.count == 1 else read_frames(self.path)
        for name in self.names:
            yield Frame(name, next(pictures))


def sources_of(places: Sequence[str]) -> list[Source]:
    """The images that folders, files and patterns name, each once, sorted by name within each of these.

    Args:
        places: a folder's images are those that lie in it, and not in folders below; a pattern may hold `*`, `?`,
            `[...]` and `**` for any folders.

    Raises:
        BenchError: a place without images, a video that cannot be read, or two images whose results would have one
            name.
    """
    paths = list(dict.fromkeys(path for place in places for path in _paths(place)))
    base = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    sources = [_source(path, path.absolute().relative_to(base).with_suffix("").as_posix()) for path in paths]
    owners: dict[str, Path] = {}
    for source in sources:
        for name in source.names:
            if name in owners:
                raise BenchError(
                    f"the results of {owners[name]} and {source.path} would both be called {name}; rename one, or "
                    "predict them one after the other into two folders"
                )
            owners[name] = source.path
    return sources


def frames_of(sources: Sequence[Source]) -> Iterator[Frame]:
    """All images in order; what cannot be read is told in its place, and the next file follows."""
    for source in sources:
        try:
            yield from source.frames()
        except BenchError as error:
            yield Frame(source.name, error)


def ahead(items: Iterator[Item], count: int) -> Iterator[Item]:
    """Yields items that a thread makes meanwhile, at most so many before they are asked for."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, items, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item


def _paths(place: str) -> list[Path]:
    path = Path(place)
    if path.is_dir():
        found = list_images(path, endings=ENDINGS)
        if not found:
            raise BenchError(
                f"no images in {path}: expected files ending in {', '.join(ENDINGS)}; for those of folders below pass "
                f"`images={path / '**' / '*.png'}`"
            )
        return found
    if path.is_file():
        return [path]
    # Not of pathlib, which takes no pattern that begins at the root.
    found = [Path(name) for name in sorted(glob.glob(place, recursive=True)) if Path(name).is_file()]  # noqa: PTH207
    if not found:
        raise BenchError(f"{place}: there is no such folder or file, nor a file that fits it as a pattern")
    return found


def _source(path: Path, name: str) -> Source:
    if path.suffix.lower() in _VIDEOS:
        raise BenchError(
            f"{path} is a video that needs a decoder of its own; make a folder of its frames (ffmpeg -i {path.name} "
            "frames/%06d.png), or a GIF, APNG, WebP or AVIF"
        )
    try:
        return Source(path, name, frames_in(path))
    except BenchError:
        # Told when its turn comes, as that of any other that cannot be decoded.
        return Source(path, name, 1)


_VIDEOS = (".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
