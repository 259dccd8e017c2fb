"""Draws with matplotlib: a table of numbers as colours, and files of figures that are the same each time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.system.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path | str) -> None:
    """Writes a PNG or, for that ending, an SVG; without time and program, so that the same picture is the same file."""
    import matplotlib

    kind = "svg" if Path(path).suffix == ".svg" else "png"
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    # Text stays text, which can be searched.
    style = {"svg.hashsalt": "bench", "svg.fonttype": "none"}
    with whole_file(path) as temporary, matplotlib.rc_context(style):
        figure.savefig(temporary, format=kind, dpi=130, metadata=metadata)
