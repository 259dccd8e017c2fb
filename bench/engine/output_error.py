"""How far a pruned network's output is from the baseline's on the same images, before any fine-tuning."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, Member, prunable
from bench.errors import UsageError
from bench.plan.pruning_plan import PruningPlan
from bench.torch_utils.batches import Batch, moved, to_device
from bench.torch_utils.contexts import flags_kept
from bench.torch_utils.hooks import outputs_seen
from bench.training.losses import pixel_divergence


def squared_error(values: Tensor, reference: Tensor) -> tuple[float, float]:
    """Sums over all elements of the squared difference and of the squared reference, in double precision."""
    reference = reference.double()
    return float((values.double() - reference).square().sum()), float(reference.square().sum())


class OutputError:
    """Compares pruned networks with their baseline on fixed images."""

    def __init__(
        self,
        baseline: nn.Module,
        groups: Sequence[ChannelGroup],
        batches: Sequence[Batch],
        device: torch.device,
        layers: Sequence[str] = (),
    ):
        """Runs nothing yet.

        Args:
            baseline: the network before the cut, on the device.
            groups: its groups of coupled channels.
            batches: images [N, 3, H, W] and labels (not used).
            device: where to run.
            layers: patterns (`fnmatch`) of groups whose features are compared too, on the channels that stay.

        Raises:
            UsageError: a pattern fits no group that may be pruned.
        """
        self._baseline, self._batches, self._device = baseline, batches, device
        self._groups: list[ChannelGroup] = []
        for pattern in layers:
            fitting = [group for group in prunable(groups) if fnmatch.fnmatch(group.name, pattern)]
            if not fitting:
                raise UsageError(
                    f"`reconstruction_layers` pattern '{pattern}' fits no group that may be pruned; "
                    "prune.py --list-groups names them"
                )
            self._groups += [group for group in fitting if group not in self._groups]

    def error(self, network: nn.Module, plan: PruningPlan | None) -> dict[str, Any]:
        """Compares one network.

        Args:
            network: the baseline after the cut; it is moved to the device and laid out contiguous, as the baseline is.
            plan: what it kept; None for every channel.

        Returns:
            `mse`: mean squared difference of the logits; `relative`: that over the mean square of the baseline's;
            `kl`: mean over the pixels of the divergence, in nats; `features`: group name -> `mse` and `relative` of
            its norm's output, or the layer's own where it has none, over the channels that stay.
        """
        for model in (self._baseline, network):
            to_device(model, self._device, channels_last=False)
        with torch.inference_mode():
            return self._error(network, plan)

    def _error(self, network: nn.Module, plan: PruningPlan | None) -> dict[str, Any]:
        totals = {name: [0.0, 0.0, 0] for name in ("", *(group.name for group in self._groups))}
        kl, pixels = 0.0, 0
        kept = {group.name: _places(group, plan).to(self._device) for group in self._groups}
        for batch in self._batches:
            images, _ = moved(*batch, self._device, channels_last=False)
            before, seen_before = self._run(self._baseline, images)
            after, seen_after = self._run(network, images)
            kl += float(pixel_divergence(after.double(), before.double()).sum())
            pixels += before.shape[0] * before[0, 0].numel()
            pairs = {"": (after, before)}
            pairs |= {name: (seen_after[name], seen_before[name].index_select(1, kept[name])) for name in kept}
            for name, pair in pairs.items():
                sums = (*squared_error(*pair), pair[0].numel())
                totals[name] = [total + part for total, part in zip(totals[name], sums, strict=True)]
        found = {
            name: {"mse": error / count, "relative": error / square if square else None}
            for name, (error, square, count) in totals.items()
        }
        return {**found.pop(""), "kl": kl / pixels, "features": found}

    def _run(self, network: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """A network's logits and its features by group."""
        layers = {group.name: _shown(group).layer for group in self._groups}
        seen: dict[str, Tensor] = {}

        def note(layer: str, output: Tensor) -> None:
            # A copy: an activation behind may work in place.
            seen[layer] = output.clone()

        with flags_kept(network), outputs_seen(network, set(layers.values()), note):
            logits = network.eval()(images)
        return logits.float(), {name: seen[layer] for name, layer in layers.items()}


def _shown(group: ChannelGroup) -> Member:
    """The layer whose output is compared: the first producer's norm, or the producer itself."""
    return group.producers[0].norm or group.producers[0].layer


def _places(group: ChannelGroup, plan: PruningPlan | None) -> Tensor:
    """Positions of that layer's output that stay, ascending."""
    member = _shown(group)
    if plan is None:
        return member.positions.sort().values
    return member.positions[torch.isin(member.channels, torch.tensor(plan.kept[group.name]))].sort().values
