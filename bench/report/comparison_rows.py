"""The rows of a comparison, put together by what was asked: one cell for each (method, goal).

Rows are plain dictionaries, one a job: method, target and ratio (kind and value of its goal), seed, status ("done"
or "failed"), error, and what was measured (shares as fractions, milliseconds, None where it was not).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.plan.target import KINDS, Goal

Row = Mapping[str, Any]

STAGES = {
    "miou_cut": "right after the cut",
    "miou_recalibrated": "after recalibration",
    "miou_finetuned": "after fine-tuning",
}
"""Row key -> how a network had been treated when that mIoU was measured, from first to last."""


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
    goals = sorted({goal_of(row) for row in rows}, key=lambda goal: (KINDS.index(goal.kind), goal.value))
    grouped = []
    for method, goal in itertools.product(methods, goals):
        members = [row for row in rows if row["method"] == method and goal_of(row) == goal]
        done = tuple(row for row in members if row["status"] == "done")
        failed = tuple(row for row in members if row["status"] != "done")
        if members:
            grouped.append(Cell(method, goal, done, failed))
    return grouped


def goal_of(row: Row) -> Goal:
    """What a job was to reach."""
    # Summaries of the time before there were other goals do not say which kind theirs is.
    return Goal(row.get("target", "channels"), row["ratio"])


def title(baseline: Row) -> str:
    """What a comparison is about: network, data set, split, size."""
    text = "Pruning " + " on ".join(str(baseline[key]) for key in ("model", "dataset") if baseline.get(key))
    if baseline.get("split"):
        text += f", {baseline['split']}"
    if baseline.get("input_size"):
        text += ", {}x{}".format(*baseline["input_size"])
    return text


def baseline_miou(baseline: Row, rows: Sequence[Row]) -> float | None:
    """mIoU of the unpruned network, if anything says it."""
    found = known([baseline.get("miou"), *(row.get("baseline_miou") for row in rows)])
    return found[0] if found else None


def last_stage(rows: Sequence[Row]) -> str | None:
    """The latest stage any network was scored at."""
    return next((key for key in reversed(STAGES) if any(cell.values(key) for cell in cells(rows))), None)


def known(values: Sequence[float | None]) -> list[float]:
    """The values that are there."""
    return [value for value in values if value is not None]
