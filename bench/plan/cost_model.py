"""What a network costs by the widths of its groups, and what each step saves: one interface for all that can be saved.

A planner that weighs importance against cost asks two things: what a network costs, and how much less it would
cost if a group kept fewer channels while all others stay as they are. MACs and parameters answer from the cost table,
a latency from times measured on the device (`bench.plan.latency_model`).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from bench.plan.cost_table import CostTable, Prediction


class CostModel(Protocol):
    """A cost of a network by how many channels each group keeps.

    Attributes:
        name: what is counted, such as `macs`.
        grain: a group's cost changes where its width passes a multiple of this.
        looks_ahead: whether a step can save little and the next one much, so that several must be weighed at once.
        neighbours: for each group the groups whose savings its width changes, int64 [n], itself included.
    """

    name: str
    grain: int
    looks_ahead: bool
    neighbours: list[np.ndarray]

    def cost(self, kept: np.ndarray) -> float:
        """The cost when each group keeps that many channels.

        Args:
            kept: int64 [groups].
        """

    def savings(self, kept: np.ndarray, groups: np.ndarray, fewer: np.ndarray) -> np.ndarray:
        """The cost's derivative in whole steps: what some changes save, each by itself.

        Args:
            kept: int64 [groups], the widths reached.
            groups: int64 [n], the group of each change.
            fewer: int64 [n], the channels that it keeps then, at most as many as now.

        Returns:
            float64 [n]
        """


class BilinearCost:
    """MACs or parameters, exactly: every term is a product of two widths.

    With x the channels that each group has lost, the cost is `c - b @ x + x @ Q @ x / 2`; so what a step saves never
    grows while the network shrinks. Attributes: see `CostModel`.
    """

    grain, looks_ahead = 1, False

    def __init__(self, table: CostTable, what: str):
        """Reads the coefficients off the table.

        Args:
            table: of the network.
            what: a field of `Prediction`.
        """
        self.name = what
        self._channels = table.channels
        factor, dense, lost = table.products(what)
        first, second = lost[:, 0], lost[:, 1]
        self._dense = float(factor @ dense.prod(axis=1))
        self._linear = (factor * dense[:, 0]) @ second + (factor * dense[:, 1]) @ first
        half = (factor[:, None] * first).T @ second
        self._both = half + half.T
        self.neighbours = [np.flatnonzero(row) for row in (self._both != 0) | np.eye(len(half), dtype=bool)]

    def cost(self, kept: np.ndarray) -> float:
        """See `CostModel.cost`."""
        gone = self._channels - kept
        return self._dense - self._linear @ gone + gone @ self._both @ gone / 2

    def savings(self, kept: np.ndarray, groups: np.ndarray, fewer: np.ndarray) -> np.ndarray:
        """See `CostModel.savings`."""
        gone, more = self._channels - kept, kept[groups] - fewer
        slope = self._linear[groups] - self._both[groups] @ gone
        return more * (slope - 0.5 * more * self._both[groups, groups])


def exact_cost(table: CostTable, objective: str) -> BilinearCost:
    """What `macs` or `params` as an objective saves."""
    return BilinearCost(table, {"macs": Prediction._fields[1], "params": Prediction._fields[0]}[objective])
