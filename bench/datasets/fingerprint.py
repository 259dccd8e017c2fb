"""What the files of a data set are like, so that a result is not taken for one of files that have changed since.

A fingerprint names the images and labels of a split by their places in the data set's folder, sizes and times of the
last change, which costs a look at each; where it is asked for, or a split is small enough to be read at once, by their
content as well, so that a copy with other times, such as one on a cluster node's own disk, is known to be the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TypedDict, TypeVar

from bench.datasets.base import Pair
from bench.errors import BenchError
from bench.system.console import progress, say
from bench.system.files import file_digest

STAT, CONTENT = "stat", "content"

# Bytes of a split whose content is noted unasked: what is read in a second or so.
_READ_AT_ONCE = 256 << 20


class Fingerprint(TypedDict):
    """The files of a split: how many, a digest of names, sizes and times, and one of names and content, or None where
    that was not read."""

    files: int
    stat: str
    content: str | None


Fingerprints = Mapping[str, Fingerprint]
"""Split -> its fingerprint."""


class SplitFiles:
    """The images and labels of one split; each digest is computed once."""

    def __init__(self, root: Path, pairs: Sequence[Pair], check: str, decoding: str = ""):
        """Nothing is looked at before it is needed.

        Args:
            root: folder of the data set; another place of it makes no difference.
            pairs: the files.
            check: `STAT` or `CONTENT`.
            decoding: a text that differs where the same files would be read as something else.
        """
        self._root, self._check, self._decoding = root, check, decoding
        self._paths = [path for pair in pairs for path in pair]

    def fingerprint(self) -> Fingerprint:
        """What is noted beside a result."""
        is_read = self._check == CONTENT or sum(status.st_size for status in self._statuses) <= _READ_AT_ONCE
        content = self._content if is_read else None
        return {"files": len(self._paths), "stat": self._stat, "content": content}

    def is_as_in(self, before: Fingerprint) -> bool:
        """Whether the files are those of an earlier fingerprint.

        Content decides where both are to be had: where it was noted, and where it is asked for or nothing else is
        equal. Else names, sizes and times do.
        """
        if before["content"] is not None and (self._check == CONTENT or before["stat"] != self._stat):
            return before["content"] == self._content
        return before["stat"] == self._stat

    @cached_property
    def _statuses(self) -> list[os.stat_result]:
        return _of_each(Path.stat, self._paths)

    @cached_property
    def _stat(self) -> str:
        return self._digest(f"{status.st_size} {status.st_mtime_ns}" for status in self._statuses)

    @cached_property
    def _content(self) -> str:
        return self._digest(_of_each(file_digest, progress(self._paths, "content of the data")))

    def _digest(self, described: Iterable[str]) -> str:
        sha = hashlib.sha256(self._decoding.encode())
        for path, text in zip(self._paths, described, strict=True):
            sha.update(os.fsencode(f"{os.path.relpath(path, self._root)} {text}\n"))
        return sha.hexdigest()[:16]


_Result = TypeVar("_Result")


def _of_each(look: Callable[[Path], _Result], paths: Iterable[Path]) -> list[_Result]:
    """What a look at each file gives, several at a time."""
    try:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(look, paths))
    except OSError as error:
        raise BenchError(f"cannot read {error.filename}: {error.strerror}; see to the data set's files") from error


class DataFiles:
    """The files of those splits that a result depends on."""

    def __init__(self, splits: Mapping[str, SplitFiles]):
        self._splits = splits

    def record(self) -> dict[str, Fingerprint]:
        """What is noted beside the result, by split."""
        return {name: files.fingerprint() for name, files in self._splits.items()}

    def changed_since(self, before: Fingerprints | None) -> list[str]:
        """The splits whose files are others than an earlier record says.

        Args:
            before: the record; of the time before there were any, or of splits it does not name, nothing is known,
                and they count as the same.
        """
        known = before or {}
        return [name for name, files in self._splits.items() if name in known and not files.is_as_in(known[name])]

    def fits(self, before: Fingerprints | None, what: str) -> bool:
        """Whether a kept result is one of these files; where not, says so in a line.

        Args:
            before: the record beside it.
            what: the result and what happened to it, such as "scores.pt was computed".
        """
        changed = self.changed_since(before)
        if changed:
            say(f"images or labels of {' and '.join(changed)} changed since {what}: done again")
        return not changed
