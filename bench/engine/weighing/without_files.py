"""An objective for a network that belongs to no session: nothing is kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from bench.channels.groups import ChannelGroup
from bench.engine.options import PruneOptions
from bench.engine.weighing.latency_table import norms_behind
from bench.engine.weighing.objective import MakeSmaller, curves_of, read_curves
from bench.engine.weighing.refining import cost_limit, mean_loss
from bench.measure.latency_mode import PLAIN_MODE
from bench.measure.width_latencies import measure_widths
from bench.plan.cost_model import CostModel, exact_cost
from bench.plan.cost_table import CostTable
from bench.plan.latency_model import LatencyCost
from bench.plan.pruning_plan import PruningPlan, Scores, make_plan
from bench.plan.refinement import refine
from bench.plan.target import Target
from bench.plan.weighed_order import Objective
from bench.pruners.base import Pruner
from bench.recover.recalibration import recalibrate
from bench.torch_utils.batches import Batch


def objective_for(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    table: CostTable,
    pruner: Pruner,
    options: PruneOptions,
    input_size: tuple[int, int],
) -> Objective | None:
    """The objective that some options ask for; a latency is measured now, curves come from a file.

    Args:
        model: the network to prune.
        groups: its groups.
        table: predicts its costs.
        pruner: the method.
        options: the objective.
        input_size: (height, width) of an image in pixels.

    Raises:
        BenchError: a file of curves of another method.
    """
    if options.objective == "channels":
        return None
    cost: CostModel
    if options.objective == "latency":
        device = next(model.parameters()).device
        times = measure_widths(model, norms_behind(groups), input_size, device=device, mode=PLAIN_MODE)
        cost = LatencyCost(table, times)
    else:
        cost = exact_cost(table, options.objective)
    rows = [] if pruner.comparable else read_curves(options.sensitivity_curves, pruner.name)
    return Objective(cost, curves_of(rows) if rows else None)


def plan_by(
    groups: Sequence[ChannelGroup],
    scores: Scores,
    table: CostTable,
    target: Target,
    objective: Objective | None,
    options: PruneOptions,
    smaller: MakeSmaller,
    batches: Sequence[Batch],
    ignore_index: int,
    seed: int,
) -> PruningPlan:
    """The plan of an objective, refined where that is wanted.

    Args:
        groups: of the network.
        scores: of its channels.
        table: predicts its costs.
        target: what to reach.
        objective: None lets importance decide alone.
        options: how many plans to try, and whether networks are recalibrated first.
        smaller: the network that a plan leaves.
        batches: the images they are judged by.
        ignore_index: label that does not count.
        seed: seed of the search.
    """
    first = make_plan(groups, scores, table, target, objective=objective)
    if objective is None or not options.refine:
        return first

    def loss_of(plan: PruningPlan) -> float:
        network = smaller(plan)
        device = next(network.parameters(), torch.empty(0)).device
        if options.recalibrate:
            recalibrate(network, batches, device)
        return mean_loss(network, batches, ignore_index, device)

    plan, _ = refine(
        list(scores),
        lambda by: make_plan(groups, scores, table, target, objective=replace(objective, multipliers=by)),
        loss_of,
        cost_limit(target, first),
        trials=options.refine,
        seed=seed,
    )
    return plan
