"""Zeroing single weights instead of removing channels: choose, zero, recover, measure."""

from __future__ import annotations

import copy
from dataclasses import asdict

from bench.channels.groups import layers_to_spare
from bench.engine.recover_and_measure import recover_and_measure
from bench.engine.results import Changed, Pruned
from bench.engine.session import Session
from bench.plan.target import Target
from bench.pruners.base import Sparsifier
from bench.system.console import announce
from bench.torch_utils.sparse_weights import SPARSE, set_to_zero


def zero_weights(session: Session, pruner: Sparsifier, target: Target, seed: int) -> Pruned:
    """Chooses single weights of a copy of the baseline and zeroes them; no channel goes.

    Args:
        session: the baseline, and what all prunings of it share.
        pruner: the method.
        target: the share of the weights to zero.
        seed: seed of the choice of recalibration images.

    Raises:
        BenchError: no weight may be touched, or that many may not go.
    """
    before, spared = session.baseline.saved, layers_to_spare(session.groups)
    announce(f"choosing weights by {pruner.name}")
    with session.stopwatch.stage("score"):
        sparsity = pruner.choose(before.model, spared, target.goal.value)
    network = copy.deepcopy(before.model)
    set_to_zero(network, sparsity.zeroed)
    zeroed = [name for name, zeros in sparsity.zeroed.items() if zeros.any()]
    unused = dict.fromkeys(("scores", "plan", "bias_absorption", "preparation", "latency_search"))
    changed = Changed(
        network,
        bool(zeroed),
        before.channels,
        {**unused, "sparsity": sparsity.record},
        sparse=list(dict.fromkeys([*before.meta.get(SPARSE, []), *zeroed])),
    )
    return recover_and_measure(session, pruner, asdict(target.goal), seed, changed)
