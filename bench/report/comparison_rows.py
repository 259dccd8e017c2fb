"""Groups the rows of a comparison by what was asked: an entry for each (method, goal), with all its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.measure.latency_report import Speedup, speedup_in
from bench.plan.target import KINDS, Goal
from bench.report.row_settings import Variant, variants
from bench.report.summary_record import STAGES, BaselineRecord, ComparisonRow


@dataclass(frozen=True)
class Entry:
    """The jobs of one (method, goal), a seed each, all made in the same way.

    Attributes:
        method: the method.
        variant: what tells it from other entries of the method, such as `term=gamma`; empty where there are none.
        goal: what it was to reach.
        done: rows of the jobs that were done.
        failed: rows of those that failed.
        treatment: the part of `variant` that is no option of the method: how the network was pruned and fine-tuned.
    """

    method: str
    variant: str
    goal: Goal
    done: tuple[ComparisonRow, ...]
    failed: tuple[ComparisonRow, ...]
    treatment: str = ""

    @property
    def name(self) -> str:
        """The method, and what tells it from others of the method."""
        return " ".join(filter(None, (self.method, self.variant)))

    @property
    def is_sparse(self) -> bool:
        """Whether single weights are zero instead of channels gone."""
        return self.goal.kind == "sparsity"

    def values(self, key: str) -> list[float]:
        """What the seeds gave for a key, where they gave something."""
        return [row[key] for row in self.done if row.get(key) is not None]

    @property
    def speedups(self) -> list[Speedup]:
        """The speed-ups of those that were timed."""
        return [found for found in map(speedup_in, self.done) if found is not None]


def entries(rows: Sequence[ComparisonRow]) -> list[Entry]:
    """Rows by (method, goal): methods in the order of the rows, the usual way of each first, then by goal."""
    found: dict[tuple[str, Variant], dict[Goal, list[ComparisonRow]]] = {}
    for row, way in zip(rows, variants(rows), strict=True):
        found.setdefault((row["method"], way), {}).setdefault(goal_of(row), []).append(row)
    # Ways of one method stay together.
    order = list(dict.fromkeys(method for method, _ in found))
    grouped = []
    for method, way in sorted(found, key=lambda made: (order.index(made[0]), made[1].unusual != "")):
        of_goal = found[method, way]
        for goal in sorted(of_goal, key=lambda goal: (KINDS.index(goal.kind), goal.value)):
            done = tuple(row for row in of_goal[goal] if row["status"] == "done")
            failed = tuple(row for row in of_goal[goal] if row["status"] != "done")
            grouped.append(Entry(method, str(way), goal, done, failed, way.treatment))
    return grouped


def goal_of(row: ComparisonRow) -> Goal:
    """What a job was to reach."""
    # Summaries of the time before there were other goals do not say which kind theirs is.
    return Goal(row.get("target", "channels"), row["ratio"])


def reference_latency(rows: Sequence[ComparisonRow]) -> float | None:
    """What the baseline takes in all of a comparison, in milliseconds: the median over the rows it was timed beside."""
    found = known([row.get("baseline_latency_ms") for row in rows])
    return statistics.median(found) if found else None


def agreeing_latencies(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """The rows with latencies that can be divided by each other: `baseline_latency_ms / latency_ms` is the speed-up.

    The baseline is timed anew beside each network, at another moment each time. Here it takes what it does in
    `reference_latency` in every row, and a network that over its speed-up, as tables show it.
    """
    reference = reference_latency(rows)
    return [
        {**row, "baseline_latency_ms": reference, "latency_ms": reference / row["speedup"]}
        if reference and row.get("speedup")
        else row
        for row in rows
    ]


def comparison_title(baseline: Mapping[str, Any]) -> str:
    """What a comparison is about: network, data set, split, size."""
    text = "Pruning " + " on ".join(str(baseline[key]) for key in ("model", "dataset") if baseline.get(key))
    if baseline.get("split"):
        text += f", {baseline['split']}"
    if baseline.get("input_size"):
        text += ", {}x{}".format(*baseline["input_size"])
    return text


def baseline_miou(baseline: BaselineRecord, rows: Sequence[ComparisonRow]) -> float | None:
    """mIoU of the unpruned network, if anything says it."""
    found = known([baseline.get("miou"), *(row.get("baseline_miou") for row in rows)])
    return found[0] if found else None


def last_stage(rows: Sequence[ComparisonRow]) -> str | None:
    """The latest stage any network was scored at."""
    done = [row for row in rows if row["status"] == "done"]
    return next((key for key in reversed(STAGES) if any(row.get(key) is not None for row in done)), None)


def known(values: Sequence[float | None]) -> list[float]:
    """The values that are there."""
    return [value for value in values if value is not None]
