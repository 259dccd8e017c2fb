"""Runs the project's scripts in the process of the tests, which has imported all that they need."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.cli.entry import run

ROOT = Path(__file__).resolve().parent.parent


class Outcome(NamedTuple):
    """How a script ended: exit status and what it wrote."""

    code: int
    out: str
    err: str


def run_script(script: str, *flags: object, folder: Path | None = None) -> Outcome:
    """Runs a script such as `prune.py` as its `__main__` would.

    Args:
        script: its name.
        flags: the words behind it.
        folder: the working folder; by default that of the tests.
    """
    code, out, err = 0, io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.syspath_prepend(ROOT)
        patch.setattr(sys, "argv", [script, *map(str, flags)])
        if folder:
            patch.chdir(folder)
        try:
            run(importlib.import_module(script.removesuffix(".py")).main)
        except SystemExit as end:
            code = end.code or 0
    return Outcome(code, out.getvalue(), err.getvalue())
