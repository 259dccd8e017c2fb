"""What the page shows, as plain data: a line for each (method, target) of each benchmark, with its statistics.

mIoU is in percent and gaps in points here; costs are as in the rows. A number over seeds is [mean, standard deviation,
margin of its 95 % interval, seeds]; what a single seed cannot say is None.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.leaderboard.job_records import job_record
from bench.leaderboard.published import compares_with
from bench.leaderboard.standings import MOST_SEEDS, Pair, estimate, pairs_of, shared_ranks
from bench.leaderboard.summaries import Summary
from bench.plan.target import Goal
from bench.report import summary_record
from bench.report.comparison_rows import (
    Entry,
    agreeing_latencies,
    baseline_miou,
    comparison_title,
    entries,
    last_stage,
    reference_latency,
)
from bench.report.row_settings import usual_treatment
from bench.report.summary_record import STAGES
from bench.report.versus_random import gaps_to_control

FORMAT = "leaderboard/1"

CONTROLS = ("random", "l1")
"""The methods that others are set against, where the comparison has them."""

SCRATCH = {key: key.removeprefix("miou_").replace("_", "-") for key in summary_record.CONTROLS}
"""Row key -> what a network is set against: its own architecture trained from new weights, where that was done."""

CORRUPTED = [key.removeprefix("miou_") for key in summary_record.CORRUPTED if key.startswith("miou_")]
"""Under which corruptions a network may have been scored: all of them, and each kind."""

# Letters of all pictures of a page.
_PICTURES = 500_000

_COSTS = ("macs", "macs_kept", "parameters", "parameters_kept", "nonzero_kept", "bytes_on_disk", "channels_removed")
# Of provenance: what a reader asks first.
_ORIGIN = ("command", "time", "git", "python", "torch", "processor", "gpu", "threads")
_TIMED = ("latency_device", "latency_threads", "latency_precision", "latency_format", "latency_compiled")


def board_of(summaries: Sequence[Summary], published: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that the table and the charts of the page show.

    Args:
        summaries: the benchmarks, at least one.
        published: numbers from papers; those of other data, splits and sizes are counted only.
    """
    benchmarks = [_benchmark(summary) for summary in summaries]
    grouped = [entries(agreeing_latencies(summary.benchmark.rows)) for summary in summaries]
    lines, notes = [], []
    for number, (summary, found) in enumerate(zip(summaries, grouped, strict=True)):
        dense = baseline_miou(*summary.benchmark[:2])
        of_benchmark = [_line(number, summary, entry, dense) for entry in found]
        _add_gaps(of_benchmark, summary, found)
        notes += _add_ranks(number, of_benchmark, found)
        lines += of_benchmark
    shown = [entry for entry in published if any(compares_with(entry, benchmark) for benchmark in benchmarks)]
    return {
        "format": FORMAT,
        "title": _title(summaries),
        "stages": {key: text for key, text in STAGES.items() if any(key in line["miou"] for line in lines)},
        "controls": [
            *(name for name in CONTROLS if any(line["method"] == name for line in lines)),
            *(name for name in SCRATCH.values() if any(name in line["scratch"] for line in lines)),
        ],
        "corruptions": [kind for kind in CORRUPTED if any(kind in line["corrupted"] for line in lines)],
        "benchmarks": benchmarks,
        "lines": lines,
        "notes": notes,
        "most_seeds": MOST_SEEDS,
        "published": shown,
        "published_elsewhere": len(published) - len(shown),
    }


def cells_of(summaries: Sequence[Summary], page: Path) -> dict[str, list[dict[str, Any]]]:
    """What the sections of the page show: a list of jobs for each line, by its `id`, and for each benchmark its dense
    network, by its number.

    Args:
        summaries: the benchmarks, as for `board_of`.
        page: the page's folder, which links are relative to.
    """
    cells: dict[str, list[dict[str, Any]]] = {}
    for number, summary in enumerate(summaries):
        dense: dict[str, Any] = {}
        for entry in entries(agreeing_latencies(summary.benchmark.rows)):
            jobs = []
            for row in (*entry.done, *entry.failed):
                found = job_record(summary.path / row["folder"], page) if row.get("folder") else {}
                shared = {key: found.pop(key) for key in ("classes", "layers", "dense_iou", "dense_widths") if found}
                dense = dense or shared
                # Where a folder was measured on other classes, its numbers would stand in the wrong lines.
                fits = all(shared.get(key) == dense.get(key) for key in ("classes", "layers"))
                jobs.append(_job(row, found.get("alone", {})) | (found if fits else {}))
            cells[_identity(summary, entry)] = jobs
        cells[str(number)] = [dense]
    _leave_out_pictures([job for jobs in cells.values() for job in jobs if job.get("worst")])
    return cells


