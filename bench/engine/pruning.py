"""Pruning a session's baseline, in the way that the method and the session ask for."""

from __future__ import annotations

from bench.engine.cut_schedule import check_schedule
from bench.engine.iterative import prune_in_steps
from bench.engine.one_cut import prune_once
from bench.engine.results import Pruned
from bench.engine.session import Session
from bench.engine.zeroing import zero_weights
from bench.plan.target import Target
from bench.pruners.base import Method, Sparsifier


def prune_network(session: Session, pruner: Method, target: Target, seed: int) -> Pruned:
    """Prunes a copy of the baseline, and scores it after each change.

    Args:
        session: the baseline, and what all prunings of it share.
        pruner: the method.
        target: what to reach, counted from the baseline (`Session.target`).
        seed: seed of everything random: the method, its training, the choice of images.

    Raises:
        UsageError: what is asked for does not go together.
        BenchError: the target is out of reach, the method cannot score this network, or a training diverged.
    """
    session.stopwatch.restart()
    check_schedule(session.schedule, pruner, target.goal)
    # At once: patterns of layers that fit nothing are found before the scoring, which may take long.
    _ = session.output_error
    if session.schedule is not None:
        return prune_in_steps(session, session.schedule, pruner, target, seed)
    if isinstance(pruner, Sparsifier):
        return zero_weights(session, pruner, target, seed)
    return prune_once(session, pruner, target, seed)
