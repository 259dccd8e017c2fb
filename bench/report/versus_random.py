"""Says by how much each method beats random pruning, the control, goal by goal and seed by seed, and new weights.

A pair is a method's network and the random one of the same goal and seed. The gap is the mean of the pairs'
differences with its 95 % interval by Student's t; a method is ahead or behind only where that leaves 0 out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from bench.report.comparison_rows import entries, goal_of, known
from bench.report.row_settings import Variant, variants
from bench.report.summary_record import STAGES, ComparisonRow

CONTROL = "random"

# Two-sided 95 % quantiles of Student's t for 1 to 9 degrees of freedom; beyond, the one for 10 is on the safe side.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


class Gap(NamedTuple):
    """A method against the control at one goal.

    Attributes:
        method: the method, and what tells it from others of the method.
        target: kind of the goal.
        ratio: value of the goal.
        points: mean difference in mIoU points, positive where the method is better.
        margin: half the width of its 95 % interval in points; None with a single seed.
        seeds: how many pairs.
        macs_points: by how many points of the dense MACs the method's networks cost more than the control's.
    """

    method: str
    target: str
    ratio: float
    points: float
    margin: float | None
    seeds: int
    macs_points: float

    @property
    def points_text(self) -> str:
        """The points and, where there is one, the margin."""
        return f"{self.points:+.1f}" + ("" if self.margin is None else f" ± {self.margin:.1f}")

    @property
    def verdict(self) -> str:
        """`ahead`, `behind` or `not told apart`."""
        if self.margin is None or abs(self.points) <= self.margin:
            return "not told apart"
        return "ahead" if self.points > 0 else "behind"


def gaps_to_control(rows: Sequence[ComparisonRow], stage: str, method: str = CONTROL) -> list[Gap]:
    """Every method's gap to a control, the random one or another method.

    Args:
        rows: one a job.
        stage: which mIoU, such as `miou_finetuned`.
        method: the control.

    Returns:
        In the order of the rows; nothing where the control or the method was not scored at that stage.
    """
    told_apart = zip(rows, variants(rows), strict=True)
    scored = [(row, way) for row, way in told_apart if row["status"] == "done" and row.get(stage) is not None]
    control = {_pairing(row, way): row for row, way in scored if row["method"] == method}
    pairs: dict[tuple[str, str, float], list[tuple[ComparisonRow, ComparisonRow]]] = {}
    for row, way in scored:
        pairing = _pairing(row, way)
        if row["method"] != method and pairing in control:
            name = " ".join(filter(None, (row["method"], str(way))))
            pairs.setdefault((name, *pairing[:2]), []).append((row, control[pairing]))
    gaps = []
    for key, members in pairs.items():
        points = [100 * (row[stage] - other[stage]) for row, other in members]
        macs = [100 * (row["macs_kept"] - other["macs_kept"]) for row, other in members]
        gaps.append(Gap(*key, statistics.fmean(points), margin_of(points), len(points), statistics.fmean(macs)))
    return gaps


def gaps_to_scratch(rows: Sequence[ComparisonRow], key: str) -> list[Gap]:
    """What pruning was worth: each pruned network, as it was in the end, against its shape from new weights.

    Args:
        rows: one a job.
        key: which control, such as `miou_scratch`.

    Returns:
        By method and goal, over the seeds; nothing where there is no control.
    """
    gaps = []
    for entry in entries(rows):
        points = [100 * (miou - row[key]) for row in entry.done if row.get(key) is not None for miou in _last_miou(row)]
        if points:
            goal, mean = entry.goal, statistics.fmean(points)
            gaps.append(Gap(entry.name, goal.kind, goal.value, mean, margin_of(points), len(points), 0.0))
    return gaps


def _last_miou(row: ComparisonRow) -> list[float]:
    """That of the latest stage, if there is any."""
    return known([row.get(stage) for stage in reversed(STAGES)])[:1]


def _pairing(row: ComparisonRow, way: Variant) -> tuple[str, float, int, str]:
    """Goal, seed and treatment, which a method's network and the control's have in common."""
    goal = goal_of(row)
    return goal.kind, goal.value, row["seed"], way.treatment


def margin_of(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of a mean, by Student's t; None of a single value."""
    return margin_with(statistics.stdev(values), len(values)) if len(values) > 1 else None


def margin_with(deviation: float, count: int) -> float:
    """That of two or more values with this sample standard deviation."""
    return _STUDENT[min(count - 1, len(_STUDENT)) - 1] * deviation / math.sqrt(count)
