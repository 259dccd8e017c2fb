"""Repair by least squares: every layer behind a cut is made to give what it gave, without labels and without training.

Two passes over a few images. In the first the network before the cut shows what its layers give at sampled positions.
In the second all images run through the cut network together, and each layer is solved for in the moment it is reached:
from what the layers before it, already repaired, let it read. ThiNet and He et al. (both ICCV 2017) solve for one layer
after another too, in a pass each. What lies between layers (activations, poolings, sums, concatenations) needs no care:
a layer is repaired for whatever it reads.

Where a residual branch ends, its last layer aims at the sum: it also makes up for what the shortcut has lost.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup
from bench.channels.layer_axes import IN, OUT, WEIGHTED, axes_of
from bench.cut.network import kept_positions
from bench.plan.pruning_plan import PruningPlan
from bench.recover.dense_outputs import dense_samples
from bench.recover.layer_repair import LayerRepair, Sample, Task, repair_layer
from bench.recover.options import RepairOptions
from bench.recover.patches import filters, outputs_at
from bench.recover.wiring import Call, TensorsKept, Wiring, read_wiring
from bench.torch_utils.contexts import flags_kept
from bench.torch_utils.hooks import calls_seen, inputs_seen


@dataclass(frozen=True)
class Repair:
    """What a repair did.

    Attributes:
        images: how many images it looked at.
        seconds: how long it took.
        layers: layer -> what came of it, in the order they run; empty where the plan removes nothing.
        left_alone: layer -> why it was not tried.
        norms: layer -> the norm that reads its output as it is.
    """

    images: int
    seconds: float = 0.0
    layers: dict[str, LayerRepair] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)

    @property
    def settled_norms(self) -> set[str]:
        """Norms whose statistics hold, because the layer in front gives what it gave."""
        holds = ("repaired", "unchanged")
        return {self.norms[name] for name, done in self.layers.items() if name in self.norms and done.outcome in holds}

    def as_record(self) -> dict[str, Any]:
        """Plain data for a JSON record."""
        layers = {name: asdict(done) for name, done in self.layers.items()}
        return {"images": self.images, "seconds": self.seconds, "layers": layers, "left_alone": self.left_alone}


@torch.no_grad()
def repair(
    before: nn.Module,
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    plan: PruningPlan,
    images: Tensor,
    options: RepairOptions,
    seed: int = 0,
    spared: Collection[str] = (),
) -> Repair:
    """Repairs a network after a cut, in place.

        >>> smaller = copy.deepcopy(model)
        >>> cut(smaller, groups, plan)
        >>> repair(model, smaller, groups, plan, images, RepairOptions()).layers["final_conv"].outcome
        'repaired'

    Args:
        before: the network before the cut, left as it was.
        network: the same after it, on the same device.
        groups: all groups of the network before the cut.
        plan: what was kept.
        images: float [N, 3, H, W], of the training split.
        options: positions, ridge, the limit of a system's size, whether shortcuts are made up for.
        seed: seed of the choice of positions.
        spared: layers whose weights stay as they are, such as those with zeros that are to stay.

    Returns:
        What was done; nothing, where the plan removes nothing.
    """
    start = time.perf_counter()
    kept = kept_positions(before, groups, plan.kept)
    if not kept:
        return Repair(len(images))
    wiring = read_wiring(before)
    tasks, left_alone = _tasks(before, network, kept, wiring, spared)
    trunks = {name: call for name, call in wiring.trunks.items() if options.repair_trunk and name in tasks}
    images = images.to(next(network.parameters()).device)
    samples = dense_samples(before, tasks, trunks, images, options, seed)
    layers = _solve(network, tasks, trunks, samples, images, options)
    return Repair(len(images), round(time.perf_counter() - start, 4), layers, left_alone, wiring.norms)


def _tasks(
    before: nn.Module,
    network: nn.Module,
    kept: Mapping[tuple[str, str], Tensor],
    wiring: Wiring,
    spared: Collection[str],
) -> tuple[dict[str, Task], dict[str, str]]:
    """The layers to repair, and why others are not."""
    dense, layers = dict(before.named_modules()), dict(network.named_modules())
    tasks, left_alone = {}, {}
    for name, layer in layers.items():
        calls = wiring.calls.get(name, 0)
        if not isinstance(layer, WEIGHTED):
            is_known = any(OUT in sides for sides in (axes_of(layer) or {}).values())
            if not is_known and any(True for _ in layer.parameters(recurse=False)):
                left_alone[name] = f"{type(layer).__name__} is not solved for"
        elif name in spared:
            left_alone[name] = "its weights are to stay"
        elif calls != 1:
            left_alone[name] = f"runs {calls} times in a pass" if calls else "not run as a layer at inference"
        else:
            norm = layers[wiring.norms[name]] if name in wiring.norms else None
            task = Task(name, layer, norm, kept.get((name, OUT)), kept.get((name, IN)), filters(dense[name]))
            tasks[name] = task
    return tasks, left_alone


def _solve(
    network: nn.Module,
    tasks: Mapping[str, Task],
    trunks: Mapping[str, Call],
    samples: dict[str, Sample],
    images: Tensor,
    options: RepairOptions,
) -> dict[str, LayerRepair]:
    """Runs the cut network once over all images; each layer is repaired before it computes."""
    kept, layers = TensorsKept(trunks.values()), {}

    def see(name: str, inputs: tuple[Tensor, ...]) -> None:
        # Taken out, so that its memory is free again.
        task, sample = tasks[name], samples.pop(name)
        if name in trunks:
            trunk = outputs_at(task.layer, kept.take(trunks[name]), sample.places.to(inputs[0].device))
            sample.targets.sub_(task.before_norm(trunk))
        layers[name] = repair_layer(task, sample, inputs[0], options)

    with flags_kept(network), calls_seen(network, kept.modules, kept.see), inputs_seen(network, tasks, see):
        network.eval()(images)
    return layers
