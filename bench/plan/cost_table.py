"""What a network would cost with fewer channels, computed from a table without cutting anything.

Every parameter belongs to a tensor, and the size of a tensor is a product of widths. So are the multiply-accumulates of
an operator: where it applies a layer's weight they are `numel * (places it is applied at)`, elsewhere a product of
factors that are watched (`bench.plan.narrower_runs`). Each width is a constant less what the groups lose, so a table of
products predicts any plan exactly. A network that does not keep to that is counted instead, plan by plan.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, Member, group_sides
from bench.channels.layer_axes import IN, OUT, WEIGHTED, axes_of, own_tensors
from bench.measure.operators import OperatorCall
from bench.plan.narrower_runs import FACTORS, NarrowerRuns, NotFollowed, factor_table


class Prediction(NamedTuple):
    """The predicted cost of one image.

    Attributes:
        parameters: number of parameters.
        macs: multiply-accumulates of a forward pass.
        bytes: bytes of the tensors in the state dict.
    """

    parameters: int
    macs: int
    bytes: int


class Width(NamedTuple):
    """The width of one side of a layer: `dense` less the sum over the groups of `lost * channels the group lost`.

    Attributes:
        dense: positions there are.
        lost: int64 [groups], positions that go with a channel of each group.
    """

    dense: int
    lost: np.ndarray


class CostTable:
    """Predicts parameters, MACs and bytes from the number of channels each group keeps.

    >>> groups = find_groups(model)
    >>> table = CostTable(model, groups, (360, 480))
    >>> halved = [group.channels // 2 if group.protected is None else group.channels for group in groups]
    >>> table.dense().macs, table.predict(np.array(halved)).macs
    (6146150400, 1563494400)

    Attributes:
        channels: int64 [groups], channels of each group in the network the table was read off.
        layers: name of a layer that an image passes -> side -> its width; for convolutions and linear layers.
        is_counted: whether MACs are counted on narrowed copies of the network, because they are no sum of products of
            widths; `products` and `expected_macs` then are near them.
    """

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup], input_size: tuple[int, int]):
        """Reads the table off a network.

        Args:
            model: the network the groups were found in.
            groups: all its groups.
            input_size: (height, width) of an image in pixels.

        Raises:
            BenchError: the network does not run at that size.
        """
        self.channels = np.array([group.channels for group in groups], dtype=np.int64)
        self._number = {group.name: column for column, group in enumerate(groups)}
        sides = group_sides(groups)
        runs = NarrowerRuns(model, groups, input_size)
        layers = dict(model.named_modules())
        self.layers: dict[str, dict[str, Width]] = {}
        for name in dict.fromkeys(call.module for call in runs.dense if isinstance(layers[call.module], WEIGHTED)):
            axes, weight = axes_of(layers[name])["weight"], layers[name].weight
            widths = [self._side(weight.shape[axis], sides.get((name, side), ())) for axis, side in enumerate(axes)]
            self.layers[name] = dict(zip(axes, widths, strict=True))
        tensors: dict[str, tuple[int, list[Width], bool, int]] = {}
        seen: set[int] = set()
        for name, layer in layers.items():
            axes = axes_of(layer) or {}
            for tensor_name, tensor in _stored_tensors(layer):
                if id(tensor) in seen:
                    continue
                seen.add(id(tensor))
                found = [
                    (side, self._side(tensor.shape[axis], sides.get((name, side), ())))
                    for axis, side in enumerate(axes.get(tensor_name, ()))
                ]
                # Of all axes only two can lose something in a layer of the table; the others are counted in `rest`.
                factors = [one for side, one in found if side in (OUT, IN) or one.lost.any()]
                rest = tensor.numel() // int(np.prod([one.dense for one in factors], dtype=np.int64))
                key = f"{name}.{tensor_name}".lstrip(".")
                tensors[key] = rest, factors, isinstance(tensor, nn.Parameter), tensor.element_size()
        one = Width(1, np.zeros(len(groups), dtype=np.int64))
        pairs = [(row[1] + [one, one])[:2] for row in tensors.values()]
        self._rest = np.array([row[0] for row in tensors.values()], dtype=np.int64)
        self._width = np.array([[axis.dense for axis in pair] for pair in pairs], dtype=np.int64).reshape(-1, 2)
        self._loss = np.array([[axis.lost for axis in pair] for pair in pairs], dtype=np.int64)
        self._loss = self._loss.reshape(-1, 2, len(groups))
        # Parameters, places that a weight is applied at, bytes, by element.
        self._per_element = np.array([[row[2], 0, row[3]] for row in tensors.values()], dtype=np.int64).reshape(-1, 3)
        self._products = np.zeros((0, FACTORS))
        self._product_loss = np.zeros((0, FACTORS, len(groups)))
        self._counted: NarrowerRuns | None = None
        self._lone, self._counted_alone = np.zeros(len(groups), dtype=bool), None
        self._read_operators(runs, list(tensors), groups)

    def _side(self, size: int, parts: Sequence[tuple[ChannelGroup, Member]]) -> Width:
        losses = np.zeros(len(self.channels), dtype=np.int64)
        for group, member in parts:
            losses[self._number[group.name]] += len(member.positions) // group.channels
        return Width(size, losses)

    def _read_operators(self, runs: NarrowerRuns, names: Sequence[str], groups: Sequence[ChannelGroup]) -> None:
        """Reads off how the MACs depend on widths: by weights where those tell all, else from runs."""
        row_of = {name: row for row, name in enumerate(names)}
        owner = [_owner(call, row_of) for call in runs.dense]
        numel = self._rest * self._width.prod(axis=1)
        macs = np.array([call.macs for call in runs.dense], dtype=np.int64)
        is_open = [column for column, group in enumerate(groups) if group.protected is None and group.channels > 1]
        # A whole weight at a number of places: the same number in a narrower network, or else it is watched.
        applied = np.array([row is not None and call % numel[row] == 0 for row, call in zip(owner, macs, strict=True)])
        applied, seen, can_count = applied.astype(bool), None, bool(is_open)
        less = self.channels.copy()
        less[is_open] -= np.maximum(1, less[is_open] // 3)
        try:
            if is_open:
                factors = runs.alike(less)
                seen = factors.prod(axis=1)
                narrow = self._rest * (self._width - self._loss @ (self.channels - less)).prod(axis=1)
                for call in np.flatnonzero(applied):
                    row = owner[call]
                    applied[call] = narrow[row] > 0 and macs[call] // numel[row] * narrow[row] == seen[call]
            watched = np.flatnonzero(~applied)
            losses = np.zeros((len(watched), FACTORS, len(groups)))
            if len(watched) and is_open:
                losses = runs.losses(watched, is_open, less, factors)
        except NotFollowed as error:
            # What does not run narrower cannot be counted either; cutting it will say why.
            seen, can_count = None, can_count and error.__cause__ is None
            watched = np.flatnonzero(~applied)
            losses = np.zeros((len(watched), FACTORS, len(groups)))
        for call in np.flatnonzero(applied):
            self._per_element[owner[call], 1] += macs[call] // numel[owner[call]]
        self._products = factor_table([runs.dense[call] for call in watched]).astype(np.float64)
        self._product_loss = losses
        if can_count and (seen is None or self.predict(less).macs != seen.sum()):
            self._counted = runs.frozen()
        by_function = [owner[k] for k in np.flatnonzero(applied) if runs.dense[k].module not in self.layers]
        lone = losses.any(axis=(0, 1)) | self._loss[by_function].any(axis=(0, 1))
        if lone.any() and self._counted is None:
            self._look_at_last_ones(runs, lone)

    def _look_at_last_ones(self, runs: NarrowerRuns, lone: np.ndarray) -> None:
        """Sees to groups that no layer multiplies: `einsum` takes one channel place by place, which costs nothing."""
        single = np.where(lone, 1, self.channels)
        with contextlib.suppress(Exception):  # what does not run so narrow is not asked for either
            if sum(call.macs for call in runs.calls(single)) != self.predict(single).macs:
                self._lone, self._counted_alone = lone, runs.frozen()

    @property
    def is_counted(self) -> bool:
        """See above."""
        return self._counted is not None

    def predict(self, kept: np.ndarray) -> Prediction:
        """The cost when each group keeps that many channels.

        Args:
            kept: int [groups], in the order of the groups given to the constructor.
        """
        kept = np.asarray(kept)
        removed = self.channels - kept
        numel = self._rest * (self._width - self._loss @ removed).prod(axis=1)
        parameters, macs, size = (numel @ self._per_element).tolist()
        runs = self._counted_alone if (kept[self._lone] == 1).any() else self._counted
        if runs is not None:
            return Prediction(parameters, sum(call.macs for call in runs.calls(kept)), size)
        # Floats are exact up to 2^53, but for thirds and fifths of a channel that goes with others.
        products = (self._products - self._product_loss @ removed).prod(axis=1)
        return Prediction(parameters, macs + round(products.sum()), size)

    def expected_macs(self, kept: Tensor) -> Tensor:
        """MACs when each group keeps so many channels on average; differentiable.

        Where a layer is narrowed on both sides the product of both means is taken. For whole numbers it is what
        `predict` says, unless that is counted.

        Args:
            kept: float64 [groups] on the CPU.

        Returns:
            A float64 scalar.
        """
        macs = self._rest * self._per_element[:, 1]
        rows = macs > 0
        removed = torch.from_numpy(self.channels) - kept
        widths = torch.from_numpy(self._width[rows]) - torch.from_numpy(self._loss[rows]).to(kept) @ removed
        products = torch.from_numpy(self._products) - torch.from_numpy(self._product_loss) @ removed
        return (torch.from_numpy(macs[rows]) * widths.prod(dim=1)).sum() + products.prod(dim=1).sum()

    def products(self, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A cost as a sum of products of two widths each: `factor * prod(dense - lost @ removed)`.

        Of a product of more widths those that change most are taken, and the others stay whole.

        Args:
            what: a field of `Prediction`.

        Returns:
            factor float64 [terms], dense float64 [terms, 2] and lost float64 [terms, 2, groups].
        """
        factor = self._rest * self._per_element[:, Prediction._fields.index(what)]
        rows = factor > 0
        found = [part[rows].astype(np.float64) for part in (factor, self._width, self._loss)]
        if what == "macs" and len(self._products):
            share = self._product_loss.sum(axis=2) / self._products
            first = np.argsort(-share, axis=1, kind="stable")
            dense = np.take_along_axis(self._products, first, axis=1)
            lost = np.take_along_axis(self._product_loss, first[:, :, None], axis=1)
            more = (dense[:, 2:].prod(axis=1), dense[:, :2], lost[:, :2])
            found = [np.concatenate(pair) for pair in zip(found, more, strict=True)]
        return tuple(found)

    def dense(self) -> Prediction:
        """The cost with every channel kept."""
        return self.predict(self.channels)


def _owner(call: OperatorCall, row_of: dict[str, int]) -> int | None:
    """The row of the one weight that an operator applies."""
    rows = [row_of[name] for name in call.weights if name in row_of]
    return rows[0] if len(rows) == 1 else None


def _stored_tensors(layer: nn.Module) -> list[tuple[str, Tensor]]:
    """The tensors of a module that a state dict has."""
    return [(name, tensor) for name, tensor in own_tensors(layer) if name not in layer._non_persistent_buffers_set]
