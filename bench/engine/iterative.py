"""Pruning in several cuts: the network is scored anew before each, and trained between them where that is wanted.

Every cut is planned in the channel numbers of the baseline, with its groups and its cost table: shares, limits and
costs count from there and do not compound. Only the scores are those of the network as it is by then.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from bench.channels.groups import find_groups, prunable
from bench.engine.cut_schedule import CutSchedule
from bench.engine.one_cut import absorb_if_wanted, candidate
from bench.engine.recover_and_measure import recover_and_measure
from bench.engine.results import Changed, Cut, Pruned, Subject
from bench.engine.session import Session
from bench.engine.weighing.objective import MakeSmaller, Weighing, weighing_of
from bench.engine.weighing.refining import weighed_plan
from bench.models.state_dict_file import tensors_digest
from bench.plan.pruning_plan import PruningPlan, Scores, make_plan, original_channels, renumbered
from bench.plan.removal_order import fixed_ratios
from bench.plan.target import Target
from bench.plan.weighed_order import Objective
from bench.pruners.base import Method
from bench.recover.training_between_cuts import TrainingBetweenCuts
from bench.system.console import say
from bench.training.distillation import distillation_of


def prune_in_steps(session: Session, schedule: CutSchedule, pruner: Method, target: Target, seed: int) -> Pruned:
    """Scores, plans, cuts and trains a copy of the baseline by turns; recalibrates and measures it in the end.

    Args:
        session: the baseline, and what all prunings of it share.
        schedule: the cuts, and what is trained between them.
        pruner: the method; `check_schedule` says which fit.
        target: what to reach, counted from the baseline.
        seed: seed of the method, of the choice of calibration images and of the training.

    Raises:
        UsageError: a pattern of the target's fits no group, or the recipe does not fit the device.
        BenchError: the target is out of reach, the method cannot score this network, or the training diverged.
    """
    groups, table = session.groups, session.cost_table
    fixed_ratios(groups, target.ratio_of)
    training = _training(session, schedule, seed)
    kept = {group.name: list(range(group.channels)) for group in prunable(groups)}
    subject, records, cuts, weighing = None, [], [], None
    for number, step in enumerate(schedule.targets(target, table.dense().bytes), start=1):
        # Score the network as it is by now.
        scores, scores_file = session.scores(pruner, seed, subject=subject)
        present = subject or session.subject
        smaller = _smaller(session, training.result, present, kept, seed)
        if subject is None:
            # A target out of reach is found before the training.
            make_plan(groups, scores, table, target)
            weighing = weighing_of(session, pruner, seed, scores, training.result, smaller)

        # Plan in the channel numbers of the baseline.
        plan, weighed = _planned(session, pruner, seed, step, scores, kept, weighing, smaller, subject)

        # Cut in the network's own numbers, the optimizer's state and an averaged network along with it.
        uncut = [copy.deepcopy(model) for model in training.networks] if session.repair.solves else []
        done = renumbered(plan, kept)
        absorbed = _cut_along(session, training, present, done)
        kept = plan.kept
        record = {**_record(session, plan, step, scores_file, absorbed), **weighed}
        say(f"cut {number} of {schedule.iterations}: {_outcome(record)}")

        # Recover what is to be scored next.
        cuts = [Cut(model, present.groups, done) for model in uncut]
        if number < schedule.iterations:
            subject = _recovered(session, schedule, training, seed, record, cuts)
        records.append(record)

    # Recover and measure: as after any other way of pruning.
    how = {"schedule": schedule.as_record()}
    record = {
        "scores": scores_file,
        "plan": plan.as_record(),
        "bias_absorption": absorbed,
        **dict.fromkeys(("sparsity", "preparation", "latency_search")),
        **how,
        "iterations": records,
        **weighed,
    }
    channels = original_channels(session.baseline.saved.channels, groups, plan)
    # The network that is kept is the last of those in training.
    last = cuts[-1] if cuts else None
    changed = Changed(training.result, plan.removes_channels, channels, record, plan, schedule=how, cut=last)
    return recover_and_measure(session, pruner, target.as_record(), seed, changed)


def _training(session: Session, schedule: CutSchedule, seed: int) -> TrainingBetweenCuts:
    baseline = session.baseline
    network = replace(baseline.saved, model=copy.deepcopy(baseline.saved.model))
    steps = (schedule.iterations - 1) * schedule.steps_between
    taught = distillation_of(schedule.distill, baseline.saved.model, baseline.digest)
    data = baseline.data.seeded(seed)
    return TrainingBetweenCuts(network, data, schedule.recipe, steps, seed, baseline.device, taught)


def _smaller(
    session: Session, network: nn.Module, present: Subject, kept: Mapping[str, Sequence[int]], seed: int
) -> MakeSmaller:
    """What a plan in the baseline's channel numbers makes of a copy of the network as it is by now."""

    def made(plan: PruningPlan) -> nn.Module:
        return candidate(session, network, renumbered(plan, kept), seed, present.groups)

    return made


