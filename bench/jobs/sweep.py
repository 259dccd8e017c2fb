"""The grid of jobs: every method at every goal with every seed, each in a folder named by its content.

A job that is done is not done again; one that failed says why in its folder and does not sink the others.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.errors import BenchError, as_flags
from bench.jobs.finetuning import finetune_model
from bench.jobs.finished_cells import comparable_folders, finished_cells, measured_in
from bench.jobs.latency_format import settle_format
from bench.jobs.pruning import time_model
from bench.jobs.robustness import score_rows
from bench.jobs.selection import EVERYTHING, Selection, chosen_jobs
from bench.leaderboard.results import write_summary
from bench.measure.baseline import Baseline
from bench.plan.target import Goal
from bench.report.row_settings import Settings, settings_of
from bench.report.summary_record import ComparisonRow, Measured, baseline_record, comparison_row
from bench.system.console import say
from bench.system.failures import explained, in_one_line
from bench.system.files import make_folder
from bench.system.locks import lock_of, locked
from bench.system.provenance import provenance
from bench.system.run_folder import FAILED, INFO, fail
from bench.training.distillation import Distillation
from bench.training.options import FinetuneOptions, TrainOptions


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


def finetune_benchmark(
    baseline: Baseline,
    finetune: TrainOptions,
    out: Path,
    distillation: Distillation | None = None,
    selection: Selection = EVERYTHING,
    *,
    corruptions: bool = False,
) -> list[ComparisonRow]:
    """Fine-tunes pruned networks of a benchmark and writes `finetuned_summary.json/.csv/.md/.png`.

    The summary also holds what earlier runs fine-tuned by the same recipe.

    Args:
        baseline: the network and its data.
        finetune: the recipe, the same for all.
        out: folder of the benchmark.
        distillation: the teacher, the same for all, if there is one.
        selection: which networks.
        corruptions: also score them under corruptions.

    Returns:
        One row a network of the selection.

    Raises:
        BenchError: nothing in the folder was pruned, or all of it from another baseline or on other data; something
            that was selected is not there.
    """
    infos = chosen_jobs(out, selection)
    if not infos:
        raise BenchError(f"{out} holds no pruned network; run benchmark.py with --out-dir {out} first")
    for folder in (folder for folder, info in infos.items() if info is None):
        say(f"{folder} is left out: {folder / INFO} is not a JSON file")
    readable = [folder for folder, info in infos.items() if info is not None]
    folders, others = comparable_folders(baseline, readable)
    if not folders:
        raise BenchError(f"no pruned network in {out} fits: {others}")
    if others:
        say(f"left out, of the pruned networks in {out}: {others}")
    if baseline.is_timed:
        settle_format(baseline, out)
    _check_labelled(baseline, finetune)
    rows = []
    for number, folder in enumerate(folders, start=1):
        info = infos[folder]
        job = Job(info["method"], Goal(info["target"]["kind"], info["target"]["value"]), info["seed"])
        settings = settings_of(info["method_options"], info["options"], info.get("schedule"), None)

        def work(job: Job = job, folder: Path = folder) -> Measured:
            time_model(baseline, folder)
            finetune_model(baseline, folder, finetune, job.seed, distillation)
            return measured_in(folder, baseline)

        with locked(lock_of(folder), folder.name):
            row = attempt(job, folder, work, settings)
        rows.append(row)
        say(f"[{number}/{len(folders)}] {job}: {outcome(row)}")
    if corruptions:
        rows = score_rows(baseline, out, rows)
    earlier = [] if selection.is_everything else _tuned_alike(baseline, out, rows)
    write_summary(out, baseline_record(baseline), [*rows, *earlier], provenance(), name="finetuned_summary")
    if len(readable) < len(infos):
        raise BenchError(
            f"{len(infos) - len(readable)} of {len(infos)} pruned networks were left out because their {INFO} is "
            "damaged; run benchmark.py again, which makes them anew"
        )
    return rows


def _tuned_alike(baseline: Baseline, out: Path, rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Rows of the other jobs whose networks were fine-tuned by the recipe of these."""
    recipes = {row["finetune_recipe"] for row in rows if row["status"] == "done"}
    others = finished_cells(baseline, out, {row["folder"] for row in rows})
    alike = [row for row in others if row["finetune_recipe"] in recipes]
    if others:
        say(f"the summary also holds {len(alike)} of {len(others)} further jobs: those fine-tuned by the same recipe")
    return alike


def finetune_recipe(training: TrainOptions, finetune: FinetuneOptions) -> TrainOptions | None:
    """The recipe of fine-tuning: that of training but for length and rate; None for no epochs."""
    if finetune.finetune_epochs == 0:
        return None
    return replace(training, epochs=finetune.finetune_epochs, lr=finetune.finetune_lr)


def check_outcome(rows: Sequence[ComparisonRow], out: Path) -> None:
    """Raises BenchError when a job failed, so that the command's exit status says so."""
    failed = [row for row in rows if row["status"] == "failed"]
    if failed:
        raise BenchError(
            f"{len(failed)} of {len(rows)} jobs failed, the first with: {failed[0]['error']}; "
            f"see {FAILED} in the folders under {out} and run the command again"
        )


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


def _check_labelled(baseline: Baseline, finetune: TrainOptions | None) -> None:
    """Finds before the first job what would fail them all."""
    baseline.data.check_labelled(baseline.split, *(["train", "val"] if finetune else []))


def outcome(row: ComparisonRow) -> str:
    """What came of a job, in a line."""
    if row["status"] == "failed":
        return f"failed: {row['error']}"
    stages = {"cut": "cut", "recalibrated": "recalibrated", "repaired": "repaired", "finetuned": "fine-tuned"}
    named = {name: row.get(f"miou_{stage}") for stage, name in stages.items()}
    quality = ", ".join(f"{name} {value:.1%}" for name, value in named.items() if value is not None)
    return f"{row['macs_kept']:.1%} of the MACs, mIoU {quality or 'not measured'} ({row['seconds']:.0f} s)"
