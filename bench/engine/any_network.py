"""Pruning any `nn.Module` in one call, without files: score, plan, cut, recover, measure."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, find_groups, layers_to_spare, prunable
from bench.cut.network import cut
from bench.engine.options import PruneOptions
from bench.engine.repairing import repair_network
from bench.engine.weighing.checks import MEASURE, check_objective
from bench.engine.weighing.without_files import objective_for, plan_by
from bench.errors import BenchError, UsageError, unknown_name
from bench.measure.cost import Cost, measure_cost
from bench.models.adapter import adapt, as_it_was, unwrapped_network
from bench.plan.cost_table import CostTable
from bench.plan.macs_budget import budget_for
from bench.plan.pruning_plan import PruningPlan, Scores
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration, Method, Pruner, Sparsifier
from bench.recover import bias_absorption, recalibration
from bench.recover.options import BIAS, LEAST_SQUARES, NONE, RepairOptions, with_old_spelling
from bench.torch_utils.batches import Batch, lone_joined
from bench.torch_utils.finite import first_fault
from bench.torch_utils.network_form import ATTRIBUTE, NetworkForm
from bench.torch_utils.sparse_weights import set_to_zero

if TYPE_CHECKING:
    from bench.data import SegmentationData

IGNORE_INDEX = 255
"""Label of pixels that count nowhere, where the data do not name another."""


@dataclass(frozen=True)
class PrunedNetwork:
    """A pruned copy of a network, and what was decided on the way.

    Attributes:
        model: the copy, in evaluation mode on the network's device.
        before: what the network costs.
        after: what the copy costs.
        plan: which channels stay; None where single weights were zeroed instead.
        scores: group name -> [channels], larger = keep; empty where single weights were zeroed.
        groups: the coupled channels of the network.
    """

    model: nn.Module
    before: Cost
    after: Cost
    plan: PruningPlan | None
    scores: Scores = field(repr=False)
    groups: list[ChannelGroup] = field(repr=False)

    def __str__(self) -> str:
        def change(name: str) -> str:
            return f"{100 * (getattr(self.after, name) / getattr(self.before, name) - 1):+.1f} %"

        gone = f"{self.plan.channel_ratio:.1%} of the prunable channels gone, " if self.plan else ""
        return (
            f"{gone}parameters {change('parameters')} (not zero: {change('nonzero_parameters')}), MACs {change('macs')}"
        )


def prune(
    model: nn.Module,
    data: SegmentationData | Iterable[Batch] | None = None,
    *,
    target: Goal | Mapping[str, float],
    method: str | Method = "l1",
    options: Mapping[str, Any] | None = None,
    scope: str | None = None,
    min_keep: float = 0.02,
    max_ratio: float = 1.0,
    round_to: int = 1,
    ratio_of: Mapping[str, float] | None = None,
    ignore: Sequence[str] = (),
    protect_first: bool = False,
    objective: str = "channels",
    sensitivity_curves: str | Path | None = None,
    refine: int = 0,
    absorb_bias: bool = False,
    repair: str | RepairOptions = NONE,
    recalibrate: bool = True,
    input_size: tuple[int, int] | None = None,
    output_key: str | int | None = None,
    trace_size: tuple[int, int] | None = None,
    check: bool = True,
    calib_images: int = 64,
    calib_batch_size: int = 4,
    ignore_index: int | None = None,
    seed: int = 0,
) -> PrunedNetwork:
    """Prunes a copy of any network; the network itself stays as it is.

        batches = [(images, labels) for images, labels in loader]      # float32 [N, 3, H, W], int64 [N, H, W]
        pruned = bench.prune(model, batches, method="taylor", target={"macs": 0.5})
        print(pruned)
        torch.save(pruned.model, "smaller.pt")

    Args:
        model: maps images [N, 3, H, W] to logits [N, C, h, w], or to something that holds them: a mapping, a tuple, a
            list, a dataclass. Where these are smaller than labels they are scaled up for every loss.
        data: training images with labels: a data set of `bench.data`, or batches of any origin. None will do for
            methods that look at weights alone, in a network without BatchNorm or with `recalibrate=False`.
        target: what to reach: one of `{"channels": share to remove}`, `{"macs": share to keep}`, `{"params": share to
            keep}`, `{"size": bytes}`, for methods that zero weights `{"sparsity": share}`; or a `Goal`.
        method: a registered name (`bench.pruners.methods()`), or a method.
        options: the method's own options, where it is given by name.
        scope: which channels are ranked with which; see `Target`. By default the method's.
        min_keep: smallest share of a group's channels that stays.
        max_ratio: largest share of a group's channels that goes.
        round_to: groups keep multiples of so many channels.
        ratio_of: layer-name pattern -> the share that these groups lose whatever the target.
        ignore: patterns of layers to leave whole.
        protect_first: leave the first layer whole.
        objective: what a channel's importance is weighed against: `channels` (nothing), or the `macs`, `params` or
            `latency` (on the network's device) that it saves.
        sensitivity_curves: for an objective with a method whose scores only rank the channels of a layer: the
            sensitivity.json that prune.py --sensitivity wrote.
        refine: with an objective, how many other weightings of the groups to try; the plan of least loss is taken.
        absorb_bias: old spelling of `repair="bias"`.
        repair: what is done for the layers that read removed channels: "none"; "bias": what these give without their
            input is added; "least-squares": weights are solved for that come closest to the network's outputs, and
            BatchNorm statistics are re-estimated where that loses less on some of the images. Or `RepairOptions`.
        recalibrate: re-estimate BatchNorm statistics on the images after the cut.
        input_size: (height, width) in pixels that costs are counted at; by default that of the images.
        output_key: which part of the output are the logits, a name or a number; needed where it is not clear.
        trace_size: (height, width) in pixels that the network is traced at; by default the smallest of some usual ones
            that it runs at, else that which costs are counted at.
        check: whether groups of channels are tried out on the network before they are believed.
        calib_images: how many images are looked at, the first there are; of a data set as many, chosen by seed.
        calib_batch_size: images a batch of a data set's; part of a method's definition. Batches stay as they are.
        ignore_index: label that does not count; by default the data set's, else 255.
        seed: seed of everything random.

    Raises:
        UsageError: what is asked for does not exist or go together.
        BenchError: the target is out of reach, a weight is not finite, the network cannot be traced, or the method
            cannot score it.
    """
    pruner = make_pruner(method, dict(options or {})) if isinstance(method, str) else method
    goal = pruner.aim(_goal(target))
    batches, size, void = _images(data, calib_images, calib_batch_size, input_size, ignore_index, seed)
    device = next(model.parameters(), torch.empty(0)).device
    mending = _repair_options(repair, absorb_bias)
    weighing = PruneOptions(
        scope=scope,
        # A repair settles the statistics of what it repairs.
        recalibrate=recalibrate and not mending.solves,
        objective=objective,
        sensitivity_curves=None if sensitivity_curves is None else str(sensitivity_curves),
        refine=refine,
    )
    _check(model, pruner, goal, batches, weighing, mending)

    # Groups and costs are those of the network as it is, whose other outputs are to stay, too.
    model = unwrapped_network(model)
    subject = _adapted_copy(model, output_key)
    whole = model if isinstance(subject, type(model)) else subject
    groups = find_groups(
        whole, ignore=ignore, protect_first=protect_first, check=check, trace_size=trace_size, input_size=size
    )
    table = CostTable(whole, groups, size)
    plan, scores = None, {}
    if isinstance(pruner, Sparsifier):
        smaller = copy.deepcopy(subject).eval()
        set_to_zero(smaller, pruner.choose(subject, layers_to_spare(groups), goal.value).zeroed)
    else:
        limits = (min_keep, max_ratio, round_to, dict(ratio_of or {}))
        has_pools = scope is None and (objective == "channels" or pruner.comparable)
        pools = pruner.pools(subject, prunable(groups)) if has_pools else {}
        by_default = pruner.scope if objective == "channels" else "global"
        wanted = Target(goal, scope or by_default, *limits, pools)
        budget = budget_for(groups, table, wanted) if pruner.needs_target else None
        weighed = objective_for(subject, groups, table, pruner, weighing, size)

        def made(plan: PruningPlan) -> nn.Module:
            network = copy.deepcopy(subject).eval()
            if mending.repair == BIAS:
                bias_absorption.absorb_bias(network, groups, plan)
            cut(network, groups, plan)
            if mending.solves and plan.removes_channels:
                repair_network(
                    subject,
                    network,
                    groups,
                    plan,
                    mending,
                    lambda _images: batches,
                    recalibration_images=calib_images if recalibrate else 0,
                    batch_size=calib_batch_size,
                    ignore_index=void,
                    seed=seed,
                )
            return network

        # Score.
        scores = score_channels(subject, groups, pruner, Calibration(batches, void, seed, budget))
        # Plan.
        plan = plan_by(groups, scores, table, wanted, weighed, weighing, made, batches, void, seed)
        # Cut, and repair.
        smaller = made(plan)
    # Recover.
    is_repaired = plan is not None and plan.removes_channels and mending.solves
    if recalibrate and batches and not is_repaired:
        recalibration.recalibrate(smaller, batches, device)
    # Measure.
    smaller = as_it_was(smaller)
    return PrunedNetwork(smaller, measure_cost(whole, size), measure_cost(smaller, size), plan, scores, groups)


def score_channels(
    model: nn.Module, groups: Sequence[ChannelGroup], pruner: Pruner, calibration: Calibration
) -> Scores:
    """Scores the channels of a network that may be removed.

    Args:
        model: any network, as for `prune`; left as it was.
        groups: what `find_groups` found in it.
        pruner: the method, such as `make_pruner("taylor")`.
        calibration: images and labels for methods that look at them, and the seed.

    Returns:
        Group name -> float [channels] on the CPU, larger = keep.

    Raises:
        BenchError: no channel may be removed, or the method can score none.
    """
    free = prunable(groups)
    if not free:
        raise BenchError("no channel of the network may be removed: every group is protected; `ignore` fewer layers")
    # What is wrapped keeps its names, and gives logits itself.
    is_wrapped = unwrapped_network(model) is not model
    network = (copy.deepcopy(model) if is_wrapped else _adapted_copy(model)).eval().requires_grad_(True)
    scores = pruner.score(network, free, calibration)
    if not scores:
        raise BenchError(f"{pruner.name} can score no channel of the network; use another method")
    return {name: score.detach().cpu() for name, score in scores.items()}


def _goal(target: Goal | Mapping[str, float]) -> Goal:
    if isinstance(target, Goal):
        return target
    if not isinstance(target, Mapping) or len(target) != 1:
        raise UsageError(f'a target is one of its kinds with a value, such as {{"macs": 0.5}}, not {target!r}')
    return Goal(*next(iter(target.items())))


def _images(
    data: SegmentationData | Iterable[Batch] | None,
    count: int,
    batch_size: int,
    input_size: tuple[int, int] | None,
    ignore_index: int | None,
    seed: int,
) -> tuple[list[Batch], tuple[int, int], int]:
    """Batches of so many images, the size costs are counted at, and the label that does not count."""
    void = IGNORE_INDEX if ignore_index is None else ignore_index
    if data is None:
        if input_size is None:
            raise UsageError("without data, `input_size` (height, width) says at which size costs are counted")
        return [], input_size, void
    if hasattr(data, "calibration"):
        void = data.classes.ignore_index if ignore_index is None else ignore_index
        return data.calibration(count, batch_size, seed), input_size or data.input_size, void
    batches, missing = [], count
    for batch in data:
        if isinstance(batch, Tensor) or len(batch) != 2:
            raise UsageError("data must be batches of (images [N, 3, H, W], labels [N, H, W])")
        images, labels = (part[:missing] for part in batch)
        batches.append((images, labels.long()))
        missing -= len(images)
        if not missing:
            break
    if not batches:
        raise UsageError("data holds no batch; pass images, or None for methods that look at weights alone")
    return lone_joined(batches), input_size or tuple(batches[0][0].shape[-2:]), void


def _repair_options(repair: str | RepairOptions, absorb_bias: bool) -> RepairOptions:
    kinds = (NONE, BIAS, LEAST_SQUARES)
    if isinstance(repair, str) and repair not in kinds:
        raise unknown_name("repair", repair, kinds)
    return with_old_spelling(RepairOptions(repair) if isinstance(repair, str) else repair, absorb_bias)


def _check(
    model: nn.Module, pruner: Method, goal: Goal, batches: list[Batch], options: PruneOptions, repair: RepairOptions
) -> None:
    """Finds what cannot be before anything is computed."""
    check_objective(options, pruner, goal)
    if options.sensitivity_curves == MEASURE:
        raise UsageError("`sensitivity_curves=measure` is what prune.py does; here pass the sensitivity.json it writes")
    if options.refine and not batches:
        raise UsageError("`refine` judges plans by the loss on images; pass data")
    fault = first_fault(model.state_dict())
    if fault:
        raise BenchError(f"the network cannot be pruned: {fault}")
    if isinstance(pruner, Pruner) and (pruner.trains_first or pruner.starts_anew):
        raise UsageError(
            f"{pruner.name} trains with the options it has, which needs a run folder; prune with prune.py, or choose "
            "options without training (slimming: sparse_epochs=0; dmcp: recipe='light')"
        )
    if goal.is_timed:
        raise UsageError("a latency is measured, not predicted; prune with prune.py, or give a target in MACs")
    if isinstance(pruner, Sparsifier) and repair.repair != NONE:
        raise UsageError(f"{pruner.name} removes no channels; leave `repair` out")
    if batches:
        return
    if repair.solves:
        raise UsageError("`repair=least-squares` looks at images; pass data")
    if isinstance(pruner, Pruner) and pruner.needs_data:
        raise UsageError(f"{pruner.name} looks at images; pass data")
    has_statistics = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if options.recalibrate and has_statistics:
        raise UsageError("BatchNorm statistics are re-estimated on images; pass data, or `recalibrate=False`")


def _adapted_copy(model: nn.Module, output_key: str | int | None = None) -> nn.Module:
    """A copy of a network that gives logits of its images' size, whatever the network gives."""
    network = copy.deepcopy(model)
    return network if hasattr(network, ATTRIBUTE) else adapt(network, NetworkForm(output_key=output_key))
