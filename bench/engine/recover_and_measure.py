"""The end of every pruning, however it was cut: measure, recover, measure again, and write the record.

With a repair there are three networks of one shape: right after the cut, recalibrated without repair, and repaired.
The last is the result; the others show what the repair is worth.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from bench.engine.method_training import MethodNetwork
from bench.engine.results import Changed, Pruned
from bench.engine.session import Session
from bench.measure.evaluation import Evaluation
from bench.measure.evaluation_report import CostRecord, cost_changes
from bench.models.checkpoint import SavedModel
from bench.plan.pruning_plan import PruningPlan
from bench.pruners.base import Method
from bench.system.files import plain
from bench.system.provenance import provenance
from bench.torch_utils.memory_format import lay_out
from bench.torch_utils.sparse_weights import SPARSE


def recover_and_measure(
    session: Session,
    pruner: Method,
    target: Mapping[str, Any],
    seed: int,
    changed: Changed,
    trained: MethodNetwork | None = None,
) -> Pruned:
    """Scores a changed network, recalibrates and repairs it, scores it again, and puts the record together.

    Args:
        session: the baseline, and what is wanted.
        pruner: the method that changed the network.
        target: what it was to reach, as the record says it.
        seed: seed of the choice of recalibration images.
        changed: the network.
        trained: what the method's own training made of the baseline, if it trained.
    """
    # Training between cuts may have left it in another format than the baseline it is compared with.
    lay_out(changed.network, channels_last=False)
    stages = _Stages(session, changed.plan)
    if trained and trained.record and session.options.evaluate:
        stages.quality["prepared"] = session.quality_of(trained)
    stages.measure("cut", changed.network, "the cut network")
    is_repaired = session.repair.solves and changed.is_changed and changed.cut is not None
    repaired = copy.deepcopy(changed.network) if is_repaired else None
    if session.options.recalibrate and changed.is_changed:
        session.recalibrate(changed.network, seed)
        stages.measure("recalibrated", changed.network, "the recalibrated network")
    if repaired is not None:
        cut = changed.cut
        record = {"repair": session.repair_network(cut.before, repaired, cut.groups, cut.plan, seed)}
        stages.measure("repaired", repaired, "the repaired network")
        changed = replace(changed, network=repaired, record={**changed.record, **record})
    how = _how(session, pruner, target, seed)
    cost = session.baseline.cost_of(changed.network)
    info = _pruning_info(session, pruner, how, changed, cost, stages)
    return Pruned(_saved(session, how, changed), plain(info), cost, stages.evaluation, changed.latency)


class _Stages:
    """How a network scores, and how far its output is from the baseline's, at each stage of its recovery.

    Attributes:
        quality: what `pruning_info.json` says under that name.
        errors: stage -> error of the output.
        evaluation: the last there was.
    """

    def __init__(self, session: Session, plan: PruningPlan | None):
        self._session, self._plan = session, plan
        self.quality: dict[str, Any] = {"split": session.baseline.split}
        if session.options.evaluate:
            self.quality["baseline"] = session.baseline.quality
        self.errors: dict[str, Any] = {}
        self.evaluation: Evaluation | None = None

    def measure(self, stage: str, network: nn.Module, label: str) -> None:
        """Measures the network as it is, as far as that is wanted."""
        if self._session.output_error:
            self.errors[stage] = self._session.output_error.error(network, self._plan)
        if self._session.options.evaluate:
            self.evaluation = self._session.baseline.evaluate(network, label)
            self.quality[stage] = self.evaluation.record()


def _how(session: Session, pruner: Method, target: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What the network's file and the record both say."""
    return {
        "method": pruner.name,
        "method_options": asdict(pruner),
        "target": dict(target),
        "seed": seed,
        "baseline": {"path": session.baseline.checkpoint, "sha256": session.baseline.digest},
    }


def _pruning_info(
    session: Session, pruner: Method, how: dict[str, Any], changed: Changed, cost: CostRecord, stages: _Stages
) -> dict[str, Any]:
    """What `pruning_info.json` holds but for the path of the network; docs/schemas describes it."""
    baseline = session.baseline
    return {
        "format": "pruning-info/1",
        **how,
        "paper": pruner.paper,
        "model": {
            **asdict(baseline.saved.spec),
            "classes": baseline.data.classes.names,
            "input_size": baseline.data.input_size,
        },
        "dataset": baseline.data.name,
        "cost": {"before": baseline.cost, "after": cost, "change": cost_changes(baseline.cost, cost)},
        "scoring": asdict(baseline.scoring),
        "quality": stages.quality,
        "options": session.settings,
        "seconds": session.stopwatch.seconds,
        "provenance": provenance(),
        "repair": None,
        **changed.record,
        "reconstruction": stages.errors,
    }


def _saved(session: Session, how: dict[str, Any], changed: Changed) -> SavedModel:
    before = session.baseline.saved
    meta = {
        **before.meta,
        **session.baseline.data.record,
        "pruning": [*before.meta.get("pruning", []), {**how, **changed.schedule}],
    }
    if changed.sparse:
        meta[SPARSE] = changed.sparse
    return SavedModel(changed.network, before.spec, changed.channels, plain(meta))
