"""Which positions of which axes are the same channel: labels, what ties them together, and what keeps them in place.

Each position of an axis of a tensor has a label. Two labels that are joined are one channel. Where code splits an axis
into parts (a head view, a shuffle, a grouped convolution) or merges several, the positions of the whole and of its
factors hang together in one of several ways: of an axis of `heads * width` either whole heads can go or the same
position of every head, and of all splits that share a factor all must agree. Which way leaves the most channels that
can go by themselves is chosen once the whole network has been seen.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.channels.budget import MOST_LABELS, MOST_POSITIONS, MOST_SPLITS

TOO_MANY = "its channels are part of more positions than can be followed"

Axis = np.ndarray
"""int64 [size]: the label of each position of an axis, -1 where there is none."""


@dataclass(frozen=True, eq=False)
class Split:
    """An axis that is the product of others, in the order of a view.

    Attributes:
        whole: labels of the axis.
        factors: labels of each factor, None for one whose size belongs to something else than channels.
        sizes: their sizes.
        allowed: numbers of the factors that may shrink.
    """

    whole: Axis
    factors: tuple[Axis | None, ...]
    sizes: tuple[int, ...]
    allowed: tuple[int, ...]

    def ties(self, factor: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of labels, of the whole and of a factor, that are one channel if that factor is the one to shrink."""
        index = np.unravel_index(np.arange(len(self.whole)), self.sizes)[factor]
        labels = self.factors[factor][index]
        both = (self.whole >= 0) & (labels >= 0)
        return self.whole[both], labels[both]

    def beside_constants(self, factor: int) -> np.ndarray:
        """The labels of a factor that stand for a place of the whole where no channel is."""
        index = np.unravel_index(np.arange(len(self.whole)), self.sizes)[factor]
        labels = np.unique(self.factors[factor][index[self.whole < 0]])
        return labels[labels >= 0]


