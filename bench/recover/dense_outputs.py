"""What the layers of a network give before a cut, at sampled positions: what a repair aims at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from bench.recover.balance import Balance
from bench.recover.layer_repair import Sample, Task
from bench.recover.options import RepairOptions
from bench.recover.patches import Places, draw_places, filters, outputs_at, positions_of
from bench.recover.wiring import Call, TensorsKept
from bench.torch_utils.contexts import flags_kept
from bench.torch_utils.dry_run import folded_layers
from bench.torch_utils.hooks import calls_seen

# Ten a weight leave a tenth of the error to chance; where systems are small, more cost little.
LEAST_POSITIONS = 16384

# Where one matrix over the channels is solved for, outputs only show whether it serves, and each has a large patch.
_PROOF_POSITIONS = 1024

# Images that run through the network at once.
_BATCH = 4


@torch.no_grad()
def dense_samples(
    before: nn.Module,
    tasks: Mapping[str, Task],
    trunks: Mapping[str, Call],
    images: Tensor,
    options: RepairOptions,
    seed: int,
) -> dict[str, Sample]:
    """Runs the network before the cut over some images; it stays as it was.

    A few images at a time, unless a layer has more than them on its first axis: only if all run together the rows are
    those of the repairing pass.

    Args:
        before: the network.
        tasks: the layers to look at.
        trunks: of some of them, what is added to what they give; their targets are those of the sum, and what is
            added in the cut network is to be taken off.
        images: float [N, 3, H, W] on the network's device.
        options: how many positions are looked at.
        seed: seed of the choice of positions.
    """
    sampling = {name: _Sampling(task, trunks.get(name)) for name, task in tasks.items()}
    together = len(images) if folded_layers(before, tasks) else _BATCH
    kept, balance = TensorsKept(trunks.values()), Balance(options.repair_balance)

    def see(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        one = sampling[name]
        if one.sample is None:
            rows = len(output) * len(images) // min(together, len(images))
            one.begin(inputs[0], output, rows, options, seed)
        one.look(inputs[0], output, kept.take(one.trunk) if one.trunk else None)

    with flags_kept(before), calls_seen(before, kept.modules, kept.see), calls_seen(before, tasks, see):
        before.eval()
        for batch in images.split(together):
            kept.restart()
            balance.see(before(batch))
    return {name: one.finished(balance) for name, one in sampling.items()}


class _Sampling:
    """Collects the sample of a layer, batch by batch."""

    def __init__(self, task: Task, trunk: Call | None):
        self._task, self.trunk = task, trunk
        self.sample: Sample | None = None
        self._first = 0
        self._positions = self._input_positions = 0
        self._input_size: tuple[int, ...] = ()
        self._targets: list[Tensor] = []
        self._inputs: list[Tensor] = []

    def begin(self, inputs: Tensor, output: Tensor, images: int, options: RepairOptions, seed: int) -> None:
        """Chooses the positions, once it is known how many there are."""
        task, nothing = self._task, output.new_empty(0)
        size = () if isinstance(task.layer, nn.Linear) else tuple(output.shape[2:])
        positions = self._positions = positions_of(task.layer, output)
        is_shared = task.is_shared(options.repair_limit, images * positions)
        unknowns = filters(task.layer).shape[-1]
        count = _PROOF_POSITIONS if is_shared else max(LEAST_POSITIONS, options.repair_positions * unknowns)
        places = draw_places(images, positions, count, seed, task.name)
        self.sample = Sample(images, size, places, nothing, nothing)
        if is_shared:
            count = max(LEAST_POSITIONS, options.repair_positions * inputs.shape[1])
            self._input_size, self._input_positions = tuple(inputs.shape[2:]), positions_of(task.layer, inputs)
            read = draw_places(images, self._input_positions, count, seed, f"{task.name} inputs")
            self.sample = replace(self.sample, input_places=read, inputs=nothing)

    def look(self, inputs: Tensor, output: Tensor, trunk: Tensor | None) -> None:
        """Looks at the positions that are in the images of this batch."""
        task, sample = self._task, self.sample
        here = self._here(sample.places, output)
        targets = task.stays(outputs_at(task.layer, output, here))
        if trunk is not None:
            targets = targets + task.before_norm(task.stays(outputs_at(task.layer, trunk, here)))
        self._targets.append(targets)
        if sample.input_places is not None:
            self._inputs.append(outputs_at(task.layer, inputs, self._here(sample.input_places, inputs)))
        self._first += len(output)

    def finished(self, balance: Balance) -> Sample:
        """The sample of all images."""
        sample = self.sample
        weights = balance.at(self._positions, sample.size, sample.places)
        sample = replace(sample, targets=torch.cat(self._targets), weights=weights)
        if sample.input_places is None:
            return sample
        weights = balance.at(self._input_positions, self._input_size, sample.input_places)
        return replace(sample, inputs=torch.cat(self._inputs), input_weights=weights)

    def _here(self, places: Places, batch: Tensor) -> Places:
        """The positions in the images of a batch, numbered from its first."""
        is_here = (places.image >= self._first) & (places.image < self._first + len(batch))
        part = places.part(is_here)
        return Places(part.image - self._first, part.position).to(batch.device)