def _leave_out_pictures(jobs: Sequence[dict[str, Any]]) -> None:
    """Leaves pictures out where they are too many for a page: of each job the worst image first, then the next."""
    room = _PICTURES
    for place in range(max((len(job["worst"]) for job in jobs), default=0)):
        for worst in (job["worst"] for job in jobs if place < len(job["worst"])):
            room -= len(worst[place][-1])
            if room < 0:
                worst[place][-1] = None


def _benchmark(summary: Summary) -> dict[str, Any]:
    baseline, rows, _ = summary.benchmark
    miou, latency = baseline_miou(baseline, rows), reference_latency(rows)
    interval = (baseline.get("quality") or {}).get("miou_interval")
    keys = ("model", "dataset", "split", "input_size", "data_fingerprint", "sha256")
    return {
        **{key: baseline.get(key) for key in keys},
        "letter": summary.letter,
        "path": str(summary.path),
        "title": comparison_title(baseline),
        "stage": last_stage(rows),
        "usual": usual_treatment(rows),
        "scoring": json.dumps(baseline.get("scoring"), sort_keys=True) if baseline.get("scoring") else None,
        "miou": None if miou is None else round(100 * miou, 3),
        "interval": interval and [round(100 * end, 2) for end in interval],
        "macs": baseline.get("macs"),
        "parameters": baseline.get("parameters"),
        "ms": latency,
        "corrupted": {kind: round(100 * share, 2) for kind in CORRUPTED if (share := baseline.get(f"miou_{kind}"))},
        "origin": {key: summary.provenance[key] for key in _ORIGIN if summary.provenance.get(key) is not None},
    }


def _identity(summary: Summary, entry: Entry) -> str:
    """Names a line in the page's address."""
    return "/".join(filter(None, (summary.letter, entry.name, str(entry.goal))))


def _line(number: int, summary: Summary, entry: Entry, dense: float | None) -> dict[str, Any]:
    mious = {}
    for stage in STAGES:
        values = [100 * value for value in entry.values(stage)]
        if found := estimate(values):
            # Of the row's own dense network: a merged folder may hold more than one measurement of it.
            drops = [
                100 * (own - row[stage])
                for row in entry.done
                if row.get(stage) is not None and (own := row.get("baseline_miou", dense)) is not None
            ]
            drop = {"drop": round(statistics.fmean(drops), 3)} if drops else {}
            mious[stage] = {"seeds": _short(found, 3), **drop, "gaps": {}}
    conditions = {key: row[key] for row in entry.done for key in _TIMED if row.get(key) is not None}
    return {
        "id": _identity(summary, entry),
        "benchmark": number,
        "method": entry.method,
        "name": entry.name,
        "treatment": entry.treatment,
        "target": str(entry.goal),
        "kind": entry.goal.kind,
        "value": entry.goal.value,
        "sparse": entry.is_sparse,
        "jobs": len(entry.done),
        "failed": len(entry.failed),
        "miou": mious,
        "cost": {key: _short(found, 5) for key in _COSTS if (found := estimate(entry.values(key)))},
        **_timed(entry),
        "timed": conditions,
        "scratch": {name: found for key, name in SCRATCH.items() if (found := _points(entry, key))},
        "corrupted": {kind: found for kind in CORRUPTED if (found := _points(entry, f"miou_{kind}"))},
        "seconds": round(sum(entry.values("seconds")), 1),
    }


def _points(entry: Entry, key: str) -> list[float | None] | None:
    """A share over the seeds, in percent; None where it was not measured."""
    found = estimate([100 * value for value in entry.values(key)])
    return found and _short(found, 3)


def _timed(entry: Entry) -> dict[str, Any]:
    """Milliseconds and speed-up, each as [mean, low, high]: over seeds the extremes of their intervals."""
    found = [row for row in entry.done if row.get("latency_ms") and row.get("speedup")]
    if not found:
        return {}
    low = min(row.get("speedup_low") or row["speedup"] for row in found)
    high = max(row.get("speedup_high") or row["speedup"] for row in found)
    speedup = statistics.fmean(row["speedup"] for row in found)
    mean = statistics.fmean(row["latency_ms"] for row in found)
    whole = found[0]["latency_ms"] * found[0]["speedup"]
    return {
        "ms": [round(value, 4) for value in (mean, whole / high, whole / low)],
        "speedup": [round(value, 4) for value in (speedup, low, high)],
    }


