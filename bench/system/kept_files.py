"""Files that are kept to save work: read where they can be, made anew where they are damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bench.errors import DamagedFile
from bench.system.console import say

Content = TypeVar("Content")


def read_kept(path: Path, read: Callable[[Path], Content]) -> Content | None:
    """What a kept file holds; None where there is none, and, with a line about it, where it is damaged.

    Args:
        path: the file.
        read: reads it; a key that it misses counts as damage.
    """
    if not path.is_file():
        return None
    try:
        return read(path)
    except (DamagedFile, LookupError):
        say(f"{path} is damaged; it is made anew")
        return None


def with_kept(work: Callable[[], Content], folder: Path) -> Content:
    """Does work that reads what it, or an earlier run, has left in a folder; damaged files are removed and made anew.

    Args:
        work: makes the files of the folder that are missing.
        folder: a damaged file outside of it is somebody else's.

    Raises:
        DamagedFile: one outside, or one that is damaged again.
    """
    removed: set[Path] = set()
    while True:
        try:
            return work()
        except DamagedFile as error:
            if folder not in error.path.parents or error.path in removed:
                raise
            say(f"{error.path} is damaged; it is made anew")
            error.path.unlink(missing_ok=True)
            removed.add(error.path)
