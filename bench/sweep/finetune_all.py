"""Fine-tunes the pruned networks of a benchmark, all by one recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.errors import BenchError
from bench.jobs.finetuning import finetune_model
from bench.jobs.finished_cells import comparable_folders, finished_cells, measured_in
from bench.jobs.latency_format import settle_format
from bench.jobs.pruning import time_model
from bench.jobs.robustness import score_rows
from bench.jobs.selection import EVERYTHING, Selection, chosen_jobs
from bench.leaderboard.results import write_results
from bench.measure.baseline import Baseline
from bench.plan.target import Goal
from bench.report.row_settings import settings_of
from bench.report.summary_record import ComparisonRow, Measured, baseline_record
from bench.sweep.grid import Job, attempt, outcome
from bench.sweep.worst_images import draw_worst_images
from bench.system.console import say
from bench.system.locks import lock_of, locked
from bench.system.provenance import provenance
from bench.system.run_folder import INFO
from bench.training.distillation import Distillation
from bench.training.options import FinetuneOptions, TrainOptions


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
    baseline.data.check_labelled(baseline.split, "train", "val")
    rows = []
    for number, folder in enumerate(folders, start=1):
        info = infos[folder]
        job = Job(info["method"], Goal(info["target"]["kind"], info["target"]["value"]), info["seed"])
        settings = settings_of(info["method_options"], info["options"], info.get("schedule"), None)

        def work(job: Job = job, folder: Path = folder) -> Measured:
            time_model(baseline, folder)
            finetune_model(baseline, folder, finetune, job.seed, distillation)
            draw_worst_images(baseline, folder)
            return measured_in(folder, baseline)

        with locked(lock_of(folder), folder.name):
            row = attempt(job, folder, work, settings)
        rows.append(row)
        say(f"[{number}/{len(folders)}] {job}: {outcome(row)}")
    if corruptions:
        rows = score_rows(baseline, out, rows)
    earlier = [] if selection.is_everything else _tuned_alike(baseline, out, rows)
    write_results(out, baseline_record(baseline), [*rows, *earlier], provenance(), name="finetuned_summary")
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
    """The recipe of fine-tuning: that of training but for length and rates; None for no epochs."""
    if finetune.finetune_epochs == 0:
        return None
    return replace(finetune.rates(training), epochs=finetune.finetune_epochs)
