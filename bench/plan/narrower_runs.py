"""What operators do in a network with fewer channels, seen in runs on shapes alone.

Layers tell by their tensors how their cost depends on the widths of groups. Products that no single weight is part of
(the scores of an attention, `einsum`, a layer that is applied to as many places as there are channels) do not: here
each of their factors is watched while groups lose channels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from bench.channels.groups import ChannelGroup
from bench.channels.positions import keep_positions, positions_left
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
        """
        self._model, self._groups, self._input_size = model, groups, input_size
        self._runs = 0
        self.dense = self.calls(np.array([group.channels for group in groups], dtype=np.int64))

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

    def losses(self, which: np.ndarray, there: Sequence[int]) -> np.ndarray:
        """What each factor of some operators loses with a channel of each group: float64 [operators, 4, groups].

        Groups are halved as long as any of them has a say, so that the number of runs depends on how many do.

        Args:
            which: int64 [operators], numbers of calls.
            there: the groups that can lose channels, by number.

        Raises:
            NotFollowed: see there.
        """
        found = np.zeros((len(which), FACTORS, len(self._groups)))
        whole = factor_table(self.dense)[which]
        waiting = [(list(there), self._lost(which, whole, there))]
        while waiting:
            tried, lost = waiting.pop()
            if not lost.any():
                continue
            if len(tried) == 1:
                found[:, :, tried[0]] = lost
                continue
            half = len(tried) // 2
            first = self._lost(which, whole, tried[:half])
            waiting += [(tried[:half], first), (tried[half:], lost - first)]
        return found

    def _without_one(self, tried: Sequence[int]) -> np.ndarray:
        kept = np.array([group.channels for group in self._groups], dtype=np.int64)
        kept[list(tried)] -= 1
        return kept

    def _lost(self, which: np.ndarray, whole: np.ndarray, tried: Sequence[int]) -> np.ndarray:
        self._runs += 1
        if self._runs > _MOST_RUNS:
            raise NotFollowed
        return whole - self.alike(self._without_one(tried))[which]


def factor_table(calls: Sequence[OperatorCall]) -> np.ndarray:
    """Factors of calls, filled up with ones: int64 [calls, 4]."""
    rows = [(*call.factors, *(1 for _ in range(FACTORS - len(call.factors)))) for call in calls]
    return np.array(rows, dtype=np.int64).reshape(-1, FACTORS)
