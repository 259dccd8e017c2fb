"""The picture of a comparison: mIoU over the MACs kept."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.report.comparison_rows import STAGES, Row, baseline_miou, cells, last_stage, title
from bench.system.files import whole_file

# Okabe and Ito's colours, without the yellow that a white page swallows, told apart by the colour-blind too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
_MARKERS = "osD^vP*X<>hpd"


def plot_summary(path: Path, baseline: Row, rows: Sequence[Row]) -> None:
    """mIoU over the share of MACs kept, one line a method, the baseline dashed; sparse networks keep all of them."""
    from matplotlib.figure import Figure

    stage = last_stage(rows)
    found = [cell for cell in cells(rows) if not cell.is_sparse]
    figure = Figure(figsize=(8, 4.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    dense = baseline_miou(baseline, rows)
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
    axes.set_title(title(baseline), fontsize=11)
    axes.set_xlim(right=103)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})
