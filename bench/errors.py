"""Errors a user can cause. Scripts print them as one line and exit with their code."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path


class BenchError(Exception):
    """Something went wrong that the user can mend; the message says what, where and how.

    A message names options as Python does, in backticks: `` `min_keep` `` or `` `min_keep=0.1` ``. Whatever shows it to
    somebody at the command line passes it through `as_flags`.
    """

    exit_code = 1


class MachineError(BenchError):
    """The machine has run out of something or was not allowed to: nothing is wrong with the request itself."""


class Diverged(BenchError):
    """A training's loss or weights are no numbers any more, in all processes that train together alike."""


class DamagedFile(BenchError):
    """A file cannot be what was once written there.

    Attributes:
        path: the file.
    """

    def __init__(self, message: str, path: Path | str):
        super().__init__(message)
        self.path = Path(path)


class UsageError(BenchError):
    """The command line or the config file asks for something that does not exist."""

    exit_code = 2


def as_flags(message: str) -> str:
    """A message with its options spelt as the flags of the command line.

    >>> as_flags("lower `min_keep` or pass `amp=none`")
    'lower --min-keep or pass --amp none'
    """

    def flag(option: re.Match[str]) -> str:
        name, value = option.groups()
        return f"--{name.replace('_', '-')}" + (f" {value}" if value else "")

    return re.sub(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`", flag, message)


def first_line(error: object) -> str:
    """What an error says in its first line, or what it is where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Builds the error for a name that is not registered, with the nearest names that are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return UsageError(f"unknown {kind} '{name}'; {hint}")
