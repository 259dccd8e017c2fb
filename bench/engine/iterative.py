"""Pruning in several cuts: the network is scored anew before each, and trained between them where that is wanted.

Every cut is planned in the channel numbers of the baseline, with its groups and its cost table: shares, limits and
costs count from there and do not compound. Only the scores are those of the network as it is by then.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.channels.groups import find_groups, prunable
from bench.engine.cut_schedule import CutSchedule
from bench.engine.options import PruneOptions
from bench.engine.results import Made, Pruned, Subject
from bench.engine.session import Session
from bench.errors import UsageError
from bench.measure.baseline import Baseline
from bench.models.state_dict_file import tensors_digest
from bench.plan.pruning_plan import PruningPlan, make_plan, original_channels, renumbered
from bench.plan.removal_order import fixed_ratios
from bench.plan.target import Goal, Target
from bench.pruners.base import Method, Sparsifier
from bench.recover.bias_absorption import absorb_bias
from bench.recover.training_between_cuts import TrainingBetweenCuts
from bench.system.console import say
from bench.system.files import plain
from bench.training.distillation import distillation_of


def open_session(
    baseline: Baseline, options: PruneOptions, scores_folder: Path, schedule: CutSchedule | None
) -> Session:
    """A session that prunes by a schedule, or in one cut where there is none."""
    if schedule is None:
        return Session(baseline, options, scores_folder)
    return IterativeWorkbench(baseline, options, scores_folder, schedule)


def check_schedule(schedule: CutSchedule | None, pruner: Method, goal: Goal) -> None:
    """Refuses methods and goals that several cuts do not fit.

    Args:
        schedule: the cuts; None for a single one, which fits all.
        pruner: the method.
        goal: what to reach.

    Raises:
        UsageError: the method does its work once for the whole network, or the goal is a latency.
    """
    if schedule is None:
        return
    if isinstance(pruner, Sparsifier):
        reason = "zeroes single weights and cuts nothing"
    elif pruner.trains_first:
        reason = "trains the network before it scores it"
    elif pruner.starts_anew:
        reason = "draws all weights anew after the cut"
    elif pruner.needs_target:
        reason = "learns the widths of one cut to the target"
    elif goal.is_timed:
        raise UsageError("--iterations needs a target that is predicted, not measured; pass --target-macs or one cut")
    else:
        return
    raise UsageError(f"{pruner.name} {reason}; leave --iterations out")


class IterativeWorkbench(Session):
    """Prunes one baseline in several cuts each time."""

    def __init__(self, baseline: Baseline, options: PruneOptions, scores_folder: Path, schedule: CutSchedule):
        """Sets up the bench.

        Args:
            baseline: the network and its data.
            options: what is the same for all prunings and cuts.
            scores_folder: where scores are kept, to be found again by content.
            schedule: the cuts and what is trained between them.
        """
        super().__init__(baseline, options, scores_folder)
        self.schedule = schedule

    @property
    def identity(self) -> dict[str, Any]:
        """All that the prunings of this bench have in common but the baseline and its data."""
        return {**super().identity, "schedule": self.schedule.as_record()}

    def prune(self, pruner: Method, target: Target, seed: int) -> Pruned:
        """Scores, plans, cuts and trains a copy of the baseline by turns; recalibrates and scores it in the end.

        Args:
            pruner: the method.
            target: what to reach, counted from the baseline.
            seed: seed of the method, of the choice of calibration images and of the training.

        Raises:
            UsageError: the method or the target does not fit several cuts, or the recipe the device.
            BenchError: the target is out of reach, the method cannot score this network, or the training diverged.
        """
        check_schedule(self.schedule, pruner, target.goal)
        self._seconds = {}
        reconstruction, groups, table, schedule = self.reconstruction, self.groups, self.cost_table, self.schedule
        fixed_ratios(groups, target.ratio_of)
        training = self._retraining(seed)
        kept = {group.name: list(range(group.channels)) for group in prunable(groups)}
        subject, records = None, []
        for number, step in enumerate(schedule.targets(target, table.dense().bytes), start=1):
            scores, scores_file = self.scores(pruner, seed, subject=subject)
            if subject is None:
                # A target out of reach is found before the training.
                make_plan(groups, scores, table, target)
            plan = self._timed("plan", lambda s=scores, t=step, k=kept: make_plan(groups, s, table, t, k))
            absorbed = self._cut_along(training, subject or self.subject, renumbered(plan, kept))
            kept = plan.kept
            record = self._record(plan, step, scores_file, absorbed)
            say(f"cut {number} of {schedule.iterations}: {_outcome(record)}")
            if number < schedule.iterations:
                subject = self._recovered(training, seed, record)
            records.append(record)
        how = {"schedule": schedule.as_record()}
        record = {
            "scores": scores_file,
            "plan": plan.as_record(),
            "bias_absorption": absorbed,
            **dict.fromkeys(("sparsity", "preparation", "latency_search")),
            **how,
            "iterations": records,
        }
        channels = original_channels(self.baseline.saved.channels, groups, plan)
        made = Made(training.result, plan.removes_channels, channels, [], record, plan)
        pruned = self._finished(pruner, target, seed, made, reconstruction)
        pruned.saved.meta["pruning"][-1] |= plain(how)
        return pruned

    def _retraining(self, seed: int) -> TrainingBetweenCuts:
        baseline, schedule = self.baseline, self.schedule
        network = replace(baseline.saved, model=copy.deepcopy(baseline.saved.model))
        steps = (schedule.iterations - 1) * schedule.steps_between
        taught = distillation_of(schedule.distill, baseline.saved.model, baseline.digest)
        data = baseline.data.seeded(seed)
        return TrainingBetweenCuts(network, data, schedule.recipe, steps, seed, baseline.device, taught)

    def _cut_along(self, training: TrainingBetweenCuts, subject: Subject, plan: PruningPlan) -> dict[str, Any] | None:
        """Cuts the networks in training by a plan in their own channel numbers; the record of a bias absorption."""
        absorbed = None
        if self.options.absorb_bias:
            for model in training.networks:
                absorbed = self._timed("absorb", lambda m=model: absorb_bias(m, subject.groups, plan))
        self._timed("cut", lambda: training.cut(subject.groups, plan))
        return absorbed

    def _recovered(self, training: TrainingBetweenCuts, seed: int, record: dict[str, Any]) -> Subject:
        """What is scored next: the network after some training, with statistics of its own and groups of its own."""
        if steps := self.schedule.steps_between:
            record["trained"] = {"steps": steps, "loss": self._timed("train", lambda: training.train(steps))}
        network = training.result
        if self.options.recalibrate:
            self.recalibrate(network, seed)
        # By name, because a depthwise convolution left with one channel counts as an ordinary one and has a group.
        may_shrink = {group.name for group in prunable(self.groups)}
        found = self._timed("groups", lambda: find_groups(network))
        groups = [group if group.name in may_shrink else replace(group, protected="whole") for group in found]
        return Subject(network, groups, tensors_digest(network.state_dict()))

    def _record(
        self, plan: PruningPlan, step: Target, scores_file: str, absorbed: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """What `pruning_info.json` says about one cut; channels in the numbers of the dense network."""
        channels = original_channels(self.baseline.saved.channels, self.groups, plan)
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
