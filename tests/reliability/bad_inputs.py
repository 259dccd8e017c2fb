"""Sends bad inputs to the five commands: each must end in one line, and leave nothing half-written.

    python -m tests.reliability.bad_inputs [--kind data] [--match WORDS] [--keep DIR]

Flags, config files, data, checkpoints, folders and surroundings (`cases.py`), one after the other, with tiny data
that it draws itself. A case holds when the command ends with status 1 or 2, its last line on stderr is the only one
that begins with its name, nothing there looks like a traceback or a warning, no temporary file is left, every new
JSON and network can be read, and what was there before is as it was. Where the surroundings are what is bad the
command is a process of its own. Prints a line a case; exits with 1 if one does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    # For `python tests/reliability/bad_inputs.py`, too.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from tests.reliability.cases import CASES
from tests.reliability.place import Case, Place, Store
from tests.scripts import ROOT, Outcome, run_script

LIMIT = 120
"""Seconds a process may take."""

# What no user should see, whatever else is said.
NOISE = re.compile(
    r"Traceback|^  File \"|\w*Warning:|^\w+Error:|^\w+Exception:|Exception ignored|core dumped", re.MULTILINE
)
TEMPORARY = re.compile(r"\.tmp$|^\.probe|~$|\.part$")


class Verdict(NamedTuple):
    """What became of a case: its exit status, the last line it said, and what is wrong with that."""

    code: int | None
    line: str
    faults: list[str]


def tried(case: Case, store: Store, folder: Path) -> Verdict | None:
    """Runs a case in a folder that is to be made; None where it cannot be tried on this machine."""
    place = Place(store, folder, case.script)
    try:
        words = case.command(place)
        before = contents(folder)
        outcome = in_process(case, words, folder) if case.process else in_this_process(case, words, folder)
        faults = [*faults_of(case, outcome), *traces(folder, before)]
    except PermissionError:
        return None
    finally:
        subprocess.run(["umount", folder / "disk"], capture_output=True)
    lines = outcome.err.strip().splitlines()
    return Verdict(outcome.code, lines[-1] if lines else "", faults)


def in_this_process(case: Case, words: list[str], folder: Path) -> Outcome:
    """Runs a command here, which is quick; what it would have printed as a traceback is its fault."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        try:
            return run_script(case.script, *words, folder=folder)
        except Exception as error:  # noqa: BLE001 - whatever comes through would be a traceback
            return Outcome(1, "", f"Traceback: {type(error).__name__}: {error}".replace("\n", " "))


def in_process(case: Case, words: list[str], folder: Path) -> Outcome:
    """Runs a command in a process of its own, with its surroundings."""
    assert case.process
    environment = {name: value for name, value in os.environ.items() if name not in case.process.unset}
    environment |= {"OMP_NUM_THREADS": "1"} | case.process.set
    with contextlib.ExitStack() as stack:
        stdout = stack.enter_context(Path(case.process.stdout).open("w")) if case.process.stdout else subprocess.PIPE
        try:
            done = subprocess.run(
                [sys.executable, str(ROOT / case.script), *words],
                cwd=folder,
                env=environment,
                stdout=stdout,
                stderr=subprocess.PIPE,
                preexec_fn=case.process.prepare,
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired:
            return Outcome(-1, "", f"was not done after {LIMIT} seconds")
    out = (done.stdout or b"").decode(errors="replace")
    return Outcome(done.returncode, out, done.stderr.decode(errors="replace"))


def faults_of(case: Case, outcome: Outcome) -> list[str]:
    """What is wrong with how a command ended."""
    faults = []
    if case.may_succeed and outcome.code == 0:
        return ["noise on stderr"] if NOISE.search(outcome.err) else []
    if outcome.code not in (1, 2):
        faults.append(f"status {outcome.code}")
    if noise := NOISE.search(outcome.err) or NOISE.search(outcome.out):
        faults.append(f"'{noise[0].strip()}' is shown")
    if case.process and case.process.silent:
        return faults
    lines = outcome.err.rstrip("\n").split("\n")
    mine = [line for line in lines if line.startswith(f"{case.script}: ")]
    if len(mine) != 1:
        faults.append(f"{len(mine)} lines begin with '{case.script}: '")
    elif lines[-1] != mine[0]:
        faults.append("the line is not the last")
    elif not re.match(rf"{re.escape(case.script)}: error: \S.{{8,}}", mine[0]):
        faults.append("the line says nothing")
    return faults


def contents(folder: Path) -> dict[Path, tuple[int, int]]:
    """When each file was written, and how large it is."""
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def traces(folder: Path, before: dict[Path, tuple[int, int]]) -> list[str]:
    """What a command left that it should not have: temporary files, and files that cannot be read."""
    faults, after = [], contents(folder)
    for path in after:
        if TEMPORARY.search(path.name):
            faults.append(f"{path.name} is left")
        elif after[path] != before.get(path) and not readable(path):
            faults.append(f"{path.name} is half-written")
    if (folder / "ran").exists():
        faults.append("code of a checkpoint was run")
    # What it writes it may put in the place of what was there; the rest is not its own.
    mine = ("failed", "done", "best.pt", "last.pt", "metrics.csv", "config.json", "report.json", "report.html")
    gone = [path.name for path in before if path not in after and path.name not in mine]
    return [*faults, *(f"{name} is gone" for name in gone)]


def readable(path: Path) -> bool:
    """Whether a file is whole, for those whose kind tells."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".csv":
            return path.read_text(encoding="utf-8").endswith("\n")
    except Exception:  # noqa: BLE001 - in whatever way
        return False
    return True


def main() -> int:
    """Tries the cases and prints how they ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", help="only those of one kind")
    parser.add_argument("--match", default="", help="only those with these words in their line")
    parser.add_argument("--keep", type=Path, help="folder to leave everything in")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.keep or Path(tempfile.mkdtemp())
    store = Store.make(folder / "store")
    originals = contents(store.folder)
    wanted = [case for case in CASES if arguments.kind in (None, case.kind)]
    wanted = [case for case in wanted if arguments.match in f"{case.kind} {case.script} {case.name}"]
    failed = left_out = 0
    for number, case in enumerate(wanted, start=1):
        started = time.perf_counter()
        verdict = tried(case, store, folder / f"{number:03d}")
        seconds = time.perf_counter() - started
        state = "skip" if verdict is None else "FAIL" if verdict.faults else "ok"
        failed, left_out = failed + (state == "FAIL"), left_out + (state == "skip")
        code, line = (verdict.code, verdict.line) if verdict else ("-", "cannot be tried on this machine")
        print(f"{number:3d} {state:4} {code!s:3} {case.kind:11} {case.script:17} {case.name[:48]:48} {seconds:5.1f} s")
        print(f"    {line[:220]}")
        if verdict and verdict.faults:
            print(f"    FAULT: {'; '.join(verdict.faults)}", flush=True)
    if contents(store.folder) != originals:
        print("FAULT: what the cases share was changed")
        failed += 1
    print(f"{len(wanted)} bad inputs: {len(wanted) - failed - left_out} hold, {failed} fail, {left_out} left out")
    if not arguments.keep:
        shutil.rmtree(folder)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
