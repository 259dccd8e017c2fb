"""What a comparison of methods says, as text: a line for the baseline and one for each (method, goal)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.report.comparison_rows import Entry, baseline_miou, entries, known, reference_latency
from bench.report.latency_text import agreeing_texts
from bench.report.row_settings import usual_treatment
from bench.report.summary_record import CONTROLS, CORRUPTED, STAGES, BaselineRecord, ComparisonRow

SPARSE_NOTE = (
    "Sparsity is unstructured: single weights are zero and all are still there, so parameters and MACs stay, and a "
    "difference in latency would not come from them."
)

_OTHER_IMAGES = {"miou_corrupted": "mIoU corrupted", "retention_corrupted": "retained %"}

_SHORT = {"miou_cut": "cut", "miou_recalibrated": "recal.", "miou_repaired": "repaired", "miou_finetuned": "tuned"}


def comparison_lines(
    baseline: BaselineRecord, rows: Sequence[ComparisonRow], *, full: bool
) -> tuple[list[str], list[list[str]]]:
    """Header and lines, as text.

    `latency ms` is what the baseline takes (`reference_latency`), and of an entry that over its speed-up, so that the
    two columns agree.

    A console is narrow: without `full`, earlier stages come without their deviation, speed-ups without their
    interval, and the share of non-zero parameters not at all.
    """
    found = entries(rows)
    stages = [key for key in STAGES if any(entry.values(key) for entry in found)] or ["miou_cut"]
    # Where all lines rest on as many seeds, the console table says so below itself.
    repeated = any(len(entry.done) + len(entry.failed) > 1 for entry in found) and (full or is_uneven(found))
    controls = [key for key in CONTROLS if any(entry.values(key) for entry in found)]
    # How a network does on images that something has befallen, after how it does on those as they are.
    others = [key for key in _OTHER_IMAGES if any(entry.values(key) for entry in found)][: None if full else 1]
    milliseconds = _milliseconds(rows, found)
    sparse = full and any(entry.is_sparse for entry in found)

    header = ["method", "ratio" if all(entry.goal.kind == "channels" for entry in found) else "target"]
    header += ["seeds"] if repeated else []
    header += ["params %", "MACs %"]
    header += ["non-zero %"] if sparse else []
    header += [f"mIoU {_SHORT[key]}" for key in stages]
    header += [f"mIoU {key.removeprefix('miou_').replace('_', ' ')}" for key in controls]
    header += [_OTHER_IMAGES[key] for key in others]
    header += ["latency ms", "speed-up"] if milliseconds else []

    line = ["baseline", "-"]
    line += ["-"] if repeated else []
    line += ["100.0"] * (3 if sparse else 2)
    line += [_mean(known([baseline_miou(baseline, rows)]), 100, 1)] * len(stages)
    line += ["-"] * len(controls)
    line += [_mean(known([baseline.get(key)]), 100, 1) for key in others]
    line += [milliseconds[0], "-"] if milliseconds else []
    lines = [line]
    for position, entry in enumerate(found, start=1):
        line = [entry.name, str(entry.goal)]
        total = len(entry.done) + len(entry.failed)
        if repeated:
            line += [f"{len(entry.done)} of {total}" if entry.failed else f"{total}"]
        if entry.done:
            shares = ("parameters_kept", "macs_kept", *(["nonzero_kept"] if sparse else []))
            line += [_mean(entry.values(key), 100, 1) for key in shares]
            line += [(_spread if full or key == stages[-1] else _mean)(entry.values(key), 100, 1) for key in stages]
            line += [(_spread if full else _mean)(entry.values(key), 100, 1) for key in (*controls, *others)]
            line += [milliseconds[position], _speedup(entry, full)] if milliseconds else []
        else:
            line += ["failed", *["-"] * (len(header) - len(line) - 1)]
        lines.append(line)
    return header, lines


def usual_note(rows: Sequence[ComparisonRow]) -> list[str]:
    """What lines that say nothing of it have in common, where others differ in it."""
    usual = usual_treatment(rows)
    return [f"Where a line does not say otherwise: {usual}."] if usual else []


def corrupted_lines(
    baseline: BaselineRecord, rows: Sequence[ComparisonRow]
) -> tuple[list[str], list[list[str]]] | None:
    """Header and lines of the mIoU under each corruption, as text; None where nothing was scored under any."""
    found = [entry for entry in entries(rows) if entry.values("miou_corrupted")]
    if not found:
        return None
    header = ["method", "target", *(name.removeprefix("miou_").replace("_", " ") for name in CORRUPTED)]
    first = ["baseline", "-", *(_mean(known([baseline.get(key)]), 100, 1) for key in CORRUPTED)]
    others = [
        [entry.name, str(entry.goal), *(_spread(entry.values(key), 100, 1) for key in CORRUPTED)] for entry in found
    ]
    return header, [first, *others]


def is_uneven(found: Sequence[Entry]) -> bool:
    """Whether the lines of a table rest on different numbers of seeds."""
    return len({(len(entry.done), len(entry.failed)) for entry in found}) > 1


def failure_lines(rows: Sequence[ComparisonRow]) -> list[str]:
    """Which jobs failed, and why."""
    return [
        f"{entry.name} at {entry.goal}, seed {row.get('seed')}: {row.get('error') or 'no reason given'}"
        for entry in entries(rows)
        for row in entry.failed
    ]


def _mean(values: Sequence[float], scale: float, digits: int) -> str:
    return f"{scale * statistics.fmean(values):.{digits}f}" if values else "-"


def _spread(values: Sequence[float], scale: float, digits: int) -> str:
    """Mean, and the sample standard deviation where there is one."""
    text = _mean(values, scale, digits)
    return f"{text} ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def _milliseconds(rows: Sequence[ComparisonRow], found: Sequence[Entry]) -> list[str]:
    """Those of the baseline, and of each entry; nothing where no entry was timed."""
    ratios = {
        place: statistics.fmean(s.ratio for s in entry.speedups) for place, entry in enumerate(found) if entry.speedups
    }
    reference = reference_latency(rows)
    if not ratios or not reference:
        return []
    first, *others = agreeing_texts(reference, list(ratios.values()), 2)
    shown = dict(zip(ratios, others, strict=True))
    return [first, *(shown.get(place, "-") for place in range(len(found)))]


def _speedup(entry: Entry, full: bool) -> str:
    """A speed-up, but only where one was measured: an interval that contains 1 is called no difference."""
    found = entry.speedups
    if not found:
        return "-"
    alike, ratios = sum(not speedup.is_measurable for speedup in found), [speedup.ratio for speedup in found]
    if not full:
        return "no diff." if alike else _mean(ratios, 1, 2) + "x"
    if len(found) == 1:
        return str(found[0])
    text = _spread(ratios, 1, 2) + "x"
    return f"{text}, no measurable difference in {alike} of {len(found)}" if alike else text
