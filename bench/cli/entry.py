"""How a script begins and ends: its command is run, and what a user can mend becomes one line."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from bench.errors import UsageError, as_flags
from bench.system.console import stages_told
from bench.system.failures import explained
from bench.system.signals import INTERRUPTED, sigterm_as_interrupt


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a script: a user's or the machine's error becomes one line on stderr and the exit code, never a traceback.

    A defect of the program keeps its traceback, and with `--debug` everything does.
    """
    argv = sys.argv[1:]
    name = _typed(Path(sys.argv[0]))
    _show_everything()
    try:
        Path.cwd()
    except OSError:
        # Libraries that are loaded later end the process with words of their own.
        _end(1, f"{name}: error: the working folder is gone; change to one that exists")
    try:
        with sigterm_as_interrupt(), stages_told():
            main(argv)
        # Now, when it can be told, and not when Python ends.
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        _end(INTERRUPTED, f"{name}: interrupted")
    except BrokenPipeError:
        _end(1)
    except Exception as error:
        known = explained(error)
        if known is None or "--debug" in argv:
            raise
        hint = f" (see {name} --help)" if known.exit_code == UsageError.exit_code else ""
        _end(known.exit_code, f"{name}: error: {as_flags(str(known))}{hint}")


def _typed(called: Path) -> str:
    """What was typed: a script's name, or of a package that was run `python -m bench.predict`."""
    if called.stem != "__main__":
        return called.name
    folders = itertools.takewhile(lambda folder: (folder / "__init__.py").is_file(), called.parents)
    return f"python -m {'.'.join(reversed([folder.name for folder in folders]))}"


def _show_everything() -> None:
    """Lets the console show what its encoding lacks, and file names that are no text at all, as `\\xf6`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end(code: int, line: str | None = None) -> None:
    with contextlib.suppress(OSError):
        if line:
            print(line, file=sys.stderr, flush=True)  # noqa: T201
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        # Nowhere to write to: nothing may be left for the end of Python, which would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
