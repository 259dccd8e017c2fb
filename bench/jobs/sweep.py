"""The grid of jobs: every method at every goal with every seed, each in a folder named by its content.

A job that is done is not done again; one that failed says why in its folder and does not sink the others.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.engine.session import Session
from bench.errors import BenchError, DamagedFile, as_flags
from bench.jobs.benchmark_records import pruned_folders
from bench.jobs.finetuning import finetune_model
from bench.jobs.finished_cells import comparable_folders, finetuned_in, finished_cells
from bench.jobs.latency_format import settle_format
from bench.jobs.pruning import prune_model, time_model
from bench.leaderboard.results import write_summary
from bench.measure.baseline import Baseline
from bench.measure.latency import device_name
from bench.measure.latency_mode import PLAIN_MODE
from bench.plan.target import Goal
from bench.pruners.base import Method
from bench.report.row_settings import Settings, settings_of
from bench.report.summary_record import ComparisonRow, Measured, baseline_record, comparison_row, measured_of
from bench.system.console import say
from bench.system.failures import explained, in_one_line
from bench.system.files import digest, make_folder, plain, read_json
from bench.system.kept_files import with_kept
from bench.system.provenance import provenance
from bench.system.run_folder import FAILED, FINETUNED, FINETUNED_REPORT, INFO, PRUNED, REPORT, fail, is_done
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


def run_benchmark(
    session: Session,
    pruners: Mapping[str, Method],
    jobs: Sequence[Job],
    finetune: TrainOptions | None,
    out: Path,
    distillation: Distillation | None = None,
) -> list[ComparisonRow]:
    """Runs all jobs that are not done and writes `benchmark_summary.json/.csv/.md/.png`.

    The summary also holds what earlier runs finished in the folder, as far as it compares (`finished_cells`).

    Args:
        session: the baseline and what all jobs share.
        pruners: the methods by name.
        jobs: the grid.
        finetune: the recipe of fine-tuning after each pruning, or None.
        out: folder of the benchmark.
        distillation: the teacher of fine-tuning, if there is one.

    Returns:
        One row a job.
    """
    weighs_time = session.options.objective == "latency"
    if session.baseline.is_timed or weighs_time or any(job.goal.is_timed for job in jobs):
        settle_format(session.baseline, out)
    _check_labelled(session.baseline, finetune)
    rows, schedule = [], session.schedule.as_record() if session.schedule else None
    for number, job in enumerate(jobs, start=1):
        pruner = pruners[job.method]
        settings = settings_of(asdict(pruner), session.settings, schedule, None)
        folder = out / _folder_name(session, pruner, job)

        def work(job: Job = job, pruner: Method = pruner, folder: Path = folder) -> Measured:
            if not _is_pruned(session, pruner, folder):
                prune_model(session, pruner, job.goal, job.seed, folder)
            time_model(session.baseline, folder)
            if finetune is not None:
                finetune_model(session.baseline, folder, finetune, job.seed, distillation)
            return measured_in(folder, session.baseline)

        row = _attempt(job, folder, lambda work=work, folder=folder: with_kept(work, folder), settings)
        rows.append(row)
        say(f"[{number}/{len(jobs)}] {job}: {_outcome(row)}")
    earlier = finished_cells(session.baseline, out, {row["folder"] for row in rows})
    if earlier:
        say(f"the summary also holds {len(earlier)} jobs that earlier runs finished in {out}")
    write_summary(out, baseline_record(session.baseline), [*rows, *earlier], provenance())
    return rows


def finetune_benchmark(
    baseline: Baseline,
    finetune: TrainOptions,
    out: Path,
    distillation: Distillation | None = None,
) -> list[ComparisonRow]:
    """Fine-tunes every pruned network of a benchmark and writes `finetuned_summary.json/.csv/.md/.png`.

    Args:
        baseline: the network and its data.
        finetune: the recipe, the same for all.
        out: folder of the benchmark.
        distillation: the teacher, the same for all, if there is one.

    Raises:
        BenchError: nothing in the folder was pruned, or all of it from another baseline or on other data.
    """
    pruned = pruned_folders(out)
    if not pruned:
        raise BenchError(f"{out} holds no pruned network; run benchmark.py with --out-dir {out} first")
    infos = {folder: _readable_info(folder) for folder in pruned}
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

        row = _attempt(job, folder, work, settings)
        rows.append(row)
        say(f"[{number}/{len(folders)}] {job}: {_outcome(row)}")
    write_summary(out, baseline_record(baseline), rows, provenance(), name="finetuned_summary")
    if len(readable) < len(infos):
        raise BenchError(
            f"{len(infos) - len(readable)} of {len(infos)} pruned networks were left out because their {INFO} is "
            "damaged; run benchmark.py again, which makes them anew"
        )
    return rows


def _readable_info(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(folder / INFO)
    except DamagedFile as error:
        say(f"{folder} is left out: {error}")
        return None


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


def _folder_name(session: Session, pruner: Method, job: Job) -> str:
    """Readable, and different for every difference that changes what is pruned."""
    baseline = session.baseline
    is_timed = job.goal.is_timed or session.options.objective == "latency"
    where = {"device": [device_name(baseline.device), torch.get_num_threads()]} if is_timed else {}
    if is_timed and baseline.mode != PLAIN_MODE:
        where["mode"] = baseline.mode
    content = plain(
        {
            **where,
            "job": job,
            "options": asdict(pruner),
            **pruner.identity,
            **session.identity,
            **session.method_training(pruner),
            "baseline": baseline.digest,
            "data": [baseline.data.name, baseline.data.input_size, baseline.split],
            "scoring": baseline.scoring,
        }
    )
    return f"{job.method}_{job.goal.tag}_s{job.seed}_{digest(content)[:8]}"


def _attempt(job: Job, folder: Path, work: Callable[[], Measured], settings: Settings) -> ComparisonRow:
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


def _is_pruned(session: Session, pruner: Method, folder: Path) -> bool:
    """Whether a job's network is there, of the images and labels there are now; what came of others is removed."""
    if not is_done(folder, PRUNED, INFO, REPORT):
        return False
    fits = session.files_for(pruner).fits(read_json(folder / REPORT).get("data"), f"{folder.name} was pruned")
    if not fits:
        for name in (FINETUNED, FINETUNED_REPORT):
            (folder / name).unlink(missing_ok=True)
    return fits


def measured_in(folder: Path, baseline: Baseline | None = None) -> Measured:
    """Reads what was measured on the network of a finished job from its files.

    Args:
        folder: the job's.
        baseline: with it, a fine-tuning on images or labels that changed since is left out.
    """
    return measured_of(read_json(folder / INFO), read_json(folder / REPORT), finetuned_in(folder, baseline))


def _outcome(row: ComparisonRow) -> str:
    if row["status"] == "failed":
        return f"failed: {row['error']}"
    stages = {"cut": "cut", "recalibrated": "recalibrated", "repaired": "repaired", "finetuned": "fine-tuned"}
    named = {name: row.get(f"miou_{stage}") for stage, name in stages.items()}
    quality = ", ".join(f"{name} {value:.1%}" for name, value in named.items() if value is not None)
    return f"{row['macs_kept']:.1%} of the MACs, mIoU {quality or 'not measured'} ({row['seconds']:.0f} s)"
