"""A network's latency by the widths of its groups, from times of its layers at a few widths.

What the layers take adds up; what has no weights (pooling, resizing, sums) does not count. Between the widths timed the
time is interpolated, on both sides of a layer at once, and a width counts as the next multiple of 8: kernels compute
blocks of so many channels, so that the ninth channel costs as much as eight and the tenth nothing. Where the clock said
that a narrower layer takes longer, it counts as long as the wider one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.channels.layer_axes import IN, OUT
from bench.measure.width_latencies import STAIR, LayerTimes
from bench.plan.cost_table import CostTable, Width


class LatencyCost:
    """Milliseconds of an image, as far as its convolutions and linear layers take them.

    For the attributes see `bench.plan.cost_model.CostModel`.
    """

    name, grain, looks_ahead = "latency", STAIR, True

    def __init__(self, table: CostTable, times: Mapping[str, LayerTimes]):
        """Puts the times of all layers into one table.

        Args:
            table: of the network; says which groups each layer's widths depend on.
            times: what each layer takes.
        """
        self._channels = table.channels
        none = np.zeros(len(table.channels), dtype=np.int64)
        found = [(table.layers[name], times[name]) for name in table.layers if name in times]
        sides = [(layer.get(IN, Width(1, none)), layer.get(OUT, Width(1, none))) for layer, _ in found]
        self._dense = np.array([[side.dense for side in pair] for pair in sides], dtype=np.int64).reshape(-1, 2)
        self._lost = np.array([[side.lost for side in pair] for pair in sides], dtype=np.int64)
        self._lost = self._lost.reshape(-1, 2, len(none))
        most = max((max(len(one.inputs), len(one.outputs)) for _, one in found), default=1) + 1
        grids = [_filled(one, most) for _, one in found]
        self._nodes = np.array([nodes for nodes, _ in grids], dtype=np.float64).reshape(-1, 2, most)
        self._ms = np.array([ms for _, ms in grids]).reshape(-1, most, most)
        is_read = self._lost.any(axis=1)
        layers = [np.flatnonzero(is_read[:, group]) for group in range(len(none))]
        self._layers = np.concatenate([*layers, np.empty(0, dtype=np.int64)]).astype(np.int64)
        self._counts = np.array([len(of) for of in layers], dtype=np.int64)
        self._starts = np.cumsum(self._counts) - self._counts
        self.neighbours = [
            np.union1d(np.flatnonzero(is_read[of].any(axis=0)), group) for group, of in enumerate(layers)
        ]

    def cost(self, kept: np.ndarray) -> float:
        """See `CostModel.cost`."""
        return float(self._times(np.arange(len(self._ms)), self._widths(kept)).sum())

    def savings(self, kept: np.ndarray, groups: np.ndarray, fewer: np.ndarray) -> np.ndarray:
        """See `CostModel.savings`."""
        widths = self._widths(kept)
        now = self._times(np.arange(len(self._ms)), widths)
        counts = self._counts[groups]
        change = np.repeat(np.arange(len(groups)), counts)
        within = np.arange(len(change)) - np.repeat(np.cumsum(counts) - counts, counts)
        layers = self._layers[self._starts[groups][change] + within]
        lost = self._lost[layers, :, groups[change]] * (kept[groups] - fewer)[change, None]
        then = self._times(layers, widths[layers] - lost)
        return np.bincount(change, now[layers] - then, minlength=len(groups))

    def _widths(self, kept: np.ndarray) -> np.ndarray:
        """Widths of all layers on both sides, int64 [layers, 2]."""
        return self._dense - self._lost @ (self._channels - kept)

    def _times(self, layers: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """What some layers take at some widths [n, 2], float64 [n]."""
        paid = np.minimum(-(-widths // STAIR) * STAIR, self._dense[layers])
        nodes = self._nodes[layers]
        low = np.maximum((nodes < paid[:, :, None]).sum(axis=2) - 1, 0)
        below, above = (np.take_along_axis(nodes, (low + more)[:, :, None], axis=2)[:, :, 0] for more in (0, 1))
        part = np.clip((paid - below) / (above - below), 0, 1)
        (read, made), (across, along) = low.T, part.T
        corner = self._ms[layers, read, made], self._ms[layers, read + 1, made]
        other = self._ms[layers, read, made + 1], self._ms[layers, read + 1, made + 1]
        near, far = (first + across * (second - first) for first, second in (corner, other))
        return near + along * (far - near)


def _filled(times: LayerTimes, most: int) -> tuple[list[list[int]], np.ndarray]:
    """The widths of both sides and the times between them, grown to the same size by repeating the last."""
    nodes = []
    for widths in (times.inputs, times.outputs):
        nodes.append([*widths, *range(widths[-1] + 1, widths[-1] + 1 + most - len(widths))])
    ms = np.maximum.accumulate(np.maximum.accumulate(np.array(times.ms), axis=0), axis=1)
    return nodes, np.pad(ms, [(0, most - size) for size in ms.shape], mode="edge")
