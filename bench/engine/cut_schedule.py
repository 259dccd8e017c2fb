"""The way to a target in several cuts: what each of them is to reach, and what is trained in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bench.config.declare import identity_of
from bench.engine.options import IterativeOptions
from bench.errors import UsageError
from bench.plan.target import Goal, Target
from bench.pruners.base import Method, Sparsifier
from bench.training.options import OF_EPOCHS, DistillOptions, FinetuneOptions, TrainOptions

# Goals that say how much goes, and those that say how much may stay in absolute terms; all others are shares to keep.
_REMOVED, _ABSOLUTE = ("channels",), ("size",)


@dataclass(frozen=True)
class CutSchedule:
    """Several cuts on the way to a target.

    Attributes:
        iterations: how many cuts, at least 2.
        shape: `linear`: each cut takes the same share of the dense network; `exponential`: of what is left.
        steps_between: optimizer steps between two cuts; none follow the last.
        recipe: of these steps.
        distill: what the unpruned network teaches in them.
    """

    iterations: int
    shape: str
    steps_between: int
    recipe: TrainOptions
    distill: DistillOptions = field(default_factory=DistillOptions)

    def targets(self, target: Target, dense: float) -> list[Target]:
        """What each cut is to reach, all counted against the dense network; the last is the target itself.

        How close the result must come holds for the last alone. The shares that `ratio_of` gives to single groups are
        approached in the same way.

        Args:
            target: what to reach in the end.
            dense: what the dense network has of that of which the goal is an absolute amount (for a size, bytes).
        """
        ratios = {
            pattern: [goal.value for goal in goals(Goal("channels", ratio), self.iterations, self.shape, 1)]
            for pattern, ratio in target.ratio_of.items()
        }
        return [
            replace(
                target,
                goal=goal,
                ratio_of={pattern: steps[number] for pattern, steps in ratios.items()},
            )
            for number, goal in enumerate(goals(target.goal, self.iterations, self.shape, dense))
        ]

    def as_record(self) -> Mapping[str, Any]:
        """Plain data, without what has no influence."""
        recipe = {name: value for name, value in identity_of(self.recipe).items() if name not in OF_EPOCHS}
        if self.distill.distill_weight:
            recipe |= identity_of(self.distill)
        return {
            "iterations": self.iterations,
            "ratio_schedule": self.shape,
            "finetune_between": self.steps_between,
            "recipe": recipe if self.steps_between else None,
        }


def schedule_of(
    options: IterativeOptions, training: TrainOptions, finetune: FinetuneOptions, distill: DistillOptions
) -> CutSchedule | None:
    """The schedule some options ask for, None for a single cut.

    Args:
        options: the cuts.
        training: the recipe of the steps between them, but for the learning rates.
        finetune: these rates, the first of the schedule over all steps.
        distill: what the unpruned network teaches in them.

    Raises:
        UsageError: training between cuts where there is only one, or a teacher where nothing is trained.
    """
    if distill.distill_weight and not (options.finetune_between or finetune.finetune_epochs):
        raise UsageError(
            "`distill_weight` acts in fine-tuning, and there is none; pass `finetune_between`, or in benchmark.py "
            "`finetune_epochs`, too"
        )
    if options.iterations == 1:
        if options.finetune_between:
            raise UsageError("`finetune_between` trains between cuts; pass `iterations=2` or more too")
        return None
    recipe = replace(finetune.rates(training), warmup_epochs=0, freeze_backbone_epochs=0, unweighted_epochs=0)
    return CutSchedule(options.iterations, options.ratio_schedule, options.finetune_between, recipe, distill)


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
        raise UsageError("`iterations` needs a target that is predicted, not measured; pass `target_macs` or one cut")
    else:
        return
    raise UsageError(f"{pruner.name} {reason}; leave `iterations` out")


def goals(goal: Goal, iterations: int, shape: str, dense: float) -> list[Goal]:
    """Ever further goals, the last the given one.

    After k of K cuts there stay `1 - (1 - s) * k / K` (linear) or `s ** (k / K)` (exponential) of the dense network,
    where s stays in the end.

    Args:
        goal: what to reach in the end.
        iterations: K, at least 1.
        shape: `linear` or `exponential`.
        dense: the dense network's amount, for a goal that is an absolute one.
    """
    stays = 1 - goal.value if goal.kind in _REMOVED else goal.value / (dense if goal.kind in _ABSOLUTE else 1)
    steps = []
    for done in (number / iterations for number in range(1, iterations)):
        share = 1 - (1 - stays) * done if shape == "linear" else stays**done
        if goal.kind in _REMOVED:
            value = 1 - share
        else:
            value = int(share * dense) if goal.kind in _ABSOLUTE else share
        steps.append(Goal(goal.kind, value))
    return [*steps, goal]
