"""Which methods, limits and objectives go together, found before any work."""

from __future__ import annotations

from pathlib import Path

from bench.engine.options import OBJECTIVES, PruneOptions
from bench.errors import UsageError, unknown_name
from bench.plan.target import Goal
from bench.pruners.base import Method, Pruner

MEASURE = "measure"
"""In the place of a file of sensitivity curves: they are measured, and kept."""


def check_objective(options: PruneOptions, pruner: Method, goal: Goal) -> None:
    """Refuses what an objective cannot work with.

    Args:
        options: the objective and the limits.
        pruner: the method; one that removes no channels fits all, for nothing is weighed.
        goal: what to reach.

    Raises:
        UsageError: scores that do not compare between groups, and no curves; no objective for what needs one; channels
            that are ranked within each group, where there is nothing to weigh; one threshold of scores, or a measured
            goal, where there cannot be.
    """
    if options.objective not in OBJECTIVES:
        raise unknown_name("objective", options.objective, OBJECTIVES)
    if not isinstance(pruner, Pruner):
        return
    if options.objective == "channels":
        if options.refine:
            raise UsageError("`refine` varies how an objective weighs groups; pass `objective=macs`, params or latency")
        return
    if goal.is_timed and options.refine:
        raise UsageError("`refine` needs a target that is predicted, not measured; pass `target_macs`")
    if goal.within is not None:
        raise UsageError(
            f"`auto_search` finds one score up to which channels go, and `objective={options.objective}` weighs "
            "scores; leave one of them out"
        )
    if options.scope == "local":
        raise UsageError(
            f"`scope=local` takes the same share of every group, so that `objective={options.objective}` has nothing "
            "to weigh; leave one of them out"
        )
    if pruner.comparable:
        return
    if options.sensitivity_curves is None:
        raise UsageError(
            f"the scores of {pruner.name} only rank the channels of a layer, and `objective={options.objective}` "
            "compares layers: pass `sensitivity_curves=measure`, or the sensitivity.json that prune.py --sensitivity "
            "wrote"
        )
    if options.sensitivity_curves != MEASURE and not Path(options.sensitivity_curves).is_file():
        raise UsageError(
            f"`sensitivity_curves`: there is no file {options.sensitivity_curves}; prune.py --sensitivity writes one, "
            "and `sensitivity_curves=measure` needs none"
        )
