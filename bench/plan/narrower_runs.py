"""What operators do in a network with fewer channels, seen in runs on shapes alone.

Layers tell by their tensors how their cost depends on the widths of groups. Products that no single weight is part of
(the scores of an attention, `einsum`, a layer that is applied to as many places as there are channels) do not: here
each of their factors is watched while groups lose channels.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from bench.channels.groups import ChannelGroup
from bench.channels.positions import keep_positions, positions_left
from bench.config.values import size_text
from bench.errors import BenchError, first_line
from bench.measure.operators import OperatorCall, OperatorCalls
from bench.torch_utils.dry_run import blank_image, stand_in

FACTORS = 4
"""Most factors that an operator's multiply-accumulates have."""

# Networks that are run at most to find out which groups the factors of a network's operators depend on.
_MOST_RUNS = 256


class NotFollowed(Exception):
    """A narrower network calls other operators, does not run, or too many groups have a say."""


class NarrowerRuns:
    """Runs a network with fewer channels.

    Attributes:
        dense: the operators that the whole network calls.
    """

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup], input_size: tuple[int, int]):
        """Runs the whole network.

        Args:
            model: the network the groups were found in.
            groups: all its groups.
            input_size: (height, width) of an image in pixels.

        Raises:
            BenchError: it does not run at that size.
        """
        self._model, self._groups, self._input_size = model, groups, input_size
        self._runs = 0
        try:
            self.dense = self.calls(np.array([group.channels for group in groups], dtype=np.int64))
        except BenchError:
            raise
        except Exception as error:
            raise BenchError(
                f"{type(model).__name__} does not run at {size_text(input_size)}, the size its cost is asked for at "
                f"({first_line(error)}); ask for another"
            ) from error

    def frozen(self) -> NarrowerRuns:
        """The same for a copy of the network, which may change afterwards."""
        kept = copy.copy(self)
        kept._model = copy.deepcopy(self._model)
        return kept

    def calls(self, kept: np.ndarray) -> list[OperatorCall]:
        """The operators that are called when each group keeps that many channels, in their order.

        Args:
            kept: int64 [groups].
        """
        # Costs do not ask which channels go.
        gone = {
            group.name: torch.arange(group.channels) >= count
            for group, count in zip(self._groups, kept.tolist(), strict=True)
        }
        left = positions_left(self._model, self._groups, gone)
        with stand_in(self._model) as shadow:
            # Positions have values, which layers of several groups look at.
            with unset_fake_temporarily():
                keep_positions(shadow, left)
            with OperatorCalls(shadow).noting() as seen:
                shadow(blank_image(shadow, self._input_size))
        return seen.calls

    def alike(self, kept: np.ndarray) -> np.ndarray:
        """Factors of the operators of a narrower network, of the same ones as the whole network's: int64 [calls, 4].

        Raises:
            NotFollowed: it calls others, or does not run.
        """
        try:
            calls = self.calls(kept)
        except Exception as error:
            raise NotFollowed from error
        if [call.operator for call in calls] != [call.operator for call in self.dense]:
            raise NotFollowed
        return factor_table(calls)

    def losses(self, which: np.ndarray, there: Sequence[int], less: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """What each factor of some operators loses with a channel of each group: float64 [operators, 4, groups].

        Two runs in which every group loses other numbers tell which group a factor depends on, if it is one; a run that
        is known tells whether that is so. For the others, groups are halved as long as any of them has a say.

        Args:
            which: int64 [operators], numbers of calls.
            there: the groups that can lose channels, by number.
            less: int64 [groups], channels kept in the run that is known.
            seen: int64 [calls, 4], the factors there.

        Raises:
            NotFollowed: see there.
        """
        found = np.zeros((len(which), FACTORS, len(self._groups)))
        whole, seen = factor_table(self.dense)[which], seen[which]
        channels = np.array([group.channels for group in self._groups], dtype=np.int64)
        codes = _codes({number: self._groups[number].channels for number in there})
        by_code = {code: number for number, code in codes.items()}
        every = self._lost(which, whole, dict.fromkeys(there, 1))
        first, second = (self._lost(which, whole, {n: code[k] for n, code in codes.items()}) for k in range(2))
        unclear: set[int] = set()
        for call, factor in np.argwhere((every != 0) | (first != 0) | (second != 0)).tolist():
            each = int(every[call, factor])
            number = by_code.get((first[call, factor] / each, second[call, factor] / each)) if each else None
            if number is None or whole[call, factor] - each * (channels - less)[number] != seen[call, factor]:
                unclear.add(call)
            else:
                found[call, factor, number] = each
        if unclear:
            rows = sorted(unclear)
            found[rows] = self._by_halves(which[rows], whole[rows], list(there), every[rows])
        return found

    def _by_halves(self, which: np.ndarray, whole: np.ndarray, there: list[int], every: np.ndarray) -> np.ndarray:
        """The same for operators that several groups have a say in; `every` is what all groups together take."""
        found = np.zeros((len(which), FACTORS, len(self._groups)))
        waiting = [(there, every)]
        while waiting:
            tried, lost = waiting.pop()
            if not lost.any():
                continue
            if len(tried) == 1:
                found[:, :, tried[0]] = lost
                continue
            half = len(tried) // 2
            first = self._lost(which, whole, dict.fromkeys(tried[:half], 1))
            waiting += [(tried[:half], first), (tried[half:], lost - first)]
        return found

    def _lost(self, which: np.ndarray, whole: np.ndarray, removed: Mapping[int, int]) -> np.ndarray:
        self._runs += 1
        if self._runs > _MOST_RUNS:
            raise NotFollowed
        kept = np.array([group.channels for group in self._groups], dtype=np.int64)
        for number, count in removed.items():
            kept[number] -= count
        return whole - self.alike(kept)[which]


def _codes(channels: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    """Pairs of numbers of channels to remove, another one for each group, as far as there are enough.

    Args:
        channels: number of a group -> how many there are.
    """
    codes: dict[int, tuple[int, int]] = {}
    used: set[tuple[int, int]] = set()
    for number in sorted(channels, key=channels.__getitem__):
        free = (code for code in itertools.product(range(min(channels[number], 32)), repeat=2) if code not in used)
        code = next(free, None)
        if code is not None:
            used.add(code)
            codes[number] = code
    return codes


def factor_table(calls: Sequence[OperatorCall]) -> np.ndarray:
    """Factors of calls, filled up with ones: int64 [calls, 4]."""
    rows = [(*call.factors, *(1 for _ in range(FACTORS - len(call.factors)))) for call in calls]
    return np.array(rows, dtype=np.int64).reshape(-1, FACTORS)
