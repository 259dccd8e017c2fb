"""What a comparison of methods says: a table for the console, a summary in four formats.

Rows are plain dictionaries, one a job: method, target and ratio (kind and value of its goal), seed, status ("done"
or "failed"), error, and what was measured (shares as fractions, milliseconds, None where it was not). JSON and CSV
keep them as they are; the tables and the plot show one line for each (method, goal), as mean ± standard deviation
over the seeds.
"""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.control import CONTROL, gaps_to_control
from bench.latency import speedup_text
from bench.runs import make_folder, plain, whole_file, write_json, write_text
from bench.target import KINDS, Goal

if TYPE_CHECKING:
    from rich.table import Table

    from bench.groups import ChannelGroup

FORMAT = "benchmark-summary/1"

Row = Mapping[str, Any]

STAGES = {
    "miou_cut": "right after the cut",
    "miou_recalibrated": "after recalibration",
    "miou_finetuned": "after fine-tuning",
}
"""Row key -> how a network had been treated when that mIoU was measured, from first to last."""

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

# Okabe and Ito's colours, without the yellow that a white page swallows, told apart by the colour-blind too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
_MARKERS = "osD^vP*X<>hpd"


@dataclass(frozen=True)
class Cell:
    """The jobs of one (method, goal): those that were done, and those that failed."""

    method: str
    goal: Goal
    done: tuple[Row, ...]
    failed: tuple[Row, ...]

    @property
    def is_sparse(self) -> bool:
        """Whether single weights are zero instead of channels gone."""
        return self.goal.kind == "sparsity"

    def values(self, key: str) -> list[float]:
        """What the seeds gave for a key, where they gave something."""
        return [row[key] for row in self.done if row.get(key) is not None]


