"""Files that are kept to save work: read where they can be, made anew where they are damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bench.errors import DamagedFile
from bench.system.console import say
from bench.system.files import make_folder
from bench.system.locks import lock_of, locked

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


def made_once(
    path: Path, read: Callable[[Path], Content | None], make: Callable[[], Content], what: str, *, folder: bool = False
) -> Content:
    """What a kept file holds; where there is none, it is made by whichever process comes first, and the others wait.

    Args:
        path: the file.
        read: reads it; None where what it holds is of no use any more.
        make: writes it, and returns what it holds.
        what: what it is, for who waits.
        folder: whether it is one file of a folder that is made as a whole.
    """
    seen = _version(path)
    kept = read_kept(path, read)
    if kept is not None:
        return kept
    whole = path.parent if folder else path
    make_folder(whole.parent)
    with locked(lock_of(whole), what):
        # A file that was of no use and is still the same is not read, and said to be of no use, again.
        kept = None if _version(path) == seen else read_kept(path, read)
        return make() if kept is None else kept


def _version(path: Path) -> tuple[int, int] | None:
    """Tells a file from the one that took its place; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


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
