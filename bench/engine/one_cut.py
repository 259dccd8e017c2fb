"""Pruning in one cut: score, plan, cut, recover, measure."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from bench.channels.groups import ChannelGroup
from bench.cut.network import cut, fresh_network
from bench.engine.recover_and_measure import recover_and_measure
from bench.engine.results import Changed, Cut, Pruned
from bench.engine.session import Session
from bench.engine.weighing.objective import weighing_of
from bench.engine.weighing.refining import weighed_plan
from bench.errors import UsageError
from bench.measure.latency import LatencyReport
from bench.plan.latency_search import Measurement, find, search_record
from bench.plan.macs_budget import flat_scores
from bench.plan.pruning_plan import (
    PruningPlan,
    Scores,
    make_plan,
    original_channels,
    plan_of,
    removal_order_of,
)
from bench.plan.removal_order import RemovalOrder, fixed_ratios
from bench.plan.target import Target
from bench.plan.weighed_order import Objective
from bench.pruners.base import Pruner
from bench.recover.bias_absorption import absorb_bias
from bench.recover.options import NONE


def prune_once(session: Session, pruner: Pruner, target: Target, seed: int) -> Pruned:
    """Prunes a copy of the baseline in one cut.

    Where the method trains first, it is the trained network that is scored and cut; what comes of it is still
    compared with the baseline.

    Args:
        session: the baseline, and what all prunings of it share.
        pruner: the method.
        target: what to reach.
        seed: seed of the method, of its training and of the choice of calibration images.

    Raises:
        UsageError: a pattern of the target's fits no group, or options contradict the method.
        BenchError: the target is out of reach, or the method cannot score this network.
    """
    _check(session, pruner, target)
    whole = session.network_of(pruner, seed, target)

    # Score: one number for every channel that may go.
    scores, scores_file = session.scores(pruner, seed, target)

    # Plan: which channels stay, and what the network will cost.
    plan, measured, weighed = _choose(session, pruner, seed, scores, whole.model, target)

    # Cut: each layer is sliced once.
    network, absorbed = smaller(session, whole.model, plan)
    baseline = session.baseline
    channels = original_channels(baseline.saved.channels, session.groups, plan)
    if pruner.starts_anew:
        dense, check = baseline.saved.spec, session.options.tries_groups
        network = fresh_network(dense, channels, seed, check=check).to(baseline.device)

    # Recover and measure: as after any other way of pruning.
    latency = baseline.time(network) if target.goal.is_timed else None
    record = {
        "scores": scores_file,
        "plan": plan.as_record(),
        "sparsity": None,
        "bias_absorption": absorbed,
        "preparation": whole.record,
        "latency_search": search_record(target.goal, measured, latency) if latency else None,
        **weighed,
    }
    done = Cut(whole.model, session.groups, plan)
    changed = Changed(network, plan.removes_channels, channels, record, plan, latency=latency, cut=done)
    return recover_and_measure(session, pruner, target.as_record(), seed, changed, whole)


def smaller(
    session: Session, whole: nn.Module, plan: PruningPlan, groups: Sequence[ChannelGroup] | None = None
) -> tuple[nn.Module, dict[str, Any] | None]:
    """A copy of a network without the channels a plan removes, and the record of a bias absorption, if wanted.

    BatchNorm statistics are not re-estimated, and no layer is solved for.

    Args:
        session: the groups, and whether constants are absorbed.
        whole: the baseline, or what a method's training made of it.
        plan: what to keep.
        groups: all groups of the network, where they are not the session's.
    """
    groups, network = groups or session.groups, copy.deepcopy(whole)
    absorbed = absorb_if_wanted(session, [network], groups, plan)
    with session.stopwatch.stage("cut"):
        cut(network, groups, plan)
    return network, absorbed


def candidate(
    session: Session, whole: nn.Module, plan: PruningPlan, seed: int, groups: Sequence[ChannelGroup] | None = None
) -> nn.Module:
    """What a plan makes of a copy of a network, to be judged by its quality: cut, and repaired where that is wanted.

    Args:
        session: the groups, and how networks are repaired.
        whole: the network that is pruned.
        plan: what to keep.
        seed: seed of the repair.
        groups: all groups of the network, where they are not the session's.
    """
    network, _ = smaller(session, whole, plan, groups)
    if session.repair.solves:
        session.repair_network(whole, network, groups or session.groups, plan, seed)
    return network


def absorb_if_wanted(
    session: Session, networks: Sequence[nn.Module], groups: Sequence[ChannelGroup], plan: PruningPlan
) -> dict[str, Any] | None:
    """Adds the constants of the channels that will go to what reads them; the record of the last network, or None."""
    absorbed = None
    if session.options.absorb_bias:
        for network in networks:
            with session.stopwatch.stage("absorb"):
                absorbed = absorb_bias(network, groups, plan)
    return absorbed


def _check(session: Session, pruner: Pruner, target: Target) -> None:
    """Finds before the scoring, which may take long, what can be known to fail."""
    if pruner.starts_anew and session.repair.repair != NONE:
        raise UsageError(f"{pruner.name} draws all weights anew after the cut; leave `repair` and `absorb_bias` out")
    fixed_ratios(session.groups, target.ratio_of)
    if pruner.trains_first and not target.goal.is_timed:
        # A target that no scores can reach.
        make_plan(session.groups, flat_scores(session.groups), session.cost_table, target)


def _choose(
    session: Session, pruner: Pruner, seed: int, scores: Scores, whole: nn.Module, target: Target
) -> tuple[PruningPlan, list[Measurement], dict[str, Any]]:
    """The plan for a target, what was measured to find it where that is a latency, and the record of an objective."""
    groups, table, measured = session.groups, session.cost_table, []

    def made(plan: PruningPlan) -> nn.Module:
        return candidate(session, whole, plan, seed)

    def measure(order: RemovalOrder, number: int, effort: float) -> LatencyReport:
        # A repair changes no shape, and so no latency.
        network, _ = smaller(session, whole, plan_of(groups, scores, table, order, number))
        return session.baseline.time(network, effort)

    def plan_with(objective: Objective | None) -> PruningPlan:
        with session.stopwatch.stage("plan"):
            if not target.goal.is_timed:
                return make_plan(groups, scores, table, target, objective=objective)
            order = removal_order_of(groups, scores, table, target, objective=objective)
            number, found = find(order, table.dense().macs, target.goal, partial(measure, order))
            measured.extend(found)
            return plan_of(groups, scores, table, order, number)

    weighing = weighing_of(session, pruner, seed, scores, whole, made)
    plan, record = weighed_plan(session, pruner, seed, target, scores, weighing, plan_with, made)
    return plan, measured, record
