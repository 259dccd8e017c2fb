"""The finished jobs in the folder of a benchmark: which of them belong into its summary, and why others do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from bench.errors import BenchError
from bench.jobs.benchmark_records import difference
from bench.jobs.controls import PLACES
from bench.jobs.finetuning import FINETUNING, Place
from bench.measure.baseline import Baseline
from bench.measure.evaluation_report import EvaluationReport, latency_of
from bench.plan.target import Goal
from bench.report.summary_record import ComparisonRow, Measured, comparison_row, measured_of
from bench.system.console import say
from bench.system.files import read_json
from bench.system.run_folder import FAILED, INFO, PRUNED, REPORT, is_done


def finished_cells(baseline: Baseline, out: Path, asked: Collection[str]) -> list[ComparisonRow]:
    """Rows of the jobs that earlier runs finished in a folder, beside this baseline; says how many others there are.

    Args:
        baseline: what they must have been measured beside, and how.
        out: folder of the benchmark.
        asked: names of the folders of the present run's own jobs.

    Returns:
        By method, goal, seed and folder. A latency that was measured in another mode than the present one is left out.
    """
    folders = [path.parent for path in sorted(out.glob(f"*/{INFO}")) if path.parent.name not in asked]
    folders = [path for path in folders if is_done(path, PRUNED, INFO, REPORT) and not (path / FAILED).is_file()]
    folders, others = comparable_folders(baseline, folders)
    if others:
        say(f"left out of the summary, of the jobs that earlier runs finished in {out}: {others}")
    rows = []
    for folder in folders:
        info, report = read_json(folder / INFO), read_json(folder / REPORT)
        latency = latency_of(report)
        if baseline.is_timed and latency and not baseline.times_alike(latency):
            report = {**report, "latency": None}
        measured = measured_of(info, report, finetuned_in(folder, baseline), controls_in(folder, baseline))
        goal = Goal(info["target"]["kind"], info["target"]["value"])
        rows.append(
            comparison_row(info["method"], goal, info["seed"], folder.name, measured=measured, error=None, seconds=0.0)
        )
    return sorted(rows, key=lambda row: tuple(row[key] for key in ("method", "target", "ratio", "seed", "folder")))


def comparable_folders(baseline: Baseline, folders: Collection[Path]) -> tuple[list[Path], str]:
    """Those of some job folders that were measured beside this baseline, on these data, in this way.

    Args:
        baseline: the network and its data.
        folders: each with a `pruning_info.json`.

    Returns:
        The folders, and how many others there are and why, for one line; empty where there are none.
    """
    kept, others = [], Counter()
    for folder in folders:
        reason = _unfit(baseline, folder)
        if reason is None:
            kept.append(folder)
        else:
            others[reason] += 1
    reasons = "; ".join(f"{count} of {len(folders)} {reason}" for reason, count in sorted(others.items()))
    return kept, reasons


def finetuned_in(folder: Path, baseline: Baseline | None = None) -> EvaluationReport | None:
    """What was measured on the fine-tuned network of a job, if there is one.

    Args:
        folder: the job's.
        baseline: with it, a fine-tuning on images or labels that changed since is left out.
    """
    return _trained_in(folder, FINETUNING, baseline)


def controls_in(folder: Path, baseline: Baseline | None = None) -> dict[str, EvaluationReport]:
    """Kind -> what was measured on the controls of a job, as far as there are any; likewise."""
    found = {kind: _trained_in(folder, place, baseline) for kind, place in PLACES.items()}
    return {kind: report for kind, report in found.items() if report is not None}


def measured_in(folder: Path, baseline: Baseline | None = None) -> Measured:
    """Reads what was measured on the network of a finished job, and on those made of it, from its files; likewise."""
    trained = finetuned_in(folder, baseline), controls_in(folder, baseline)
    return measured_of(read_json(folder / INFO), read_json(folder / REPORT), *trained)


def _trained_in(folder: Path, place: Place, baseline: Baseline | None) -> EvaluationReport | None:
    if not ((folder / place.model).is_file() and (folder / place.report).is_file()):
        return None
    report = read_json(folder / place.report)
    files = report.get("data", {})
    return None if baseline and baseline.data.files(*files).changed_since(files) else report


def _unfit(baseline: Baseline, folder: Path) -> str | None:
    """Why a job is no part of the comparison; None where it is."""
    try:
        measured_in(folder)
        reason = difference(baseline, folder)
    except BenchError as error:
        reason = str(error)
    except (LookupError, AttributeError, TypeError):
        reason = "has records that are not those of a job"
    # What stands before is the folder, of which there may be many.
    return reason and reason.removeprefix(f"{folder} ")
