"""Makes summary and page of a benchmark anew from the records in its folder; opens neither data nor networks.

What the jobs' own records say counts. A row of an earlier summary stays where its folder is gone or not finished, so
that nothing is lost; jobs that no summary holds are added where they were measured as the others were.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import BenchError
from bench.leaderboard.page_file import PAGE, write_page
from bench.leaderboard.summaries import SUMMARIES, read_record, read_summaries
from bench.measure.evaluation_report import EvaluationReport, latency_of
from bench.plan.target import Goal
from bench.report.summary import write_summary
from bench.report.summary_record import (
    BaselineRecord,
    ComparisonRow,
    SummaryRecord,
    comparison_row,
    corrupted_shares,
    measured_of,
    summary_record,
)
from bench.system.console import say
from bench.system.files import read_json
from bench.system.run_folder import CELL, CONTROLS, FAILED, FINETUNED, FINETUNED_REPORT, INFO, PRUNED, REPORT, is_done

_TIMED = ("baseline_latency_ms", "latency_ms", "speedup", "speedup_low", "speedup_high")
_MODE = ("latency_format", "latency_precision", "latency_compiled", "latency_threads", "latency_device")


class Job(NamedTuple):
    """What the folder of a finished job says.

    Attributes:
        row: its row.
        report: its `report.json`.
    """

    row: ComparisonRow
    report: EvaluationReport


def rebuild(out: Path) -> SummaryRecord:
    """Writes `benchmark_summary.*` and `leaderboard.html` anew, and `finetuned_summary.*` where there is one.

    Args:
        out: folder of a benchmark.

    Returns:
        What `benchmark_summary.json` holds now, or without one `finetuned_summary.json`.

    Raises:
        BenchError: the folder is not there or holds no record of a benchmark.
    """
    if not out.is_dir():
        raise BenchError(f"{out} is not a folder; name the --out-dir of an earlier benchmark")
    jobs = _finished_jobs(out)
    records = {name: read_record(out / name) for name in SUMMARIES if (out / name).is_file()}
    first, later = SUMMARIES
    if not jobs and not records:
        raise BenchError(
            f"{out} holds neither a finished job nor a {first}; run benchmark.py with --out-dir {out} first"
        )
    if first not in records and jobs:
        records[first] = _of_jobs(jobs)
    for name, record in records.items():
        rows = [_present(out, row, jobs) for row in record["rows"]]
        known = {row.get("folder") for row in rows}
        if name == first:
            rows += _fitting(record, [job for folder, job in jobs.items() if folder not in known])
        records[name] = summary_record(record["baseline"], rows, record["provenance"])
        write_summary(out, record["baseline"], rows, record["provenance"], name.removesuffix(".json"))
    write_page(out / PAGE, read_summaries([out]))
    return records.get(first) or records[later]


def _finished_jobs(out: Path) -> dict[str, Job]:
    """Folder name -> what its records say, for the jobs that were finished; says how many cannot be read."""
    found, damaged, failed = {}, [], []
    for info in sorted(out.glob(f"*/{INFO}")):
        folder = info.parent
        if (folder / FAILED).is_file() or not is_done(folder, PRUNED, INFO, REPORT):
            failed.append(folder.name)
            continue
        try:
            found[folder.name] = _job(folder)
        except (BenchError, LookupError, AttributeError, TypeError):
            damaged.append(folder.name)
    if damaged:
        say(f"left out, of {len(damaged)} jobs whose records are damaged: {damaged[0]}; run benchmark.py again")
    if failed:
        say(f"{len(failed)} jobs in {out} are not finished or failed, the first is {failed[0]}")
    return found


def _job(folder: Path) -> Job:
    info, report = read_json(folder / INFO), read_json(folder / REPORT)
    is_tuned = (folder / FINETUNED).is_file() and (folder / FINETUNED_REPORT).is_file()
    controls = {
        kind: read_json(folder / measured)
        for kind, (model, measured) in CONTROLS.items()
        if (folder / model).is_file() and (folder / measured).is_file()
    }
    measured = measured_of(info, report, read_json(folder / FINETUNED_REPORT) if is_tuned else None, controls)
    goal = Goal(info["target"]["kind"], info["target"]["value"])
    seconds = read_json(folder / CELL)["seconds"] if (folder / CELL).is_file() else 0.0
    told = {"measured": measured, "error": None, "seconds": seconds}
    row = comparison_row(info["method"], goal, info["seed"], folder.name, **told)
    return Job(row, report)


def _of_jobs(jobs: Mapping[str, Job]) -> SummaryRecord:
    """A summary without rows for jobs that have none: of the baseline that most of them were measured beside."""
    asked = Counter(_conditions_of(job.report) for job in jobs.values())
    most = asked.most_common(1)[0][0]
    of_most = [job.report for job in jobs.values() if _conditions_of(job.report) == most]
    newest = max(of_most, key=lambda report: report["provenance"].get("time") or "")
    return summary_record(_baseline_in(newest), [], newest["provenance"])


def _baseline_in(report: EvaluationReport) -> BaselineRecord:
    """What a summary says about the unpruned network, from the report of a job."""
    dense = report["baseline"]
    files = (report.get("data") or {}).get(report["split"])
    fingerprint = {"data_fingerprint": files["content"] or files["stat"]} if files else {}
    return {
        "path": dense["path"],
        "sha256": dense["sha256"],
        "model": report["model"]["name"],
        "dataset": report["dataset"],
        "split": report["split"],
        **fingerprint,
        "scoring": report["scoring"],
        "miou": dense["quality"]["miou"],
        "quality": dense["quality"],
        **dense["cost"],
        **(corrupted_shares(report["robustness"]["baseline"]) if "robustness" in report else {}),
        "input_size": report["input_size"],
    }


def _conditions(baseline: Mapping[str, Any]) -> str:
    """What must be the same for numbers to stand in one summary."""
    keys = ("sha256", "dataset", "split", "input_size", "scoring", "data_fingerprint")
    return json.dumps({key: baseline.get(key) for key in keys}, sort_keys=True)


def _conditions_of(report: EvaluationReport) -> str:
    return _conditions(_baseline_in(report))


def _present(out: Path, row: ComparisonRow, jobs: Mapping[str, Job]) -> ComparisonRow:
    """A row as the records say it now."""
    name = row.get("folder") or ""
    marker = out / name / FAILED
    if name and marker.is_file():
        reason = (marker.read_text(encoding="utf-8").splitlines() or ["no reason given"])[0]
        return row if row["status"] == "failed" else {**row, "status": "failed", "error": reason}
    if name not in jobs:
        return row
    fresh = {**jobs[name].row, "seconds": row["seconds"]}
    # In the order they had, so that what did not change is the same file.
    found = {**row, **fresh}
    # Measured in another mode than the rest of its summary, its latency had been left out there.
    is_timed = row["status"] == "failed" or row.get("latency_ms") is not None
    return found if is_timed else _untimed(found)


def _untimed(row: ComparisonRow) -> ComparisonRow:
    return {**row, **{key: None for key in (*_TIMED, *_MODE) if key in row}}


def _fitting(record: SummaryRecord, jobs: Sequence[Job]) -> list[ComparisonRow]:
    """The rows of those jobs that were measured as a summary's were; says how many others there are."""
    wanted = _conditions(record["baseline"])
    fitting = [job for job in jobs if _fits(record["baseline"], wanted, job.report)]
    if len(fitting) < len(jobs):
        say(
            f"{len(jobs) - len(fitting)} of {len(jobs)} further jobs are left out: pruned from another network, or "
            "scored on other data or in another way"
        )
    modes = Counter(_mode(row) for row in (record["rows"] or [job.row for job in fitting]) if row.get("latency_ms"))
    usual = modes.most_common(1)[0][0] if modes else None
    rows = [job.row if usual in (None, _mode(job.row)) else _untimed(job.row) for job in fitting]
    apart = sum(
        row.get("latency_ms") is None and bool(latency_of(job.report)) for row, job in zip(rows, fitting, strict=True)
    )
    if apart:
        say(f"the latency of {apart} jobs is left out: it was measured in another mode than the others'")
    return sorted(rows, key=lambda row: tuple(row[key] for key in ("method", "target", "ratio", "seed", "folder")))


def _fits(baseline: Mapping[str, Any], wanted: str, report: EvaluationReport) -> bool:
    found = _baseline_in(report)
    # Records of earlier versions do not say all: what one of both leaves open is no difference.
    for key in ("scoring", "data_fingerprint"):
        if baseline.get(key) is None or found.get(key) is None:
            found = {**found, key: baseline.get(key)}
    return _conditions(found) == wanted


def _mode(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in _MODE)
