"""The grid of jobs: every method at every goal with every seed; how one is attempted, and what is said of it.

A job that fails says why in its folder and does not sink the others.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError, as_flags
from bench.plan.target import Goal
from bench.report.row_settings import Settings
from bench.report.summary_record import ComparisonRow, Measured, comparison_row
from bench.system.failures import explained, in_one_line
from bench.system.files import make_folder
from bench.system.run_folder import FAILED, fail


@dataclass(frozen=True)
class Job:
    """One cell of the grid: a method, what it is to reach, a seed."""

    method: str
    goal: Goal
    seed: int

    def __str__(self) -> str:
        return f"{self.method} at {self.goal}, seed {self.seed}"


def grid(methods: Sequence[str], goals: Sequence[Goal], seeds: Sequence[int]) -> list[Job]:
    """All combinations, method by method; what is named twice is done once."""
    return list(dict.fromkeys(Job(*cell) for cell in itertools.product(methods, goals, seeds)))


def attempt(job: Job, folder: Path, work: Callable[[], Measured], settings: Settings) -> ComparisonRow:
    """Runs a job; whatever goes wrong becomes its row, with the settings it was to have, and its `failed` marker."""
    start, reason = time.perf_counter(), None
    try:
        measured = work()
        # What failed in an earlier run after the pruning was done has now succeeded.
        (folder / FAILED).unlink(missing_ok=True)
    except Exception as error:  # noqa: BLE001 - one job's defect must not cost the others' results
        reason = as_flags(in_one_line(error))
        details = "" if explained(error) else "\n" + traceback.format_exc()
        # On a full disk the row has to do.
        with contextlib.suppress(BenchError):
            fail(make_folder(folder), reason + details)
        measured = Measured()
    seconds = time.perf_counter() - start
    how = {"settings": settings, "measured": measured, "error": reason, "seconds": seconds}
    return comparison_row(job.method, job.goal, job.seed, folder.name, **how)


def check_outcome(rows: Sequence[ComparisonRow], out: Path) -> None:
    """Raises BenchError when a job failed, so that the command's exit status says so."""
    failed = [row for row in rows if row["status"] == "failed"]
    if failed:
        raise BenchError(
            f"{len(failed)} of {len(rows)} jobs failed, the first with: {failed[0]['error']}; "
            f"see {FAILED} in the folders under {out} and run the command again"
        )


def outcome(row: ComparisonRow) -> str:
    """What came of a job, in a line."""
    if row["status"] == "failed":
        return f"failed: {row['error']}"
    stages = {"cut": "cut", "recalibrated": "recalibrated", "repaired": "repaired", "finetuned": "fine-tuned"}
    named = {name: row.get(f"miou_{stage}") for stage, name in stages.items()}
    quality = ", ".join(f"{name} {value:.1%}" for name, value in named.items() if value is not None)
    return f"{row['macs_kept']:.1%} of the MACs, mIoU {quality or 'not measured'} ({row['seconds']:.0f} s)"
