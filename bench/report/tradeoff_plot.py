"""Draws mIoU over cost: over the MACs kept and, where networks were timed, over their latency, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.report.comparison_rows import Entry, baseline_miou, comparison_title, entries, last_stage
from bench.report.method_looks import BASELINE, Look, look_of
from bench.report.plots import save_figure
from bench.report.summary_record import STAGES, BaselineRecord, ComparisonRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of further lines of one method, which have its colour, dash and marker too.
_FILLS = ("full", "none", "left", "bottom", "right", "top")


class Benchmark(NamedTuple):
    """What one summary compares, to be drawn or tabulated.

    Attributes:
        baseline: the unpruned network.
        rows: one a job.
        name: what tells it from others of the same network and data.
    """

    baseline: BaselineRecord
    rows: Sequence[ComparisonRow]
    name: str = ""


class Line(NamedTuple):
    """One method in one panel.

    Attributes:
        label: in the legend.
        look: of the method.
        fill: of its markers; tells lines of one method apart.
        entries: its goals.
    """

    label: str
    look: Look
    fill: str
    entries: list[Entry]


def plot_tradeoffs(path: Path | str, benchmarks: Sequence[Benchmark], *further: Path) -> bool:
    """Writes one picture, PNG or SVG by its ending, with one legend: a row of panels for each network and data.

    Networks of which single weights are zero are in none: they keep all MACs.

    Args:
        path: the file.
        benchmarks: those of one title, which is the network, the data set, the split and the size, share a row.
        further: more files of the same picture.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.figure import Figure

    rows = [found for found in _by_title(benchmarks).items() if _stage(found[1]) is not None]
    if not rows:
        return False
    timed = any(entry.speedups for _, found in rows for line in lines_of(found) for entry in line.entries)
    figure = Figure(layout="constrained", facecolor="white")
    grid = figure.subplots(len(rows), 2 if timed else 1, squeeze=False)
    handles: dict[str, object] = {}
    for (title, found), (over_macs, *over_latency) in zip(rows, grid, strict=True):
        handles |= _panel(over_macs, found, "macs_kept")
        over_macs.set_xlabel("MACs kept (%)")
        over_macs.set_ylabel(f"mIoU {STAGES[_stage(found)]} (%)")
        over_macs.set_title(title, fontsize=11, loc="left")
        for axes in over_latency:
            handles |= _panel(axes, found, "time_kept")
            axes.set_xlabel("latency (% of the baseline's, paired)")
            axes.sharey(over_macs)
    # Beside a legend that is as large as it needs to be, panels keep their size.
    beside = 0.9 + 0.085 * max(map(len, handles), default=0)
    figure.set_size_inches(5.4 * (1 + timed) + beside, 0.4 + max(4.3 * len(rows), 0.23 * len(handles)))
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, handlelength=3.6)
    for file in (path, *further):
        save_figure(figure, file)
    return True


def lines_of(benchmarks: Sequence[Benchmark]) -> list[Line]:
    """The lines of one panel, method by method; what is no share of MACs is in none."""
    lines, seen = [], {}
    for benchmark in benchmarks:
        found = [entry for entry in entries(benchmark.rows) if not entry.is_sparse]
        for name in dict.fromkeys(entry.name for entry in found):
            of_name = [entry for entry in found if entry.name == name]
            method = of_name[0].method
            number = seen[method] = seen.get(method, -1) + 1
            label = f"{name} ({benchmark.name})" if len(benchmarks) > 1 else name
            lines.append(Line(label, look_of(method), _FILLS[number % len(_FILLS)], of_name))
    return lines


def _by_title(benchmarks: Sequence[Benchmark]) -> dict[str, list[Benchmark]]:
    found: dict[str, list[Benchmark]] = {}
    for benchmark in benchmarks:
        found.setdefault(comparison_title(benchmark.baseline), []).append(benchmark)
    return found


def _stage(benchmarks: Sequence[Benchmark]) -> str | None:
    """The latest stage that any network of a row of panels was scored at."""
    rows = [row for benchmark in benchmarks for row in benchmark.rows]
    return last_stage([row for row in rows if row.get("target") != "sparsity"])


def _panel(axes: Axes, benchmarks: Sequence[Benchmark], cost: str) -> dict[str, object]:
    """Draws the lines of a panel; returns what the legend shows, by label."""
    handles: dict[str, object] = {}
    stage = _stage(benchmarks)
    dense = next((miou for found in benchmarks if (miou := baseline_miou(*found[:2])) is not None), None)
    if dense is not None:
        axes.axhline(100 * dense, color=BASELINE, linewidth=1, zorder=1)
        (point,) = axes.plot(100, 100 * dense, "o", color=BASELINE, markersize=7, linestyle="-", linewidth=1)
        handles["baseline"] = point
    for line in lines_of(benchmarks):
        points = sorted(_points(line.entries, cost, stage))
        if not points:
            # Nobody is to think that a method was not in the comparison.
            if cost == "macs_kept" and any(entry.done for entry in line.entries):
                handles[f"{line.label}: not {STAGES[stage]}"] = axes.plot([], [], alpha=0)[0]
            continue
        across, mean, spread = zip(*points, strict=True)
        handles[line.label] = axes.errorbar(
            across,
            mean,
            yerr=spread if any(spread) else None,
            label=line.label,
            color=line.look.colour,
            linestyle=line.look.linestyle,
            marker=line.look.marker,
            fillstyle=line.fill,
            markersize=8,
            linewidth=1.8,
            elinewidth=1,
            capsize=3,
        )
    axes.set_xlim(right=max(103, axes.get_xlim()[1]))
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return handles


def _points(found: Sequence[Entry], cost: str, stage: str) -> Iterator[tuple[float, float, float]]:
    """Cost in percent, mIoU in percent and its deviation, of each goal: over the seeds for which both are known."""
    for entry in found:
        pairs = [
            (share, row[stage])
            for row in entry.done
            if (share := _share(row, cost)) is not None and row.get(stage) is not None
        ]
        if pairs:
            shares, mious = ([100 * value for value in values] for values in zip(*pairs, strict=True))
            spread = statistics.stdev(mious) if len(mious) > 1 else 0.0
            yield statistics.fmean(shares), statistics.fmean(mious), spread


def _share(row: ComparisonRow, cost: str) -> float | None:
    """The share of the baseline's cost; of its time by the paired speed-up: medians may be of other moments."""
    if cost == "macs_kept":
        return row.get(cost)
    return 1 / row["speedup"] if row.get("speedup") else None
