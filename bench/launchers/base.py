"""What every launcher is given and gives back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config.shipped import PACKAGE
from bench.errors import UsageError, unknown_name
from bench.system.signals import INTERRUPTED

TOGETHER = "bench.launchers.together"
"""The module that runs another one in several processes: `N MODULE` stand before the words."""


@dataclass(frozen=True)
class Launching:
    """How command lines are run.

    Attributes:
        module: what `python -m` runs.
        jobs: how many at once.
        threads: CPU threads of each, and of all that it starts.
        gpus: GPUs of each.
        logs: a folder for what the processes say, where that has to be kept for a while.
        options: what else the launcher is told.
        preload: modules that are imported once for all processes, where the launcher can do that.
    """

    module: str
    jobs: int
    threads: int
    gpus: int
    logs: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    preload: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        number: of its command line.
        code: exit status, negative for a signal; None where it was lost with its machine.
        said: its last line on stderr.
    """

    number: int
    code: int | None
    said: str

    @property
    def is_lost(self) -> bool:
        """Whether something from outside ended it, so that another try may do better."""
        return self.code is None or self.code < 0 or self.code == INTERRUPTED

    @property
    def reason(self) -> str:
        """Why it did not succeed, in a line."""
        if self.code is None:
            return f"its process was lost: {self.said or 'nothing is known'}"
        if self.code == -signal.SIGKILL:
            return "its process was killed (SIGKILL), most likely because memory ran out"
        if self.code == INTERRUPTED:
            return "its process was interrupted from outside"
        if self.code < 0:
            return f"its process was ended by {signal.Signals(-self.code).name}"
        return self.said or f"its process ended with status {self.code}"


class Launcher(ABC):
    """Runs command lines."""

    known: tuple[str, ...] = ()
    """The names of its options."""

    def __init__(self, launching: Launching):
        """Checks the options; nothing is started.

        Raises:
            UsageError: an option it does not have.
        """
        for name in launching.options:
            if not self.known:
                raise UsageError(f"this launcher has no options; leave --launcher-options {name} out")
            if name not in self.known:
                raise unknown_name("option of the launcher", name, self.known)
        self.how = launching

    @abstractmethod
    def run(self, commands: Sequence[Sequence[str]]) -> Iterator[Ended]:
        """Runs command lines, as many at once as was said, and yields how each ended, as they end.

        Args:
            commands: the words behind `python -m MODULE`.
        """


def run_command(module: str, words: Sequence[str], folder: str) -> tuple[int, str]:
    """Runs a command line and waits for it.

    Args:
        module: what `python -m` runs.
        words: what stands behind it.
        folder: the working folder.

    Returns:
        Exit status, and the last line on stderr.
    """
    with tempfile.TemporaryFile() as errors:
        done = subprocess.run(
            [sys.executable, "-m", module, *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": import_path()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            check=False,
        )
        errors.seek(0)
        return done.returncode, last_line(errors.read())


def import_path() -> str:
    """PYTHONPATH of a process that imports this package, wherever it begins."""
    return os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))


def last_line(said: bytes) -> str:
    """The last line of an output that says something."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""
