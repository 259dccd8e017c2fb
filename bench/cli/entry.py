"""How a script begins and ends: its command is run, and what a user can mend becomes one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from bench.errors import BenchError, UsageError, as_flags


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a script: a user's error becomes one line on stderr and the exit code, never a traceback."""
    argv = sys.argv[1:]
    name = Path(sys.argv[0]).name
    try:
        main(argv)
    except BenchError as error:
        if "--debug" in argv:
            raise
        hint = f" (see {name} --help)" if error.exit_code == UsageError.exit_code else ""
        print(f"{name}: error: {as_flags(str(error))}{hint}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
