"""Errors a user can cause. Scripts print them as one line and exit with their code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Something went wrong that the user can mend; the message says what, where and how."""

    exit_code = 1


class UsageError(BenchError):
    """The command line or the config file asks for something that does not exist."""

    exit_code = 2


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Builds the error for a name that is not registered, with the nearest names that are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return UsageError(f"unknown {kind} '{name}'; {hint}")
