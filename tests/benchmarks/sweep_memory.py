"""Memory of the process that runs a sweep of many tiny cells: how much it holds after each.

    PYTHONPATH=tests python -m tests.benchmarks.sweep_memory [--cells 100] [--launcher local]

Says what it held after the tenth cell, when everything that is made once is there, at most after that, and in the
end. With `--launcher local` the cells run in processes of their own.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from bench.commands.benchmark import main as benchmark
from bench.sweep.progress import SweepProgress
from tests.reliability.sweeps import prepared

PAGE = os.sysconf("SC_PAGE_SIZE") / 1e6


def held() -> float:
    """Megabytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def main() -> int:
    """Runs the sweep; 1 where it grew by more than 50 MB."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100)
    parser.add_argument("--launcher", choices=("local",))
    arguments = parser.parse_args()
    seen: list[float] = []
    finish = SweepProgress.finish

    def noted(progress: SweepProgress, line: str, seconds: float | None) -> None:
        finish(progress, line, seconds)
        seen.append(held())

    SweepProgress.finish = noted
    with tempfile.TemporaryDirectory() as name:
        flags = prepared(Path(name))
        ratios = ",".join(f"{0.9 * (number + 1) / arguments.cells:.6f}" for number in range(arguments.cells))
        flags[flags.index("--opt") : flags.index("--opt") + 2] = []
        flags += ["--methods", "l1", "--ratios", ratios, "--seeds", "0", "--finetune-epochs", "0"]
        flags += ["--launcher", arguments.launcher, "--jobs", "2"] if arguments.launcher else []
        benchmark([*flags, "--out-dir", f"{name}/out"])
    first, most, last = seen[9], max(seen[10:]), seen[-1]
    print(f"{len(seen)} cells: {first:.0f} MB after the tenth, then at most {most:.0f} MB, {last:.0f} MB in the end")
    return int(most - first > 50)


if __name__ == "__main__":
    sys.exit(main())
