"""DMCP's gates in a running network: hooks scale the channels of groups, and the mean cost follows from the gates."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, Member
from bench.channels.layer_axes import OUT, width
from bench.plan.macs_budget import Budget
from bench.pruners.dmcp.gates import (
    expected_width,
    gate_layout,
    gates_by_rank,
    prefix,
    sample_width,
    shift_to_budget,
    shifted,
)
from bench.torch_utils.hooks import channel_axis, outputs_seen


class Gates:
    """Multiplies the channels of groups behind their normalisations, or where there is none behind the layers.

    A context: the network is as it was after it.
    """

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup]):
        """Gates that are all open; they are in the network from the start of the block to its end.

        Args:
            model: the network.
            groups: the groups to gate; all members of a group share its gates.
        """
        self._values: Mapping[str, Tensor] = {}
        self._model = model
        self._places: dict[str, list[tuple[str, Member]]] = defaultdict(list)
        for group in groups:
            bare = [producer.layer for producer in group.producers if producer.norm is None]
            for member in (*group.norms, *bare):
                self._places[member.layer].append((group.name, member))
        self._hooks = contextlib.ExitStack()

    def set(self, values: Mapping[str, Tensor]) -> None:
        """Group name -> the factor of each of its channels, [channels], in all passes that follow."""
        self._values = values

    def __enter__(self) -> Gates:
        self._hooks.enter_context(outputs_seen(self._model, self._places, self._scaled))
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def _scaled(self, layer_name: str, output: Tensor) -> Tensor | None:
        if not self._values:
            return None
        layer = self._model.get_submodule(layer_name)
        factors = output.new_ones(width(layer, OUT))
        for name, member in self._places[layer_name]:
            values = self._values[name].to(factors)[member.channels.to(factors.device)]
            factors = factors.index_copy(0, member.positions.to(factors.device), values)
        return output * factors.view(-1, *(1 for _ in range(output.dim() - 1 - channel_axis(layer, output))))


class Widths:
    """The Markov gates of all groups of a network: one number a step is learned, the order of channels is not.

    Attributes:
        order: group name -> its channels from the best to the worst.
        logits: group name -> what is learned, float32 [steps].
    """

    def __init__(self, order: Mapping[str, Tensor], logits: Mapping[str, Tensor], budget: Budget):
        """Sets up the gates.

        Args:
            order: see above, for every prunable group.
            logits: likewise.
            budget: predicts MACs; groups whose width it gives are not learned.
        """
        self.order, self.logits = dict(order), dict(logits)
        self._budget = budget
        self._layouts = {name: gate_layout(len(channels)) for name, channels in order.items()}

    def learned(self) -> list[Tensor]:
        """The logits of the groups whose width is not given."""
        return [self.logits[name] for name in self.logits if name not in self._budget.given]

    def choices(self, name: str) -> list[int]:
        """The widths a group can be sampled with, from the smallest."""
        layout, given = self._layouts[name], self._budget.given.get(name)
        return [layout.always + k * layout.size for k in range(layout.steps + 1)] if given is None else [given]

    def gates(self) -> dict[str, Tensor]:
        """Group name -> the gate of each channel, [channels]; differentiable."""
        by_rank = {
            name: self._prefix(name, self._budget.given[name])
            if name in self._budget.given
            else gates_by_rank(self._layouts[name], logits)
            for name, logits in self.logits.items()
        }
        return {name: self._by_channel(name, values) for name, values in by_rank.items()}

    def masks(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """The gates of the network in which each group keeps its first channels."""
        return {name: self._by_channel(name, self._prefix(name, count)) for name, count in widths.items()}

    def expected(self, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Group name -> mean number of channels kept, float64 scalar."""
        given = self._budget.given
        return {
            name: values.new_tensor(given[name], dtype=torch.float64)
            if name in given
            else expected_width(self._layouts[name], values)
            for name, values in logits.items()
        }

    def macs(self, logits: Mapping[str, Tensor]) -> Tensor:
        """Mean MACs, the product of means where a layer is narrowed on both sides; differentiable."""
        expected = self.expected(logits)
        kept = [
            expected[group.name].cpu() if group.name in expected else torch.tensor(group.channels, dtype=torch.float64)
            for group in self._budget.groups
        ]
        return self._budget.table.expected_macs(torch.stack(kept))

    def sample(self, name: str, generator: torch.Generator) -> int:
        """The width of a group after one walk along its chain, or the width that is given."""
        given = self._budget.given.get(name)
        return sample_width(self._layouts[name], self.logits[name], generator) if given is None else given

    @torch.no_grad()
    def within_budget(self) -> dict[str, float]:
        """Group name -> mean width after the shift of all logits that meets the budget."""
        shift = shift_to_budget(lambda by: self.macs(shifted(self.logits, by)).item(), self._budget.macs)
        return {name: width.item() for name, width in self.expected(shifted(self.logits, shift)).items()}

    def _prefix(self, name: str, count: int) -> Tensor:
        return prefix(self._layouts[name], count).to(self.logits[name])

    def _by_channel(self, name: str, by_rank: Tensor) -> Tensor:
        order = self.order[name].to(by_rank.device)
        return torch.zeros_like(by_rank).index_copy(0, order, by_rank)
