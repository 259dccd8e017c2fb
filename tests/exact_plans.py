"""The best of all plans, for tests of those that a planner finds: a mixed-integer program, and plain enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_matrix

from bench.channels.groups import ChannelGroup
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import PruningPlan, Scores

STEP = 8


def kept_importance(plan: PruningPlan, scores: Scores) -> float:
    """The sum of the scores of the channels that stay."""
    return sum(float(scores[name].double()[channels].sum()) for name, channels in plan.kept.items())


class BestPlan:
    """Chooses the widths, all multiples of 8, that keep most importance within a budget."""

    def __init__(self, groups: Sequence[ChannelGroup], scores: Scores, table: CostTable, what: str):
        """Costs what the table predicts, asked about each group and each pair of groups alone.

        Args:
            groups: all groups of the network.
            scores: of those that may shrink.
            table: predicts the cost.
            what: a field of `Prediction`.
        """
        self._table, self._what = table, what
        self._free = [number for number, group in enumerate(groups) if group.name in scores]
        self._levels = {one: list(range(STEP, groups[one].channels + 1, STEP)) for one in self._free}
        falling = {one: np.sort(scores[groups[one].name].double().numpy())[::-1] for one in self._free}
        self._value = {one: [float(falling[one][:width].sum()) for width in self._levels[one]] for one in self._free}

    def _cost(self, widths: dict[int, int]) -> int:
        kept = self._table.channels.copy()
        for one, width in widths.items():
            kept[one] = width
        return getattr(self._table.predict(kept), self._what)

    def enumerated(self, budget: float) -> float:
        """By trying every choice of widths."""
        best = -np.inf
        for choice in itertools.product(*(range(len(self._levels[one])) for one in self._free)):
            chosen = list(zip(self._free, choice, strict=True))
            if self._cost({one: self._levels[one][level] for one, level in chosen}) <= budget:
                best = max(best, sum(self._value[one][level] for one, level in chosen))
        return best

    def solved(self, budget: float) -> float:
        """By branch and bound: a variable for each width of a group, and one for each pair of widths of two groups.

        The cost is a sum of products of two widths, so that it is the sum of what single groups and pairs of groups
        change, each chosen by its variable. A pair's variables sum up to those of either group's width, which makes
        them what the product of both would be.
        """
        whole = self._cost({})
        alone = {(one, w): self._cost({one: w}) - whole for one in self._free for w in self._levels[one]}
        together = {
            (one, v, other, w): self._cost({one: v, other: w}) - whole - alone[one, v] - alone[other, w]
            for one, other in itertools.combinations(self._free, 2)
            for v in self._levels[one]
            for w in self._levels[other]
        }
        pairs = sorted({(one, other) for (one, _, other, _), change in together.items() if change})
        together = {key: change for key, change in together.items() if (key[0], key[2]) in pairs}
        column = {key: number for number, key in enumerate([*alone, *together])}
        values = {(one, w): v for one in self._free for w, v in zip(self._levels[one], self._value[one], strict=True)}
        rows: list[tuple[dict[int, float], float, float]] = [
            (
                {column[key]: change / whole for key, change in {**alone, **together}.items()},
                -np.inf,
                budget / whole - 1,
            )
        ]
        rows += [({column[one, w]: 1.0 for w in self._levels[one]}, 1.0, 1.0) for one in self._free]
        for one, other in pairs:
            for v in self._levels[one]:
                row = {column[one, v, other, w]: 1.0 for w in self._levels[other]}
                rows.append((row | {column[one, v]: -1.0}, 0.0, 0.0))
            for w in self._levels[other]:
                row = {column[one, v, other, w]: 1.0 for v in self._levels[one]}
                rows.append((row | {column[other, w]: -1.0}, 0.0, 0.0))
        matrix = lil_matrix((len(rows), len(column)))
        for number, (row, _, _) in enumerate(rows):
            for place, factor in row.items():
                matrix[number, place] = factor
        limits = LinearConstraint(matrix.tocsr(), [row[1] for row in rows], [row[2] for row in rows])
        objective = [-values.get(key, 0.0) for key in column]
        found = milp(objective, constraints=limits, integrality=[key in alone for key in column], bounds=Bounds(0, 1))
        assert found.success, found.message
        return -found.fun
