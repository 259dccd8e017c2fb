"""The picture of a class tree: how classes are joined, where the best grouping cuts, and how good each number is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.report.plots import save_figure
from bench.specialists.clustering import ClassTree

# Told apart by most kinds of colour blindness (Okabe and Ito); more groups than colours begin again.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "#888888"


def draw_dendrogram(path: Path, tree: ClassTree, names: Sequence[str]) -> None:
    """Writes the picture.

    Args:
        path: the file.
        tree: the tree.
        names: of the classes at its leaves, in their order.
    """
    from matplotlib.figure import Figure
    from scipy.cluster import hierarchy

    leaves, best = len(names), tree.best
    colours = _branch_colours(tree)
    figure = Figure(figsize=(10, max(3.2, 1.3 + 0.27 * leaves)), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    labels = [f"{name} ({number})" for name, number in zip(names, tree.classes, strict=True)]
    hierarchy.dendrogram(
        tree.linkage, ax=left, orientation="left", labels=labels, link_color_func=colours.__getitem__, leaf_font_size=9
    )
    heights = [0.0, *tree.linkage[:, 2].tolist()]
    cut = (heights[leaves - best.devices] + heights[leaves - best.devices + 1]) / 2
    left.axvline(cut, color="#222222", linestyle="--", linewidth=1)
    left.set_xlabel("distance: 1 - correlation of the classes' responses", fontsize=9)
    left.set_title(f"dashed: the best grouping, {best.devices} groups", fontsize=9)
    numbers = [grouping.devices for grouping in tree.groupings]
    right.plot(numbers, [grouping.quality for grouping in tree.groupings], marker="o", markersize=4, color=_GREY)
    right.plot([best.devices], [best.quality], marker="o", markersize=9, color=_COLOURS[0], label="best")
    right.set_xticks(numbers)
    right.set_xlabel("devices", fontsize=9)
    right.set_ylabel("mean silhouette", fontsize=9)
    right.legend(frameon=False, fontsize=9)
    right.grid(axis="y", linewidth=0.4)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    save_figure(figure, path)


def _branch_colours(tree: ClassTree) -> dict[int, str]:
    """Number of a join -> its colour: that of a group of the best grouping where all below it is of that one."""
    groups = {number: place for place, group in enumerate(tree.best.groups) for number in group}
    below = [{groups[number]} for number in tree.classes]
    for first, second, *_ in tree.linkage.tolist():
        below.append(below[int(first)] | below[int(second)])
    return {
        join: _COLOURS[next(iter(found)) % len(_COLOURS)] if len(found) == 1 else _GREY
        for join, found in enumerate(below)
        if join >= len(tree.classes)
    }
