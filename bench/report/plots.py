"""Draws with matplotlib: mIoU over MACs of a comparison, and a table of numbers as colours."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.report.comparison_rows import baseline_miou, comparison_title, entries, last_stage
from bench.report.summary_record import STAGES, BaselineRecord, ComparisonRow
from bench.system.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, without the yellow that a white page swallows, told apart by the colour-blind too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
_MARKERS = "osD^vP*X<>hpd"


def plot_summary(path: Path, baseline: BaselineRecord, rows: Sequence[ComparisonRow]) -> None:
    """mIoU over the share of MACs kept, one line a method, the baseline dashed; sparse networks keep all of them."""
    from matplotlib.figure import Figure

    stage = last_stage(rows)
    found = [entry for entry in entries(rows) if not entry.is_sparse]
    figure = Figure(figsize=(8, 4.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    dense = baseline_miou(baseline, rows)
    if dense is not None:
        axes.axhline(100 * dense, color="#333333", linestyle="--", linewidth=1.2, zorder=1)
        axes.plot(100, 100 * dense, "o", color="#333333", markersize=6, label=f"baseline ({100 * dense:.1f} %)")
    for number, method in enumerate(dict.fromkeys(entry.method for entry in found)):
        of_method = [entry for entry in found if entry.method == method]
        line = [entry for entry in of_method if entry.values(stage) and entry.values("macs_kept")]
        if not line:
            continue
        line.sort(key=lambda entry: statistics.fmean(entry.values("macs_kept")))
        seeds = [entry.values(stage) for entry in line]
        spreads = [100 * statistics.stdev(values) if len(values) > 1 else 0 for values in seeds]
        axes.errorbar(
            [100 * statistics.fmean(entry.values("macs_kept")) for entry in line],
            [100 * statistics.fmean(entry.values(stage)) for entry in line],
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
    axes.set_title(comparison_title(baseline), fontsize=11)
    axes.set_xlim(right=103)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    _save(figure, path)


def heat_map(
    path: Path | str,
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    marked: Collection[tuple[int, int]] = (),
    title: str,
    across: str,
    shade: str,
) -> None:
    """Writes one PNG: a cell for each value, with its number in it; it grows with the number of rows.

    Args:
        path: the file.
        values: [rows][columns]; darker is larger, 0 and less are the lightest.
        rows: what each row is.
        columns: what each column is.
        marked: (row, column) of cells to frame.
        title: above the map.
        across: what the columns are.
        shade: what the colours are.
    """
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    table = np.array(values, dtype=float)
    # Noise of a hundredth is not to look like a loss.
    largest = max(1.0, table.max())
    width = 1.6 + 0.07 * max(map(len, rows)) + 0.75 * len(columns)
    figure = Figure(figsize=(max(5.0, width), 1.5 + 0.26 * len(rows)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    image = axes.imshow(table, cmap="OrRd", norm=Normalize(0, largest, clip=True), aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        ink = "white" if value > 0.6 * largest else "#222222"
        # Adding 0 makes -0.0 a 0.0.
        axes.text(column, row, f"{round(value, 1) + 0:.1f}", ha="center", va="center", fontsize=7, color=ink)
    for row, column in marked:
        axes.add_patch(
            Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor="#0072B2", linewidth=1.4)
        )
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_xlabel(across, fontsize=9)
    axes.tick_params(length=0, labeltop=True)
    axes.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=9)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label(shade, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    _save(figure, path)


def _save(figure: Figure, path: Path | str) -> None:
    """Writes a PNG that says nothing of the program that drew it, so that the same picture is the same file."""
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
