"""A search around a plan: the groups weighed otherwise, and the plan kept that really loses least.

What a plan loses is taken for the sum of what its channels are worth, which no score tells exactly. So groups are made
dearer or cheaper at random, around the best weighting so far, and each plan that comes of it is judged by the network
it leaves (Frantar and Alistarh, SPDY: Accurate Pruning with Speedup Guarantees, ICML 2022, search the coefficients of
layers so).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.plan.pruning_plan import PruningPlan

SPREAD, TOUCHED = 0.7, 0.5
"""Standard deviation of the logarithm of what a group is multiplied by, and the share of groups that is."""


@dataclass(frozen=True)
class Trial:
    """One weighting and what came of it.

    Attributes:
        trial: its number; 0 is the plan as it was.
        loss: of the network that the plan leaves.
        macs: predicted.
        parameters: predicted.
        channels: that stay.
        is_allowed: whether the plan costs no more than the first may.
        is_best: whether it was the best so far.
        multipliers: group name -> how much more its channels counted.
    """

    trial: int
    loss: float
    macs: int
    parameters: int
    channels: int
    is_allowed: bool
    is_best: bool
    multipliers: dict[str, float]


def refine(
    names: Sequence[str],
    plan_with: Callable[[Mapping[str, float]], PruningPlan],
    loss_of: Callable[[PruningPlan], float],
    is_allowed: Callable[[PruningPlan], bool],
    *,
    trials: int,
    seed: int,
    known: Sequence[Trial] = (),
    keep: Callable[[Sequence[Trial]], None] = lambda _: None,
) -> tuple[PruningPlan, list[Trial]]:
    """Searches for the multipliers whose plan loses least.

    Args:
        names: the groups that may be weighed otherwise.
        plan_with: makes the plan for some multipliers.
        loss_of: measures the network that a plan leaves.
        is_allowed: whether a plan costs little enough.
        trials: how many plans to try besides the first.
        seed: seed of the multipliers; each trial has a stream of its own.
        known: what an earlier search found, up to where it was interrupted.
        keep: called with all trials after each that was measured.

    Returns:
        The best plan, and all trials.
    """
    done: list[Trial] = []
    best, best_plan = None, None
    for number in range(trials + 1):
        multipliers = perturbed(names, best.multipliers, seed, number) if best else {}
        plan = plan_with(multipliers)
        allowed = number == 0 or is_allowed(plan)
        if number < len(known):
            trial = known[number]
        else:
            loss = loss_of(plan)
            is_best = allowed and (best is None or loss < best.loss)
            costs = plan.predicted.macs, plan.predicted.parameters, plan.channels[0]
            trial = Trial(number, loss, *costs, allowed, is_best, multipliers)
            keep([*done, trial])
        done.append(trial)
        if trial.is_best:
            best, best_plan = trial, plan
    return best_plan, done


def perturbed(names: Sequence[str], before: Mapping[str, float], seed: int, number: int) -> dict[str, float]:
    """Multipliers near others: half of the groups, at least one, are made dearer or cheaper.

    Args:
        names: the groups.
        before: multipliers to start from; 1 where nothing is said.
        seed: seed of the search.
        number: of the trial.
    """
    random = np.random.default_rng([seed, number])
    touched = random.random(len(names)) < TOUCHED
    touched[random.integers(len(names))] = True
    factors = np.exp(SPREAD * random.standard_normal(len(names)) * touched)
    return {
        name: before.get(name, 1.0) * float(factor)
        for name, factor in zip(names, factors, strict=True)
        if name in before or not math.isclose(factor, 1)
    }
