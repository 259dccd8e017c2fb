"""Sweeps in which cells fail: the reason is told, the others finish, the exit status says so, nothing is half-written.

    PYTHONPATH=tests python -m tests.reliability.failing_cells

A target out of reach, memory that runs out (simulated), a loss that is not finite, and a disk that is full: a small
tmpfs, which only root can mount. Once there is room the same command ends with the numbers of a sweep that had it from
the start.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.pruners.taylor.pruner import Taylor
from tests.reliability.sweeps import Process, numbers, prepared, strays

GRID = ["--methods", "l1,taylor", "--seeds", "0"]


def main() -> int:
    """Runs them and says what was wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = prepared(folder)
        at = flags.index("--opt")
        flags = [*flags[:at], *flags[at + 2 :], *GRID]
        faults = [
            *failing(folder, flags, "reach", ["--ratios", "0.3,0.99", "--min-keep", "0.5"], "cannot remove 99.0%", 2),
            *failing(folder, flags, "memory", [], "out of memory in scoring channels by taylor", 2, no_memory),
            *failing(folder, flags, "nan", ["--finetune-lr", "1e30"], "is n", 4),
            *full_disk(folder, flags),
        ]
    for fault in faults:
        print(fault)
    print(f"{len(faults)} faults")
    return int(bool(faults))


def no_memory() -> None:
    """Lets taylor run out of memory in this process."""

    def score(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999999999 bytes")

    Taylor.score = score


def failing(
    folder: Path, flags: list[str], name: str, more: list[str], reason: str, count: int, before: Callable | None = None
) -> list[str]:
    """What is wrong with a sweep of four cells of which some must fail for a reason."""
    out, log = folder / name, folder / f"{name}.txt"
    code = Process([*flags, *more, "--out-dir", str(out)], log, before).wait()
    rows = json.loads((out / "benchmark_summary.json").read_text())["rows"]
    failed = [row for row in rows if row["status"] == "failed"]
    print(f"{name}: status {code}, {len(failed)} of {len(rows)} failed: {failed[0]['error'] if failed else 'none'}")
    faults = [f"{name}: status {code}"] if code != 1 else []
    faults += [f"{name}: {len(failed)} of {len(rows)} failed"] if (len(failed), len(rows)) != (count, 4) else []
    for row in failed:
        told = (out / row["folder"] / "failed").read_text().splitlines()[0]
        faults += [f"{name}: {row['error']}"] if reason not in row["error"] else []
        faults += [f"{name}: its file says {told}"] if told != row["error"] else []
        faults += [f"{name}: it has a network"] if (out / row["folder"] / "finetuned_model.pt").exists() else []
    return faults + [f"{name}: {left} is left" for left in strays(out)]


def full_disk(folder: Path, flags: list[str]) -> list[str]:
    """What is wrong with a sweep on a disk that is too small, and with the same once it is large enough."""
    out, log = folder / "small", folder / "disk.txt"
    out.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(out)]
    if subprocess.run(mounted, check=False, capture_output=True).returncode:
        print("a small disk cannot be mounted here: left out")
        return []
    try:
        code = Process([*flags, "--out-dir", str(out)], log).wait()
        last = log.read_text().strip().splitlines()[-1]
        print(f"full disk: status {code}: {last}")
        faults = [f"full disk: status {code}, {last}"] if code != 1 or "No space left" not in last else []
        faults += [f"full disk: {left} is left" for left in strays(out)]
        for path in out.rglob("*.json"):
            json.loads(path.read_text())
        subprocess.run(["mount", "-o", "remount,size=64m", str(out)], check=True)
        code = Process([*flags, "--out-dir", str(out)], log).wait()
        print(f"full disk, then room: status {code}")
        assert Process([*flags, "--out-dir", str(folder / "roomy")], log).wait() == 0
        if code:
            return [*faults, f"full disk, then room: status {code}: {log.read_text().strip().splitlines()[-1]}"]
        return faults + (["full disk: the numbers differ"] if numbers(out) != numbers(folder / "roomy") else [])
    finally:
        subprocess.run(["umount", str(out)], check=False)


if __name__ == "__main__":
    sys.exit(main())
