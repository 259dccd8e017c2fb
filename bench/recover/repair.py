"""Repair by least squares: every layer behind a cut is made to give what it gave, without labels and without training.

Two passes over a few images. In the first the network before the cut shows what its layers give at sampled positions.
In the second all images run through the cut network together, and each layer is solved for in the moment it is reached:
from what the layers before it, already repaired, let it read (He et al., ICCV 2017, and ThiNet solve for one layer after
another in as many passes). What lies between layers (activations, poolings, sums, concatenations) needs no care: a layer
is repaired for whatever it reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup
from bench.channels.layer_axes import IN, NORMS, OUT, WEIGHTED, axes_of
from bench.cut.network import kept_positions
from bench.plan.pruning_plan import PruningPlan
from bench.recover.layer_repair import LayerRepair, Sample, Task, repair_layer
from bench.recover.options import RepairOptions
from bench.recover.patches import draw_places, filters, outputs_at, positions_of
from bench.recover.wiring import Call, Wiring, read_wiring
from bench.torch_utils.contexts import flags_kept
from bench.torch_utils.hooks import calls_seen, inputs_seen

_LEAST_POSITIONS = 4096
# Where the channels are mended by one matrix, outputs only show whether that was good, and a patch is large.
_PROOF_POSITIONS = 1024


@dataclass(frozen=True)
class Repair:
    """What a repair did.

    Attributes:
        images: how many images it looked at.
        seconds: how long it took.
        layers: layer -> what came of it, in the order they run.
        left_alone: layer -> why it was not tried.
    """

    images: int
    seconds: float
    layers: dict[str, LayerRepair]
    left_alone: dict[str, str] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)

    def as_record(self) -> dict[str, Any]:
        """Plain data for a JSON record."""
        return asdict(self)


@torch.no_grad()
def repair(
    before: nn.Module,
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    plan: PruningPlan,
    images: Tensor,
    options: RepairOptions,
    seed: int = 0,
) -> Repair:
    """Repairs a network after a cut, in place; training flags stay as they were.

    Args:
        before: the network before the cut, left as it was.
        network: the same after it, on the same device.
        groups: all groups of the network before the cut.
        plan: what was kept.
        images: float [N, 3, H, W] of the training split.
        options: positions, ridge, the limit of a system's size.
        seed: seed of the choice of positions.
    """
    start = time.perf_counter()
    kept = kept_positions(before, groups, plan)
    if not kept:
        return Repair(len(images), 0.0, {})
    wiring = read_wiring(before)
    tasks, left_alone = _tasks(before, network, kept, wiring)
    trunks = {name: call for name, call in wiring.trunks.items() if name in tasks} if options.repair_trunk else {}
    device = next(network.parameters()).device
    images = images.to(device)
    samples = _samples(before, tasks, trunks, images, options, seed)
    found: dict[str, LayerRepair] = {}
    with flags_kept(network):
        _solve(network.eval(), tasks, trunks, samples, images, options, found)
    return Repair(len(images), round(time.perf_counter() - start, 4), found, left_alone)


def _tasks(
    before: nn.Module, network: nn.Module, kept: Mapping[tuple[str, str], Tensor], wiring: Wiring
) -> tuple[dict[str, Task], dict[str, str]]:
    """The layers to repair, and why the others are not."""
    dense, layers = dict(before.named_modules()), dict(network.named_modules())
    tasks, left_alone = {}, {}
    for name, layer in layers.items():
        if not isinstance(layer, WEIGHTED):
            if axes_of(layer) is None and any(True for _ in layer.parameters(recurse=False)):
                left_alone[name] = f"{type(layer).__name__} is not solved for"
            continue
        calls = wiring.calls.get(name, 0)
        if calls != 1:
            left_alone[name] = f"runs {calls} times in a pass" if calls else "not run at inference"
            continue
        norm = layers[wiring.norms[name]] if name in wiring.norms else None
        kept_out, kept_in = kept.get((name, OUT)), kept.get((name, IN))
        weights = filters(dense[name])
        if kept_out is not None and len(weights) == 1:
            weights = weights[:, kept_out.to(weights.device)]
        tasks[name] = Task(name, layer, norm, kept_out, kept_in, weights)
    return tasks, left_alone


class _Held:
    """Tensors of a forward pass that are needed again later in it."""

    def __init__(self, wanted: Sequence[Call]):
        self._wanted, self._calls, self._found = set(wanted), {}, {}
        self.names = {call.module for call in wanted}

    def restart(self) -> None:
        """To be called before each pass."""
        self._calls, self._found = {}, {}

    def note(self, name: str, inputs: tuple[Any, ...], output: Any) -> None:
        """Keeps what a call read or gave, if that is wanted."""
        number = self._calls.get(name, 0)
        self._calls[name] = number + 1
        for is_input, tensor in ((True, inputs[0] if inputs else None), (False, output)):
            call = Call(name, number, is_input)
            if call in self._wanted:
                self._found[call] = tensor

    def take(self, call: Call) -> Tensor:
        """What was kept of a call, which is kept no longer."""
        return self._found.pop(call)


def _samples(
    before: nn.Module,
    tasks: Mapping[str, Task],
    trunks: Mapping[str, Call],
    images: Tensor,
    options: RepairOptions,
    seed: int,
) -> dict[str, Sample]:
    """What the network before the cut gives at the positions that are looked at."""
    started: dict[str, Sample] = {}
    parts: dict[str, list[Tensor]] = {name: [] for name in tasks}
    input_parts: dict[str, list[Tensor]] = {name: [] for name in tasks}
    held = _Held(list(trunks.values()))
    first = 0

    def here(places):
        chosen = (places.image >= first) & (places.image < first + step)
        part = places.part(chosen)
        return type(places)(part.image - first, part.position)

    def see(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        task = tasks[name]
        if name not in started:
            started[name] = _places(task, inputs[0], output, len(images), options, seed)
        sample = started[name]
        places = here(sample.places).to(output.device)
        wanted = outputs_at(task.layer, output, places)
        if name in trunks:
            trunk = outputs_at(task.layer, held.take(trunks[name]), places)
        if task.kept_out is not None:
            kept = task.kept_out.to(wanted.device)
            wanted = wanted[:, kept]
        if name in trunks:
            trunk = trunk[:, kept] if task.kept_out is not None else trunk
            wanted = wanted + _through(trunk, task)
        parts[name].append(wanted)
        if sample.input_places is not None:
            input_parts[name].append(outputs_at(task.layer, inputs[0], here(sample.input_places).to(output.device)))

    with flags_kept(before), calls_seen(before, held.names, held.note), calls_seen(before, tasks, see):
        before.eval()
        step = 4
        for batch in images.split(step):
            held.restart()
            before(batch)
            first += len(batch)
    return {
        name: Sample(
            sample.images,
            sample.size,
            sample.places,
            torch.cat(parts[name]),
            sample.input_places,
            torch.cat(input_parts[name]) if sample.input_places is not None else None,
        )
        for name, sample in started.items()
    }


def _through(trunk: Tensor, task: Task) -> Tensor:
    """What a layer must give more for the norm behind it to give a tensor [n, outputs] more."""
    gain = task.gain()
    back = torch.where(gain.abs() > 1e-4, 1 / gain, torch.zeros_like(gain))
    return (trunk * back).to(trunk.dtype)


def _places(task: Task, inputs: Tensor, output: Tensor, images: int, options: RepairOptions, seed: int) -> Sample:
    """The positions of a layer that are looked at."""
    unknowns = filters(task.layer).shape[-1]
    count = max(_LEAST_POSITIONS, options.repair_positions * unknowns)
    size = () if isinstance(task.layer, nn.Linear) else tuple(output.shape[2:])
    nothing = output.new_empty(0)
    if not task.is_shared(options.repair_limit):
        places = draw_places(images, positions_of(task.layer, output), count, seed, task.name)
        return Sample(images, size, places, nothing)
    channels = inputs.shape[1]
    count = max(_LEAST_POSITIONS, options.repair_positions * channels)
    return Sample(
        images,
        size,
        draw_places(images, positions_of(task.layer, output), _PROOF_POSITIONS, seed, task.name),
        nothing,
        draw_places(images, positions_of(task.layer, inputs), count, seed, f"{task.name} inputs"),
        nothing,
    )


def _solve(
    network: nn.Module,
    tasks: Mapping[str, Task],
    trunks: Mapping[str, Call],
    samples: dict[str, Sample],
    images: Tensor,
    options: RepairOptions,
    found: dict[str, LayerRepair],
) -> None:
    """Runs the cut network once; each layer is repaired before it computes."""
    held = _Held(list(trunks.values()))

    def see(name: str, inputs: tuple[Any, ...]) -> None:
        task, sample = tasks[name], samples.pop(name)
        if name in trunks:
            trunk = outputs_at(task.layer, held.take(trunks[name]), sample.places.to(inputs[0].device))
            sample.targets.sub_(_through(trunk, task))
        found[name] = repair_layer(task, sample, inputs[0], options)

    with calls_seen(network, held.names, held.note), inputs_seen(network, tasks, see):
        network(images)
