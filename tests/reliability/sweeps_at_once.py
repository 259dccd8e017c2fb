"""Starts several sweeps of one folder at once and sees that each thing is done once; and sweeps in which cells fail.

PYTHONPATH=tests python -m tests.reliability.sweeps_at_once [--sweeps 2,4]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.reliability.sweeps import Journal, Process, numbers, prepared, strays


def main() -> int:
    """Runs them and says what was done more than once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", default="2,4")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = prepared(folder)
        assert Process([*flags, "--out-dir", str(folder / "whole")], folder / "log.txt").wait() == 0
        whole = numbers(folder / "whole")
        faults = [
            f"{count} sweeps: {fault}"
            for count in map(int, arguments.sweeps.split(","))
            for fault in at_once(folder, flags, count, whole)
        ]
    for fault in faults:
        print(fault)
    print(f"{len(faults)} faults")
    return 1 if faults else 0


def at_once(folder: Path, flags: list[str], count: int, whole: dict) -> list[str]:
    """What went wrong with so many sweeps of one folder."""
    out, journal, log = folder / f"out{count}", Journal(folder / f"journal{count}.txt"), folder / f"log{count}.txt"
    sweeps = [Process([*flags, "--out-dir", str(out)], log, journal.watch) for _ in range(count)]
    codes, counts = [sweep.wait() for sweep in sweeps], journal.counts()
    print(f"{count} sweeps ended with {codes}; " + ", ".join(f"{text}: {times}" for text, times in counts.items()))
    # By seeds: l1 and taylor have scores of their own for each, slimming also a training.
    allowed = {"scored l1": 2, "scored taylor": 2, "scored slimming": 2, "evaluated the network the method trained": 2}
    faults = [f"ended with {codes}"] if any(codes) else []
    for text, times in counts.items():
        most = allowed.get(text, 1)
        if text in ("evaluated the cut network", "evaluated the recalibrated network", "evaluated candidate"):
            most = len(whole)  # of each cell's own network
        faults += [f"{text}: {times} times"] if times > most else []
    faults += [f"{name} is left" for name in strays(out)]
    found = numbers(out)
    faults += [f"the numbers of {cell} differ" for cell in whole if whole[cell] != found.get(cell)]
    return faults


if __name__ == "__main__":
    sys.exit(main())