def _planned(
    session: Session,
    pruner: Method,
    seed: int,
    step: Target,
    scores: Scores,
    kept: Mapping[str, Sequence[int]],
    weighing: Weighing | None,
    smaller: MakeSmaller,
    subject: Subject | None,
) -> tuple[PruningPlan, dict[str, Any]]:
    """The plan of one cut and the record of its objective."""

    def plan_with(objective: Objective | None) -> PruningPlan:
        with session.stopwatch.stage("plan"):
            return make_plan(session.groups, scores, session.cost_table, step, kept, objective)

    return weighed_plan(session, pruner, seed, step, scores, weighing, plan_with, smaller, subject)


def _cut_along(
    session: Session, training: TrainingBetweenCuts, subject: Subject, plan: PruningPlan
) -> dict[str, Any] | None:
    """Cuts the networks in training by a plan in their own channel numbers; the record of a bias absorption."""
    absorbed = absorb_if_wanted(session, training.networks, subject.groups, plan)
    with session.stopwatch.stage("cut"):
        training.cut(subject.groups, plan)
    return absorbed


def _recovered(
    session: Session,
    schedule: CutSchedule,
    training: TrainingBetweenCuts,
    seed: int,
    record: dict[str, Any],
    cuts: Sequence[Cut],
) -> Subject:
    """What is scored next: the network, repaired and trained, with statistics of its own and groups of its own."""
    for model, done in zip(training.networks, cuts, strict=False):
        record["repair"] = session.repair_network(done.before, model, done.groups, done.plan, seed)
    if steps := schedule.steps_between:
        with session.stopwatch.stage("train"):
            record["trained"] = {"steps": steps, "loss": training.train(steps)}
    network = training.result
    # A repair has settled the statistics, and they hold until the network is trained.
    if session.options.recalibrate and (steps or not cuts):
        session.recalibrate(network, seed)
    # By name, because a depthwise convolution left with one channel counts as an ordinary one and has a group.
    may_shrink = {group.name for group in prunable(session.groups)}
    with session.stopwatch.stage("groups"):
        found = find_groups(network, check=session.options.tries_groups)
    groups = [group if group.name in may_shrink else replace(group, protected="whole") for group in found]
    return Subject(network, groups, tensors_digest(network.state_dict()))


def _record(
    session: Session, plan: PruningPlan, step: Target, scores_file: str, absorbed: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What `pruning_info.json` says about one cut; channels in the numbers of the dense network."""
    channels = original_channels(session.baseline.saved.channels, session.groups, plan)
    return {
        "goal": asdict(step.goal),
        "ratio_of": dict(step.ratio_of),
        "scores": scores_file,
        **plan.as_record(),
        "kept": {name: channels[name] for name in plan.kept},
        "bias_absorption": absorbed,
        "trained": None,
    }


def _outcome(record: Mapping[str, Any]) -> str:
    predicted, before = record["predicted"], record["before"]
    return (
        f"{record['channel_ratio']:.1%} of the channels gone, {predicted['macs'] / before['macs']:.1%} of the MACs left"
    )
