"""Kills a sweep of 12 cells at random moments, runs it to the end, and compares it with one that nobody disturbed.

    PYTHONPATH=tests python -m tests.reliability.killed_sweep [--kills 25] [--seed 0] [--jobs N]

Each kill is a SIGKILL of the sweep, of all that it has started, or of one process that it has started. The exit status
is 1 where a number differs, a finished cell was run again, or a file is left over.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.reliability.sweeps import Process, descendants, finished, numbers, prepared, strays, until_over


def main() -> int:
    """Does all of it and says what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=0, help="processes of the local launcher; 0 launches none")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        return killed(Path(name), arguments.kills, random.Random(arguments.seed), arguments.jobs)


def killed(folder: Path, kills: int, chance: random.Random, jobs: int) -> int:
    """Runs both sweeps; the number of faults."""
    flags, log = prepared(folder), folder / "log.txt"
    flags += ["--launcher", "local", "--jobs", str(jobs)] if jobs else []
    began = time.monotonic()
    assert Process([*flags, "--out-dir", str(folder / "whole")], log).wait() == 0, log.read_text()
    length, out = time.monotonic() - began, folder / "out"
    print(f"undisturbed: {length:.1f} s")
    done: dict[str, tuple[int, ...]] = {}
    faults, sent = [], 0
    while sent < kills:
        process = Process([*flags, "--out-dir", str(out)], log)
        if until_over(process, chance.uniform(0, length / 3)):
            # What is finished is started anew, so that there is something to kill.
            faults += [] if process.code == 0 else [f"status {process.code} without a kill that it knows of"]
            until_over(process, 0)
            _forget(out, chance)
            done = {}
            continue
        target = _kill(process, chance)
        sent += 1
        now = finished(out) if out.is_dir() else {}
        faults += [
            f"{cell} was run again (kill {sent})" for cell in done.keys() & now.keys() if done[cell] != now[cell]
        ]
        done = now
        print(f"kill {sent}: {target}; {len(done)} cells are done", flush=True)
    code = Process([*flags, "--out-dir", str(out)], log).wait()
    faults += [] if code == 0 else [f"status {code} in the end: {log.read_text()[-2000:]}"]
    now = finished(out)
    faults += [f"{cell} was run again in the end" for cell in done if done[cell] != now[cell]]
    faults += [f"{name} is left" for name in strays(out)]
    whole, found = numbers(folder / "whole"), numbers(out)
    faults += [f"the numbers of {cell} differ" for cell in whole if whole[cell] != found.get(cell)]
    for fault in faults:
        print(fault)
    print(f"{kills} kills, {len(whole)} cells: {len(faults)} faults")
    return 1 if faults else 0


def _kill(process: Process, chance: random.Random) -> str:
    """Kills the sweep, all its processes, or one that it has started; waits for the end of the sweep."""
    children = descendants(process.pid)
    how = chance.choice(["alone", "all", "child"] if children else ["alone"])
    if how == "child":
        child = chance.choice(children)
        _send(child)
        time.sleep(chance.uniform(0, 1))
    if how == "all":
        for child in children:
            _send(child)
    process.kill()
    process.wait()
    # Whoever outlives the sweep ends soon, or finishes a cell and then ends.
    return f"{how} ({len(children)} children)"


def _send(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        print("one had ended by itself")


def _forget(out: Path, chance: random.Random) -> None:
    """Removes half of the cells, as if they had never been run, and the scores."""
    for folder in sorted(path for path in out.iterdir() if path.is_dir()):
        if chance.random() < 0.5:
            for path in sorted(folder.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()


if __name__ == "__main__":
    sys.exit(main())
