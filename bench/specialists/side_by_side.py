"""Several specialists at once: each pruned by a process of its own, by the same command with its group alone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.specialists.deployment import Group, group_name, spelt
from bench.system.console import say

_POLL_SECONDS = 0.2


def prune_in_processes(groups: Sequence[Group], words: Sequence[str], processes: int, folder: Path) -> None:
    """Runs `python -m bench.specialists prune` for each group, some at a time; returns when all are done.

    What one of them says goes to `class..._prune.log` in a folder. One that fails does not end the others. Ctrl-C and
    SIGTERM end all of them; what is finished stays, and unfinished trainings go on when the command is given again.

    Args:
        groups: whose specialists are wanted.
        words: the flags of the command; the group is added.
        processes: how many run at once.
        folder: of their logs.

    Raises:
        BenchError: those that failed, with the last line that the first of them said.
    """
    waiting, running, failed = list(groups), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                group = waiting.pop(0)
                running[group] = _started(group, words, _log_of(group, folder))
                say(f"specialist of the classes {spelt(group)}: started, {len(waiting)} to come")
            for group, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[group]
                say(f"specialist of the classes {spelt(group)}: {'failed' if process.returncode else 'done'}")
                if process.returncode:
                    failed.append(group)
            time.sleep(_POLL_SECONDS)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    if failed:
        first = _log_of(failed[0], folder)
        said = first.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise BenchError(
            f"{len(failed)} of {len(groups)} specialists failed: {', '.join(map(spelt, failed))}; {first} ends with: "
            f"{said[-1] if said else 'nothing'}"
        )


def _log_of(group: Group, folder: Path) -> Path:
    return folder / f"{group_name(group)}_prune.log"


def _started(group: Group, words: Sequence[str], log: Path) -> subprocess.Popen:
    # Later flags count: each process prunes one specialist, and starts no more.
    own = ["--groups", spelt(group), "--processes", "1"]
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "bench.specialists", "prune", *words, *own],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