class Labels:
    """The labels of one network, and all that was found out about them."""

    def __init__(self) -> None:
        self.count = 0
        self._ties: list[tuple[np.ndarray, np.ndarray]] = []
        self._splits: list[Split] = []
        self._whole_of: dict[tuple[bytes | int, ...], Axis] = {}
        self._factors_of: dict[tuple[bytes, tuple[int, ...]], list[Axis | None]] = {}
        self._fixed: list[tuple[np.ndarray, str]] = []

    def new(self, size: int) -> Axis:
        """An axis whose positions are unlike all others."""
        self.count += size
        return np.arange(self.count - size, self.count)

    def join(self, axes: Sequence[Axis | None]) -> Axis | None:
        """The labels of an axis that several tensors have in common; position by position they are one channel."""
        known = [axis for axis in axes if axis is not None]
        if not known:
            return None
        joined = known[0]
        for other in known[1:]:
            if other is joined:
                continue
            both = (joined >= 0) & (other >= 0) & (joined != other)
            if both.any():
                self._ties.append((joined[both], other[both]))
            joined = np.where(joined >= 0, joined, other)
        return joined

    def fix(self, axis: Axis | None, reason: str) -> None:
        """Says that no channel of an axis can go, and why."""
        if axis is not None and (axis >= 0).any():
            self._fixed.append((axis[axis >= 0], reason))

    def split(
        self, whole: Axis | None, sizes: Sequence[int], allowed: Sequence[int] | None = None
    ) -> list[Axis | None]:
        """The labels of the axes that a view makes of one axis."""
        if whole is None:
            return [None] * len(sizes)
        real = [number for number, size in enumerate(sizes) if size != 1]
        if len(real) <= 1:
            return [whole if number in real else None for number in range(len(sizes))]
        inner = tuple(sizes[number] for number in real)
        key = whole.tobytes(), inner
        if key not in self._factors_of and not self._has_room(sum(inner)):
            self.fix(whole, TOO_MANY)
            return [None] * len(sizes)
        if key not in self._factors_of:
            factors = tuple(self.new(size) for size in inner)
            chosen = tuple(range(len(inner))) if allowed is None else tuple(allowed)
            self._splits.append(Split(whole, factors, inner, chosen))
            self._factors_of[key] = list(factors)
            self._whole_of[_key(factors, inner)] = whole
        found = dict(zip(real, self._factors_of[key], strict=True))
        return [found.get(number) for number in range(len(sizes))]

    def merge(self, factors: Sequence[Axis | None], sizes: Sequence[int]) -> Axis | None:
        """The labels of the axis that a view makes of several."""
        real = [(axis, size) for axis, size in zip(factors, sizes, strict=True) if size != 1]
        if not any(axis is not None for axis, _ in real):
            return None
        if len(real) == 1:
            return real[0][0]
        parts, inner = tuple(axis for axis, _ in real), tuple(size for _, size in real)
        key = _key(parts, inner)
        if key not in self._whole_of and not self._has_room(math.prod(inner)):
            for part in parts:
                self.fix(part, TOO_MANY)
            return None
        if key not in self._whole_of:
            whole = self.new(math.prod(inner))
            allowed = tuple(number for number, axis in enumerate(parts) if axis is not None)
            self._splits.append(Split(whole, parts, inner, allowed))
            self._whole_of[key] = whole
            self._factors_of[whole.tobytes(), inner] = list(parts)
        return self._whole_of[key]

    def _has_room(self, size: int) -> bool:
        """Whether a view may make so many positions more."""
        return size <= MOST_POSITIONS and self.count + size <= MOST_LABELS

    def alike(self, whole: Axis | None, period: int, *, outer: bool = False) -> None:
        """Says that an axis is taken apart at multiples of a period: the same position of each part goes, or none.

        Args:
            whole: its labels.
            period: length of a part.
            outer: whether whole parts go instead.
        """
        if whole is not None and period < len(whole):
            self.split(whole, (len(whole) // period, period), allowed=(0,) if outer else (1,))

    def settled(self) -> Settled:
        """What can be said once the whole network has been seen."""
        return Settled(self.count, self._ties, self._splits, self._fixed)


class Settled:
    """Labels of a network that was seen to its end; each way of taking axes apart is chosen."""

    def __init__(
        self,
        count: int,
        ties: Sequence[tuple[np.ndarray, np.ndarray]],
        splits: Sequence[Split],
        fixed: Sequence[tuple[np.ndarray, str]],
    ):
        self._count, self._fixed = count, fixed
        self._base = components(count, *_stacked(ties))
        fixed_labels = np.concatenate([labels for labels, _ in fixed]) if fixed else np.empty(0, dtype=np.int64)
        self._clusters = [_Cluster(part, self._base, fixed_labels) for part in self._connected(splits)]

    def _connected(self, splits: Sequence[Split]) -> list[list[Split]]:
        """Splits that have a factor or channels in common must agree."""
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        heads = []
        for split in splits:
            labels = [axis[axis >= 0] for axis in (split.whole, *split.factors) if axis is not None]
            every = self._base[np.concatenate(labels)]
            heads.append(every[0])
            pairs.append((every[1:], np.full(len(every) - 1, every[0])))
        family = components(self._count, *_stacked(pairs))
        parts: dict[int, list[Split]] = defaultdict(list)
        for head, split in zip(heads, splits, strict=True):
            parts[int(family[head])].append(split)
        return list(parts.values())

    def channels(self) -> tuple[np.ndarray, dict[int, str]]:
        """The channel of each label, int64 [labels], and why those that cannot go stay."""
        chosen = [cluster.chosen() for cluster in self._clusters]
        ties = [(self._base[a], self._base[b]) for ties, _ in chosen for a, b in ties]
        channel = components(self._count, *_stacked(ties))[self._base]
        reasons: dict[int, str] = {}
        for labels, reason in (*self._fixed, *(one for _, fixed in chosen for one in fixed)):
            for found in np.unique(channel[labels]).tolist():
                reasons.setdefault(found, reason)
        return channel, reasons

    def choose_others(self, channels: np.ndarray, wrong: set[int]) -> bool:
        """Lets axes that hold some channels be taken apart in the next best way, and says whether there is any.

        Args:
            channels: the channel of each label.
            wrong: the channels that turned out to be wrong.
        """
        found = False
        for cluster in self._clusters:
            if not wrong.isdisjoint(channels[cluster.labels].tolist()):
                found |= cluster.next()
        return found


class _Cluster:
    """Splits that must agree, and the ways in which they do, the one that leaves most channels first."""

    def __init__(self, splits: list[Split], base: np.ndarray, fixed: np.ndarray):
        self._splits = splits
        self.labels = np.concatenate([split.whole[split.whole >= 0] for split in splits])
        self._way = 0
        stuck = set(base[fixed].tolist())
        if len(splits) > MOST_SPLITS:
            # How so many agree takes too long to find out: none goes.
            self._ways: list[list[int | None]] = [[None] * len(splits)]
            return
        ways = [self._assigned(order, base, stuck, is_late) for is_late in (False, True) for order in (-1, 0, 1)]
        different = {repr(choice): choice for choice in ways}
        self._ways = sorted(different.values(), key=lambda choice: -self._count(choice, base))

    def _assigned(self, order: int, base: np.ndarray, stuck: set[int], is_late: bool) -> list[int | None]:
        """Of each split the factor that shrinks; the last where there is a choice, the first, or the second.

        Those with one factor that may shrink decide first, or late: heads that are merged with windows, say, need not.
        """
        is_free: dict[int, bool] = {}
        # Factors that are joined, label by label, are one.
        families = _families([axis for split in self._splits for axis in split.factors if axis is not None], base)
        numbers = iter(families)
        of = [[None if axis is None else next(numbers) for axis in split.factors] for split in self._splits]
        for split, factors in zip(self._splits, of, strict=True):
            for number, (axis, family) in enumerate(zip(split.factors, factors, strict=True)):
                if axis is not None and not stuck.isdisjoint(base[axis[axis >= 0]].tolist()):
                    is_free[family] = False
                elif family is not None and number not in split.allowed and len(split.allowed) == 1:
                    is_free.setdefault(family, False)
        waiting = list(range(len(self._splits)))
        chosen: list[int | None] = [None] * len(self._splits)
        while waiting:
            # First those that have no choice left.
            def open_to(number: int) -> list[int]:
                split, factors = self._splits[number], of[number]
                free = [k for k in split.allowed if factors[k] is not None and is_free.get(factors[k]) is True]
                return free[:1] or [k for k in split.allowed if factors[k] is not None and factors[k] not in is_free]

            late = [len(split.allowed) == 1 and is_late for split in self._splits]
            number = min(waiting, key=lambda one: (late[one], len(open_to(one))))
            waiting.remove(number)
            options, factors = open_to(number), of[number]
            if options:
                chosen[number] = options[order if -len(options) <= order < len(options) else -1]
                is_free[factors[chosen[number]]] = True
            for k, family in enumerate(factors):
                if family is not None and k != chosen[number]:
                    is_free.setdefault(family, False)
        return chosen

    def _count(self, choice: list[int | None], base: np.ndarray) -> int:
        """How many channels a choice leaves that can go by themselves."""
        ties = [tie for split, k in zip(self._splits, choice, strict=True) if k is not None for tie in [split.ties(k)]]
        first, second = (base[side] for side in _stacked(ties))
        labels = np.unique(np.concatenate([first, second, base[self.labels]]))
        channel = components(len(labels), np.searchsorted(labels, first), np.searchsorted(labels, second))
        held = [split.whole for split, k in zip(self._splits, choice, strict=True) if k is None]
        stuck = set(channel[np.searchsorted(labels, base[np.concatenate(held)])].tolist()) if held else set()
        return len(set(channel[np.searchsorted(labels, base[self.labels])].tolist()) - stuck)

    def next(self) -> bool:
        """Goes on to the next best way, if there is one."""
        if self._way + 1 == len(self._ways):
            return False
        self._way += 1
        return True

    def chosen(self) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[tuple[np.ndarray, str]]]:
        """The ties of the present way, and what it holds in place."""
        ties, fixed = [], []
        for split, k in zip(self._splits, self._ways[self._way], strict=True):
            if k is None:
                every = (axis for axis in (split.whole, *split.factors) if axis is not None)
                fixed += [(axis[axis >= 0], "its channels are taken apart in several ways") for axis in every]
                continue
            ties.append(split.ties(k))
            beside = split.beside_constants(k)
            if len(beside):
                fixed.append((beside, "as many constants are among them as the network's code says"))
            for number, axis in enumerate(split.factors):
                if axis is not None and number != k and (axis >= 0).any():
                    fixed.append((axis[axis >= 0], "the number of parts is written in the network's code"))
        return ties, fixed


def components(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The smallest number that each of some numbers hangs together with, int64 [count].

    Args:
        count: how many numbers there are.
        first: int64 [pairs].
        second: int64 [pairs], what each of `first` is tied to.
    """
    found = np.arange(count)
    while len(first):
        low, high = np.minimum(found[first], found[second]), np.maximum(found[first], found[second])
        apart = low != high
        if not apart.any():
            break
        first, second = first[apart], second[apart]
        np.minimum.at(found, high[apart], low[apart])
        while True:
            shorter = found[found]
            if np.array_equal(shorter, found):
                break
            found = shorter
    return found


def _families(axes: Sequence[Axis], base: np.ndarray) -> list[int]:
    """A number for each axis, the same for those that have channels in common."""
    labels = [base[axis[axis >= 0]] for axis in axes]
    every = np.unique(np.concatenate([*labels, np.empty(0, dtype=np.int64)]))
    places = [np.searchsorted(every, part) for part in labels]
    pairs = [(part[1:], np.full(len(part) - 1, part[0])) for part in places if len(part)]
    family = components(len(every), *_stacked(pairs))
    return [int(family[part[0]]) if len(part) else -1 for part in places]


def _stacked(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    empty = np.empty(0, dtype=np.int64)
    if not pairs:
        return empty, empty
    return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])


def _key(factors: Sequence[Axis | None], sizes: Sequence[int]) -> tuple[bytes | int, ...]:
    return tuple(size if axis is None else axis.tobytes() for axis, size in zip(factors, sizes, strict=True))