def _add_gaps(lines: Sequence[dict[str, Any]], summary: Summary, found: Sequence[Entry]) -> None:
    """Adds to each mIoU its paired differences to the controls: [points, margin, seeds]."""
    for line, entry in zip(lines, found, strict=True):
        # New weights are set against what pruning gave in the end.
        for stage, key in itertools.product([*line["miou"]][-1:], SCRATCH):
            pairs = [(row.get(stage), row.get(key)) for row in entry.done]
            points = [100 * (own - control) for own, control in pairs if None not in (own, control)]
            if gap := estimate(points):
                line["miou"][stage]["gaps"][SCRATCH[key]] = [*_short(gap, 3)[:3:2], gap.count]
    by_place = {(line["name"], line["kind"], line["value"]): line for line in lines}
    methods = {line["method"] for line in lines}
    for control in methods.intersection(CONTROLS):
        for stage in STAGES:
            for gap in gaps_to_control(summary.benchmark.rows, stage, control):
                line = by_place.get((gap.method, gap.target, gap.ratio))
                if line is not None and stage in line["miou"]:
                    margin = None if gap.margin is None else round(gap.margin, 3)
                    line["miou"][stage]["gaps"][control] = [round(gap.points, 3), margin, gap.seeds]


def _add_ranks(number: int, lines: Sequence[dict[str, Any]], found: Sequence[Entry]) -> list[dict[str, Any]]:
    """Adds ranks among the lines of one target that were treated alike; returns what their seeds cannot tell apart."""
    rivals: dict[tuple[Goal, str], list[int]] = {}
    for place, entry in enumerate(found):
        if entry.done:
            rivals.setdefault((entry.goal, entry.treatment), []).append(place)
    notes = []
    for (goal, treatment), places in rivals.items():
        for stage in STAGES:
            scored = [place for place in places if stage in lines[place]["miou"]]
            if len(scored) < 2:
                continue
            estimates = [estimate(found[place].values(stage)) for place in scored]
            for place, rank in zip(scored, shared_ranks(estimates), strict=True):
                lines[place]["miou"][stage]["rank"] = rank
            points = [_by_seed(found[place], stage) for place in scored]
            names = [lines[place]["name"] for place in scored]
            about = {"benchmark": number, "target": str(goal), "treatment": treatment, "stage": stage}
            notes.append(about | _untold(names, points))
    return notes


def _by_seed(entry: Entry, stage: str) -> dict[int, float]:
    return {row["seed"]: 100 * row[stage] for row in entry.done if row.get(stage) is not None}


def _untold(names: Sequence[str], points: Sequence[Mapping[int, float]]) -> dict[str, Any]:
    """How many pairs there are and are told apart, and the neighbours in the order of means that are not: [better,
    worse, points, margin, shared seeds, seeds it would take]."""
    pairs = pairs_of(points)
    margins = [pair.margin for pair in pairs if pair.margin is not None]
    means = [statistics.fmean(scores.values()) for scores in points]
    order = sorted(range(len(names)), key=lambda place: -means[place])
    neighbours = {frozenset(pair) for pair in itertools.pairwise(order)}
    close = [pair for pair in pairs if {pair.better, pair.worse} in neighbours and not pair.is_told]
    close.sort(key=lambda pair: order.index(pair.better))
    return {
        "methods": len(names),
        "seeds": max(map(len, points)),
        "pairs": len(pairs),
        "told": sum(pair.is_told for pair in pairs),
        "margin": round(statistics.median(margins), 2) if margins else None,
        "close": [_close(pair, names) for pair in close],
    }


def _close(pair: Pair, names: Sequence[str]) -> list[Any]:
    margin = None if pair.margin is None else round(pair.margin, 2)
    return [names[pair.better], names[pair.worse], round(pair.gap, 2), margin, pair.count, pair.needed]


def _job(row: Mapping[str, Any], alone: Mapping[str, Any]) -> dict[str, Any]:
    """What the row of a job says beside what its line says of all."""
    mious = {stage: round(100 * row[stage], 3) for stage in STAGES if row.get(stage) is not None}
    known = {key: row[key] for key in ("folder", "error", "method_options", "pruning_options", "finetune_epochs")
             if row.get(key) not in (None, {})}  # fmt: skip
    return {"seed": row["seed"], "miou": mious, "all_seconds": alone.get("seconds", row.get("seconds", 0.0)), **known}


def _short(found: Any, digits: int) -> list[float | None]:
    # Counts are whole, shares have digits behind the point.
    mean, deviation, margin, count = found
    places = digits if abs(mean) < 1e4 else 0
    return [None if value is None else round(value, places) for value in (mean, deviation, margin)] + [count]


def _title(summaries: Sequence[Summary]) -> str:
    titles = list(dict.fromkeys(comparison_title(summary.benchmark.baseline) for summary in summaries))
    return titles[0] if len(titles) == 1 else f"Pruning: {len(summaries)} benchmarks"
