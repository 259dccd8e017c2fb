"""What a comparison of methods says: a table for the console, a summary in four formats.

JSON and CSV keep the rows (`comparison_rows`) as they are; the tables and the plot show one line for each (method,
goal), as mean ± standard deviation over the seeds.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure.latency import speedup_text
from bench.plan.target import Goal
from bench.report.comparison_rows import STAGES, Cell, Row, baseline_miou, cells, goal_of, known, last_stage, title
from bench.report.summary_plot import plot_summary
from bench.report.versus_random import CONTROL, gaps_to_control
from bench.system.files import make_folder, plain, write_json, write_text

if TYPE_CHECKING:
    from rich.table import Table

    from bench.channels.groups import ChannelGroup

FORMAT = "benchmark-summary/1"


_SHORT = {"miou_cut": "cut", "miou_recalibrated": "recal.", "miou_finetuned": "tuned"}

COLUMNS = (
    "method",
    "target",
    "ratio",
    "seed",
    "status",
    "channel_ratio",
    "parameters",
    "parameters_kept",
    "nonzero_parameters",
    "nonzero_kept",
    "bytes_on_disk",
    "compressed_bytes",
    "macs",
    "macs_kept",
    "baseline_miou",
    *STAGES,
    "split",
    "baseline_latency_ms",
    "latency_ms",
    "speedup",
    "speedup_low",
    "speedup_high",
    "seconds",
    "error",
)
"""Columns of the CSV; further keys of the rows follow them."""

_SPARSE_NOTE = (
    "Sparsity is unstructured: single weights are zero and all are still there, so parameters and MACs stay, and a "
    "difference in latency would not come from them."
)


def comparison_table(baseline: Row, rows: Sequence[Row]) -> Table:
    """The table for the console: the baseline, then a line for each (method, goal)."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    header, lines = _table(baseline, rows, full=False)
    found = cells(rows)
    notes = [f"[red]failed[/red] {escape(line)}" for line in _failures(rows)]
    if not _uneven(found) and found and len(found[0].done) > 1:
        notes.insert(0, f"mean ± standard deviation over {len(found[0].done)} seeds")
    notes += [_SPARSE_NOTE] if any(cell.is_sparse for cell in found) else []
    caption = "\n".join(notes) or None
    table = Table(title=escape(title(baseline)), caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    # It is to fit into a console 80 wide; where it does not, only "mean ± deviation" is worth a second line.
    table.collapse_padding, table.pad_edge, table.show_edge = True, False, False
    for position, name in enumerate(header):
        breaks = any("±" in line[position] for line in lines)
        side = "left" if position == 0 else "right"
        table.add_column(name.replace(" ", "\n"), justify=side, vertical="bottom", no_wrap=not breaks)
    for position, line in enumerate(lines):
        table.add_row(*(escape(text) for text in line), end_section=position == 0)
    return table


def groups_table(groups: Sequence[ChannelGroup]) -> Table:
    """The table for the console of a network's coupled channels: each group and what else makes its channels."""
    from rich import box
    from rich.table import Table

    free = [group for group in groups if group.protected is None]
    title = f"{len(groups)} groups; {sum(group.channels for group in free)} channels of {len(free)} may be pruned"
    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    table.add_column("group + further producers", no_wrap=True)
    for name in ("channels", "consumers", "unit"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("protected")
    for group in groups:
        others = [f"+ {producer.layer.layer}" for producer in group.producers[1:]]
        counts = (group.channels, len(group.consumers), group.unit)
        table.add_row("\n".join([group.name, *others]), *map(str, counts), group.protected or "")
    return table


def write_summary(
    folder: Path | str,
    baseline: Row,
    rows: Sequence[Row],
    provenance: Row,
    name: str = "benchmark_summary",
) -> None:
    """Writes `NAME.json`, `.csv`, `.md` and, where a mIoU was measured, the plot `NAME.png`.

    Args:
        folder: where to; created.
        baseline: the unpruned network: model, dataset, split, input_size, miou, parameters, macs.
        rows: one a job.
        provenance: how the numbers came about.
        name: the files' name without ending.

    Raises:
        BenchError: the folder cannot be written.
    """
    folder = make_folder(folder)
    baseline, rows, provenance = plain(baseline), plain(list(rows)), plain(provenance)
    record = {"format": FORMAT, "baseline": baseline, "rows": rows, "provenance": provenance}
    write_json(folder / f"{name}.json", record)
    write_text(folder / f"{name}.csv", _csv(rows))
    plot = folder / f"{name}.png"
    plot.unlink(missing_ok=True)
    if last_stage([row for row in rows if goal_of(row).kind != "sparsity"]) is not None:
        plot_summary(plot, baseline, rows)
    picture = plot.name if plot.is_file() else None
    write_text(folder / f"{name}.md", _markdown(baseline, rows, provenance, picture))


def _csv(rows: Sequence[Row]) -> str:
    further = dict.fromkeys(key for row in rows for key in row if key not in COLUMNS)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *further], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _markdown(baseline: Row, rows: Sequence[Row], provenance: Row, picture: str | None) -> str:
    header, lines = _table(baseline, rows, full=True)
    parts = [f"# {title(baseline)}", "", *_markdown_table(header, lines), ""]
    parts += [
        "mIoU in percent over the whole split: right after the cut, after recalibration of the BatchNorm statistics, "
        "after fine-tuning. Parameters and MACs: share kept."
    ]
    if any(len(cell.done) > 1 for cell in cells(rows)):
        parts += ["With several seeds: mean ± standard deviation over the seeds."]
    if any(cell.is_sparse for cell in cells(rows)):
        parts += [_SPARSE_NOTE]
    if any(cell.values("speedup") for cell in cells(rows)):
        parts += ["Speed-up: typical paired ratio to the baseline with its 95 % interval."]
    if picture:
        parts += ["", f"![mIoU against the MACs kept]({picture})"]
    parts += _against_control(rows)
    failures = _failures(rows)
    if failures:
        parts += ["", "## Failed", "", *(f"* {text}" for text in failures)]
    parts += ["", "## Provenance", ""]
    parts += [f"* {key}: {value}" for key, value in provenance.items() if value is not None]
    return "\n".join(parts) + "\n"


def _against_control(rows: Sequence[Row]) -> list[str]:
    """Which methods beat the random control: at each stage networks were scored at, goal by goal."""
    parts = []
    for stage, when in STAGES.items():
        gaps = gaps_to_control(rows, stage)
        if not any(gap.margin is not None for gap in gaps):
            continue
        lines = []
        for gap in gaps:
            margin = "" if gap.margin is None else f" ± {gap.margin:.1f}"
            points = f"{gap.points:+.1f}{margin}"
            lines.append([gap.method, str(Goal(gap.target, gap.ratio)), points, gap.verdict, f"{gap.macs_points:+.1f}"])
        header = ["method", "target", "mIoU points", "verdict", "MACs points"]
        parts += ["", f"## Against {CONTROL}, {when}", "", *_markdown_table(header, lines)]
    if parts:
        parts += ["", "Mean difference over the seeds with its 95 % interval (Student's t)."]
    return parts


def _markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    return [line(header), line([":--", *["--:"] * (len(header) - 1)]), *map(line, lines)]


def _table(baseline: Row, rows: Sequence[Row], *, full: bool) -> tuple[list[str], list[list[str]]]:
    """Header and lines, as text.

    A console is narrow: without `full`, earlier stages come without their deviation, speed-ups without their
    interval, and the share of non-zero parameters not at all.
    """
    found = cells(rows)
    stages = [key for key in STAGES if any(cell.values(key) for cell in found)] or ["miou_cut"]
    # Where all lines rest on as many seeds, the console table says so below itself.
    repeated = any(len(cell.done) + len(cell.failed) > 1 for cell in found) and (full or _uneven(found))
    timed = any(cell.values("latency_ms") for cell in found)
    sparse = full and any(cell.is_sparse for cell in found)

    header = ["method", "ratio" if all(cell.goal.kind == "channels" for cell in found) else "target"]
    header += ["seeds"] if repeated else []
    header += ["params %", "MACs %"]
    header += ["non-zero %"] if sparse else []
    header += [f"mIoU {_SHORT[key]}" for key in stages]
    header += ["latency ms", "speed-up"] if timed else []

    line = ["baseline", "-"]
    line += ["-"] if repeated else []
    line += ["100.0"] * (3 if sparse else 2)
    line += [_mean(known([baseline_miou(baseline, rows)]), 100, 1)] * len(stages)
    # Timed anew beside each network; the speed-ups are ratios within those pairs.
    line += [_mean(known([row.get("baseline_latency_ms") for row in rows]), 1, 2), "-"] if timed else []
    lines = [line]
    for cell in found:
        line = [cell.method, str(cell.goal)]
        total = len(cell.done) + len(cell.failed)
        if repeated:
            line += [f"{len(cell.done)} of {total}" if cell.failed else f"{total}"]
        if cell.done:
            shares = ("parameters_kept", "macs_kept", *(["nonzero_kept"] if sparse else []))
            line += [_mean(cell.values(key), 100, 1) for key in shares]
            line += [(_spread if full or key == stages[-1] else _mean)(cell.values(key), 100, 1) for key in stages]
            line += [_mean(cell.values("latency_ms"), 1, 2), _speedup(cell, full)] if timed else []
        else:
            line += ["failed", *["-"] * (len(header) - len(line) - 1)]
        lines.append(line)
    return header, lines


def _uneven(found: Sequence[Cell]) -> bool:
    """Whether the lines of a table rest on different numbers of seeds."""
    return len({(len(cell.done), len(cell.failed)) for cell in found}) > 1


def _failures(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row['method']} at {cell.goal}, seed {row.get('seed')}: {row.get('error') or 'no reason given'}"
        for cell in cells(rows)
        for row in cell.failed
    ]


def _mean(values: Sequence[float], scale: float, digits: int) -> str:
    return f"{scale * statistics.fmean(values):.{digits}f}" if values else "-"


def _spread(values: Sequence[float], scale: float, digits: int) -> str:
    """Mean, and the sample standard deviation where there is one."""
    text = _mean(values, scale, digits)
    return f"{text} ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def _speedup(cell: Cell, full: bool) -> str:
    """A speed-up, but only where one was measured: an interval that contains 1 is called no difference."""
    timed = [row for row in cell.done if row.get("speedup") is not None]
    if not timed:
        return "-"
    alike = sum(row["speedup_low"] <= 1 <= row["speedup_high"] for row in timed)
    ratios = [row["speedup"] for row in timed]
    if not full:
        return "no diff." if alike else _mean(ratios, 1, 2) + "x"
    if len(timed) == 1:
        return speedup_text(*(timed[0][key] for key in ("speedup", "speedup_low", "speedup_high")))
    text = _spread(ratios, 1, 2) + "x"
    return f"{text}, no measurable difference in {alike} of {len(timed)}" if alike else text
