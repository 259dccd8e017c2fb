"""Whether a network can be pruned, tried out from the trace to the file that a new process opens: prune.py --check."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import bench
from bench.channels.groups import ChannelGroup, find_groups, group_sides, prunable
from bench.channels.layer_axes import OUT, width
from bench.channels.tracing import OUTPUT
from bench.config.values import size_text
from bench.cut.network import cut
from bench.datasets.options import DataOptions
from bench.engine.options import PruneOptions
from bench.errors import BenchError, first_line
from bench.jobs.pruning import opened_network
from bench.jobs.reopened import seeded_logits
from bench.measure.cost import layer_macs, measure_cost
from bench.models.checkpoint import SavedModel, save_model
from bench.models.options import ModelOptions
from bench.models.state_dict_file import read_file, write_file
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import PruningPlan, make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration
from bench.report.console_tables import framed
from bench.system.failures import is_out_of_memory
from bench.torch_utils.dry_run import blank_image
from bench.torch_utils.network_form import trial_size
from bench.torch_utils.outputs import tensors_in

if TYPE_CHECKING:
    from rich.table import Table

RATIO = 0.3
"""Share of the channels of every group that the trial removes."""
LEAST = 0.1
"""Share of the channels, and of the MACs, that must be free to go."""

# How many groups a line names.
_NAMED = 3

# How far the logits of the reopened network may be off, as a share of the largest: threads add up in other orders.
_ROUNDED = 1e-4


@dataclass(frozen=True)
class Kept:
    """Channels that stay for one reason.

    Attributes:
        reason: in words.
        channels: how many.
        groups: names of their groups.
    """

    reason: str
    channels: int
    groups: tuple[str, ...]


@dataclass(frozen=True)
class NetworkCheck:
    """What a check found out.

    Attributes:
        name: the network.
        input_size: (height, width) that MACs are counted at.
        groups: all groups of coupled channels.
        channels: (may go, of) channels of the groups that do not make the outputs.
        macs: (made by channels that may go, of) multiply-accumulates of convolutions and linear layers.
        kept: what stays and why, most channels first.
        steps: what was done with a copy that lost 30 % of each group, and what came of it.
    """

    name: str
    input_size: tuple[int, int]
    groups: list[ChannelGroup]
    channels: tuple[int, int]
    macs: tuple[int, int]
    kept: list[Kept]
    steps: list[tuple[str, str]]

    @property
    def shares(self) -> tuple[float, float]:
        """Shares of the channels and of the MACs that may go."""
        return self.channels[0] / max(1, self.channels[1]), self.macs[0] / max(1, self.macs[1])

    def check_enough(self) -> None:
        """Raises BenchError where too little of the network may be pruned to be worth it."""
        if min(self.shares) < LEAST:
            raise BenchError(
                f"only {self.shares[0]:.0%} of the channels and {self.shares[1]:.0%} of the MACs of {self.name} may be "
                "pruned; the table says what stays and why"
            )


def check_network(
    checkpoint: str | None,
    network: ModelOptions,
    data: DataOptions,
    options: PruneOptions,
    input_size: tuple[int, int] | None = None,
    seed: int = 0,
) -> NetworkCheck:
    """Traces a network, cuts 30 % of the channels of each group, and runs, saves and reopens what is left.

    Args:
        checkpoint: file of the network, of any number of outputs; without one it is built with fresh weights.
        network: which it is.
        data: the data set a network without a file is for.
        options: what to protect.
        input_size: (height, width) that MACs are counted at; by default that of the trace.
        seed: of the channels that go, and of the images.

    Raises:
        UsageError: neither checkpoint nor model, or names that do not exist.
        BenchError: the network cannot be traced, nothing may go, or the cut network fails at what is then named.
    """
    saved = opened_network(checkpoint, network, data, "--check")
    model, name = saved.model, saved.spec.name
    size = input_size or trial_size(model)
    steps, clock = [], time.perf_counter()
    groups = find_groups(
        model, ignore=options.ignore, protect_first=options.protect_first, trace_size=network.trace_size
    )
    steps.append(("groups found and tried out", f"{time.perf_counter() - clock:.1f} s"))
    free, table = prunable(groups), CostTable(model, groups, size)
    inner = [group for group in groups if not (group.protected or "").startswith(OUTPUT)]
    channels = (sum(map(_positions, free)), sum(map(_positions, inner)))
    if free:
        steps += _tried(saved, groups, table, size, seed)
    return NetworkCheck(name, size, groups, channels, _macs(model, free, size), _kept(groups), steps)


def check_table(check: NetworkCheck) -> Table:
    """The table of a check: what may be pruned, what was tried, what stays and why."""
    from rich.markup import escape

    table = framed(escape(f"{check.name} at {size_text(check.input_size)}"), ["", "found"])
    table.columns[1].justify = "left"
    free, (channels, of), (macs, all_macs) = prunable(check.groups), check.channels, check.macs
    table.add_row("groups of channels that go together", f"{len(check.groups)}, {len(free)} may lose channels")
    table.add_row("channels that may go", f"{channels} of {of}: {check.shares[0]:.0%}; the outputs aside")
    share = f"{macs / 1e6:.1f} of {all_macs / 1e6:.1f} million: {check.shares[1]:.0%}"
    table.add_row("MACs of such channels", share, end_section=True)
    for number, (what, outcome) in enumerate(check.steps, start=1):
        table.add_row(escape(what), escape(outcome), end_section=number == len(check.steps))
    for kept in check.kept:
        names = ", ".join(kept.groups[:_NAMED]) + (
            f" and {len(kept.groups) - _NAMED} more" if kept.groups[_NAMED:] else ""
        )
        table.add_row(f"stays: {kept.channels} channels", escape(f"{kept.reason}: {names}"))
    return table


def _positions(group: ChannelGroup) -> int:
    """How many outputs of one layer a group is."""
    return group.channels * group.unit


def _macs(model: nn.Module, free: Sequence[ChannelGroup], size: tuple[int, int]) -> tuple[int, int]:
    """MACs that make channels which may go, and all of them."""
    macs, sides = layer_macs(model, size), group_sides(free)
    made = {
        layer: sum(len(part.positions) for _, part in parts) for (layer, side), parts in sides.items() if side == OUT
    }
    layers = dict(model.named_modules())
    going = sum(macs[name] * made.get(name, 0) // width(layers[name], OUT) for name in macs)
    return going, sum(macs.values())


def _kept(groups: Sequence[ChannelGroup]) -> list[Kept]:
    found: dict[str, list[ChannelGroup]] = defaultdict(list)
    for group in groups:
        if group.protected is not None:
            found[group.protected].append(group)
    kept = [
        Kept(reason, sum(map(_positions, members)), tuple(group.name for group in members))
        for reason, members in found.items()
    ]
    return sorted(kept, key=lambda one: -one.channels)


def _tried(
    saved: SavedModel, groups: Sequence[ChannelGroup], table: CostTable, size: tuple[int, int], seed: int
) -> list[tuple[str, str]]:
    """Cuts a copy and does with it all that a pruned network goes through."""
    target = Target(Goal("channels", RATIO), "local")
    scores = make_pruner("random").score(saved.model, prunable(groups), Calibration([], 255, seed))
    plan = make_plan(groups, scores, table, target)
    smaller = copy.deepcopy(saved.model).eval()
    images = torch.randn(blank_image(smaller, size, batch=2).shape, generator=torch.Generator().manual_seed(seed))

    def runs(model: nn.Module) -> str:
        return _shape(model, images)

    def trains(model: nn.Module) -> str:
        return _trained(copy.deepcopy(model).train(), images)

    steps: list[tuple[str, Callable[[nn.Module], str], bool]] = [
        (f"{plan.channel_ratio:.0%} of the channels cut", lambda model: _cut(model, groups, plan, size), False),
        ("forward, evaluation", runs, True),
        ("forward and backward, training", trains, True),
        ("saved and reopened in a new process", lambda model: _reopened(saved, model, plan, images), False),
    ]
    return [(what, _done(what, work, smaller, saved.model if of_any else None)) for what, work, of_any in steps]


def _done(what: str, work: Callable[[nn.Module], str], smaller: nn.Module, dense: nn.Module | None) -> str:
    """What came of a step.

    Args:
        what: the step.
        work: what it does with a network.
        smaller: the cut one.
        dense: the one before the cut, where it must be able to do the same.
    """
    try:
        return work(smaller)
    except BenchError as error:
        raise BenchError(f"{what}: {error}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        who = "the cut network"
        if dense is not None:
            try:
                work(copy.deepcopy(dense).eval())
            except Exception:  # noqa: BLE001  a network's own code
                who = "the network, cut or not,"
        raise BenchError(f"{what}: {who} fails ({type(error).__name__}: {first_line(error)})") from error


def _cut(model: nn.Module, groups: Sequence[ChannelGroup], plan: PruningPlan, size: tuple[int, int]) -> str:
    cut(model, groups, plan)
    counted = measure_cost(model, size)
    wrong = {
        name: (predicted, getattr(counted, name))
        for name, predicted in (("macs", plan.predicted.macs), ("parameters", plan.predicted.parameters))
        if predicted != getattr(counted, name)
    }
    if wrong:
        said = ", ".join(f"{name} {predicted} predicted, {found} counted" for name, (predicted, found) in wrong.items())
        raise BenchError(f"{said}; the plan of a target would be off by that")
    return f"{counted.macs / plan.dense.macs:.1%} of the MACs left, as predicted"


def _shape(model: nn.Module, images: Tensor) -> str:
    with torch.no_grad():
        return f"logits {list(model(images).shape)}"


def _trained(model: nn.Module, images: Tensor) -> str:
    logits = tensors_in(model(images))
    sum(part.float().mean() for part in logits).backward()
    reached = sum(parameter.grad is not None for parameter in model.parameters())
    return f"{reached} parameters have gradients"


def _reopened(saved: SavedModel, smaller: nn.Module, plan: PruningPlan, images: Tensor) -> str:
    wanted = seeded_logits(smaller, images)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("pruned.pt", "images.pt", "logits.pt")]
        kept = {**saved.channels, **plan.kept}
        save_model(files[0], SavedModel(smaller, saved.spec, kept))
        write_file(files[1], {"images": images})
        # Bench lies where this process has it, the user's own network where this one looks for it.
        path = os.pathsep.join([str(Path(bench.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-m", "bench.jobs.reopened", saved.spec.name, *map(str, files)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchError(first_line((done.stderr.strip().splitlines() or ["the new process failed"])[-1]))
        found = read_file(files[2])["logits"]
    off = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
    if not off <= _ROUNDED:
        raise BenchError(f"its logits differ from those before by {off:.1e} of the largest")
    return "the same logits"