def cells(rows: Sequence[Row]) -> list[Cell]:
    """Rows by (method, goal): methods in the order of the rows, a method's goals by kind and value."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    goals = sorted({_goal(row) for row in rows}, key=lambda goal: (KINDS.index(goal.kind), goal.value))
    grouped = []
    for method, goal in itertools.product(methods, goals):
        members = [row for row in rows if row["method"] == method and _goal(row) == goal]
        done = tuple(row for row in members if row["status"] == "done")
        failed = tuple(row for row in members if row["status"] != "done")
        if members:
            grouped.append(Cell(method, goal, done, failed))
    return grouped


def _goal(row: Row) -> Goal:
    # Summaries of the time before there were other goals do not say which kind theirs is.
    return Goal(row.get("target", "channels"), row["ratio"])


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
    table = Table(title=escape(_title(baseline)), caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    # It is to fit into a console 80 wide; where it does not, only "mean ± deviation" is worth a second line.
    table.collapse_padding, table.pad_edge, table.show_edge = True, False, False
    for position, name in enumerate(header):
        breaks = any("±" in line[position] for line in lines)
        side = "left" if position == 0 else "right"
        table.add_column(name.replace(" ", "\n"), justify=side, vertical="bottom", no_wrap=not breaks)
    for position, line in enumerate(lines):
        table.add_row(*(escape(text) for text in line), end_section=position == 0)
    return table


def pruning_lines(info: dict[str, Any]) -> list[str]:
    """What prune.py says about a pruning at the end.

    Args:
        info: what `pruning_info.json` holds.
    """
    plan, cost, target, sparsity = (info[key] for key in ("plan", "cost", "target", "sparsity"))
    change = cost["change"]
    if sparsity:
        lines = [
            f"{info['method']} (unstructured): zeroed {sparsity['reached']:.1%} of "
            f"{sparsity['weights'] / 1e6:.3f} M weights"
        ]
        for category, part in sparsity["categories"].items():
            lines.append(f"  {category:12} {part['sparsity']:6.1%} of {part['weights'] / 1e6:8.3f} M")
    else:
        lines = [f"{info['method']}: removed {plan['channel_ratio']:.1%} of the prunable channels"]
    lines[0] += (
        f", parameters {change['parameters_percent']:+.1f} %, MACs {change['macs_percent']:+.1f} %, "
        f"size {cost['after']['state_bytes'] / 1e6:.2f} MB"
    )
    if target["within"] is not None:
        search, kept = plan["search"], cost["after"]["parameters"] / cost["before"]["parameters"]
        found = "nothing goes" if search["threshold"] is None else f"threshold {search['threshold']:.6g}"
        lines.append(
            f"{found}, found by costing {search['networks_costed']} networks: {kept:.2%} of the parameters are kept, "
            f"{target['value']:.2%} were wanted"
        )
    stages = {name: score["miou"] for name, score in info["quality"].items() if isinstance(score, dict)}
    if stages:
        shown = ", ".join(f"{name} {miou:.2%}" for name, miou in stages.items())
        lines.append(f"mIoU on {info['quality']['split']}: {shown}")
    return [*lines, f"-> {info['saved_model']}"]


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


def pair_table(report: Row) -> Table:
    """The table for the console of one `report.json`: baseline beside candidate, or the baseline alone."""
    from rich import box
    from rich.table import Table

    header, sections = pair_lines(report)
    table = Table(title=pair_title(report), box=box.SIMPLE_HEAD)
    for name in header:
        table.add_column(name, justify="right" if name else "left")
    for line in itertools.chain(*sections.values()):
        table.add_row(*line)
    return table


def pair_title(report: Row) -> str:
    """What one `report.json` is about."""
    return _title({**report, "model": report["model"]["name"]})


def pair_lines(report: Row) -> tuple[list[str], dict[str, list[list[str]]]]:
    """What one `report.json` says, as text: the names of the columns, and the lines of each part."""
    names = ["baseline", "candidate"] if report["candidate"] else ["baseline"]
    sides = [report[name] for name in names]
    costs = [
        [name, *_beside([side["cost"][key] for side in sides], unit)]
        for key, name, unit in (
            ("parameters", "parameters M", 1e6),
            ("nonzero_parameters", "  not zero M", 1e6),
            ("macs", "MACs G", 1e9),
            ("state_bytes", "size MB", 1e6),
        )
    ]
    for key, name in (("bytes_on_disk", "file MB"), ("compressed_bytes", "  compressed MB")):
        costs.append([name, *_beside([side[key] for side in sides], 1e6)])
    sections = {"quality": [*_quality_lines([side["quality"] for side in sides], report["change"])], "cost": costs}
    if report["latency"]:
        timed = [report["latency"]["networks"][name] for name in names]
        change = [speedup_text(side["speedup"], side["speedup_low"], side["speedup_high"]) for side in timed[1:]]
        sections["latency"] = [["latency ms", *(f"{side['median_ms']:.2f}" for side in timed), *change]]
    return ["", *names, "change"][: 2 * len(names)], sections


def _beside(values: Sequence[float], unit: float) -> list[str]:
    """A value of each network and, for two, the change."""
    change = [f"{100 * (after / before - 1):+.1f} %" for before, after in itertools.pairwise(values)]
    return [*(f"{value / unit:.3f}" for value in values), *change]


def _quality_lines(qualities: Sequence[Row], change: Row | None) -> Iterator[list[str]]:
    """Name, value of each network and, for two, the change in points."""

    def line(name: str, shares: Sequence[float | None]) -> list[str]:
        pairs = itertools.pairwise(shares)
        changes = ["-" if None in pair else f"{100 * (pair[1] - pair[0]):+.2f}" for pair in pairs]
        return [name, *("-" if share is None else f"{100 * share:.2f}" for share in shares), *changes]

    yield line("mIoU %", [quality["miou"] for quality in qualities])
    ends = [quality["miou_interval"] and [100 * end for end in quality["miou_interval"]] for quality in qualities]
    intervals = ["-" if pair is None else "{:.2f} to {:.2f}".format(*pair) for pair in ends]
    yield ["  95 % interval", *intervals, *([change_text(change["miou_points_interval"])] if change else [])]
    named = {"pixel_accuracy": "pixel accuracy %", "class_accuracy": "class accuracy %"}
    for key, name in {**named, "frequency_weighted_iou": "frequency-weighted IoU %"}.items():
        yield line(name, [quality[key] for quality in qualities])
    if qualities[0]["boundary"]:
        yield line("boundary F-score %", [quality["boundary"]["f_score"] for quality in qualities])
    for name in qualities[0]["iou"]:
        yield line(f"  IoU {name}", [quality["iou"][name] for quality in qualities])


def change_text(interval: Sequence[float] | None) -> str:
    """The interval of a change in points; one that contains 0 is no change, and the text says so."""
    if interval is None:
        return "-"
    low, high = interval
    text = f"{low:+.2f} to {high:+.2f}"
    return f"no measurable change ({text})" if low <= 0 <= high else text


def int8_line(record: Row) -> str:
    """What an `int8_report.json` says, for the console."""
    before, after = record["float32"], record["int8"]
    line = (
        f"int8: mIoU {before['quality']['miou']:.2%} -> {after['quality']['miou']:.2%}, "
        f"file {before['bytes_on_disk'] / 1e6:.2f} -> {after['bytes_on_disk'] / 1e6:.2f} MB"
    )
    if record["latency"]:
        old, new = (record["latency"]["networks"][name] for name in ("float32", "int8"))
        ratio = speedup_text(new["speedup"], new["speedup_low"], new["speedup_high"])
        line += f", latency {old['median_ms']:.2f} -> {new['median_ms']:.2f} ms, {ratio}"
    return line


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
    if _last_stage([row for row in rows if _goal(row).kind != "sparsity"]) is not None:
        _plot(plot, baseline, rows)
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
    parts = [f"# {_title(baseline)}", "", *_markdown_table(header, lines), ""]
    parts += [
        "mIoU in percent over the whole split: right after the cut, after recalibration of the BatchNorm statistics, "
        "after fine-tuning. Parameters and MACs: share kept."
    ]
    if any(len(cell.done) > 1 for cell in cells(rows)):
        parts += ["With several seeds: mean ± standard deviation over the seeds."]
    if any(cell.is_sparse for cell in cells(rows)):
        parts += [_SPARSE_NOTE]
    if any(cell.values("speedup") for cell in cells(rows)):
        parts += ["Speed-up: median of paired ratios to the baseline with its 95 % interval."]
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
    line += [_mean(_known([_baseline_miou(baseline, rows)]), 100, 1)] * len(stages)
    # Timed anew beside each network; the speed-ups are ratios within those pairs.
    line += [_mean(_known([row.get("baseline_latency_ms") for row in rows]), 1, 2), "-"] if timed else []
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


def _title(baseline: Row) -> str:
    title = "Pruning " + " on ".join(str(baseline[key]) for key in ("model", "dataset") if baseline.get(key))
    if baseline.get("split"):
        title += f", {baseline['split']}"
    if baseline.get("input_size"):
        title += ", {}x{}".format(*baseline["input_size"])
    return title


def _failures(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row['method']} at {cell.goal}, seed {row.get('seed')}: {row.get('error') or 'no reason given'}"
        for cell in cells(rows)
        for row in cell.failed
    ]


def _baseline_miou(baseline: Row, rows: Sequence[Row]) -> float | None:
    known = _known([baseline.get("miou"), *(row.get("baseline_miou") for row in rows)])
    return known[0] if known else None


def _last_stage(rows: Sequence[Row]) -> str | None:
    """The latest stage any network was scored at."""
    return next((key for key in reversed(STAGES) if any(cell.values(key) for cell in cells(rows))), None)


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


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


def _plot(path: Path, baseline: Row, rows: Sequence[Row]) -> None:
    """mIoU over the share of MACs kept, one line a method, the baseline dashed; sparse networks keep all of them."""
    from matplotlib.figure import Figure

    stage = _last_stage(rows)
    found = [cell for cell in cells(rows) if not cell.is_sparse]
    figure = Figure(figsize=(8, 4.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    dense = _baseline_miou(baseline, rows)
    if dense is not None:
        axes.axhline(100 * dense, color="#333333", linestyle="--", linewidth=1.2, zorder=1)
        axes.plot(100, 100 * dense, "o", color="#333333", markersize=6, label=f"baseline ({100 * dense:.1f} %)")
    for number, method in enumerate(dict.fromkeys(cell.method for cell in found)):
        line = [cell for cell in found if cell.method == method and cell.values(stage) and cell.values("macs_kept")]
        if not line:
            continue
        line.sort(key=lambda cell: statistics.fmean(cell.values("macs_kept")))
        spreads = [100 * statistics.stdev(seeds) if len(seeds) > 1 else 0 for seeds in (c.values(stage) for c in line)]
        axes.errorbar(
            [100 * statistics.fmean(cell.values("macs_kept")) for cell in line],
            [100 * statistics.fmean(cell.values(stage)) for cell in line],
            yerr=spreads if any(spreads) else None,
            label=method,
            color=_COLOURS[number % len(_COLOURS)],
            linestyle="-" if number < len(_COLOURS) else ":",
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=6,
            linewidth=1.8,
            capsize=3,
        )
    axes.set_xlabel("MACs kept (%)")
    axes.set_ylabel(f"mIoU {STAGES[stage]} (%)")
    axes.set_title(_title(baseline), fontsize=11)
    axes.set_xlim(right=103)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
