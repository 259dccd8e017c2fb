"""A session of prunings of one baseline: what they have in common is computed once and kept."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from bench.channels.groups import ChannelGroup, find_groups, layers_to_spare, prunable
from bench.cut.network import cut, fresh_network
from bench.engine.method_training import NETWORK, Prepared, open_prepared, prepare
from bench.engine.options import PruneOptions
from bench.engine.output_error import OutputError
from bench.engine.results import Made, Pruned, Subject
from bench.errors import BenchError, UsageError
from bench.measure.baseline import Baseline, cost_changes
from bench.measure.latency import LatencyReport
from bench.models.checkpoint import SavedModel
from bench.plan.cost_table import CostTable
from bench.plan.latency_search import Measurement, find, search_record
from bench.plan.macs_budget import Budget, budget_for, flat_scores
from bench.plan.pruning_plan import PruningPlan, Scores, make_plan, original_channels, plan_of, removal_order_of
from bench.plan.removal_order import fixed_ratios
from bench.plan.target import Goal, Target
from bench.pruners.base import Calibration, Method, Pruner, Sparsifier, Training
from bench.recover.bias_absorption import absorb_bias
from bench.recover.recalibration import recalibrate
from bench.system.files import digest, make_folder, plain, whole_file
from bench.system.provenance import provenance
from bench.system.run_folder import is_done
from bench.torch_utils.batches import Batch
from bench.torch_utils.sparse_weights import SPARSE, set_to_zero

Result = TypeVar("Result")

# Not a pruning's own: errors on the same images can be compared.
RECONSTRUCTION_SEED = 0


class Session:
    """Prunes one baseline by any method to any target; scores once, plans many times."""

    def __init__(self, baseline: Baseline, options: PruneOptions, scores_folder: Path):
        """Sets up the bench; nothing is computed before it is needed.

        Args:
            baseline: the network and its data.
            options: what is the same for all prunings.
            scores_folder: where scores, and networks that methods trained, are kept, to be found again by content.
        """
        self.baseline, self.options, self._scores_folder = baseline, options, scores_folder
        self._seconds: dict[str, float] = {}
        self._prepared_quality: dict[str, dict[str, Any]] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """All that the prunings of this bench have in common but the baseline and its data."""
        return {"pruning": self.options}

    @property
    def subject(self) -> Subject:
        """The baseline, to be scored."""
        return Subject(self.baseline.saved.model, self.groups, self.baseline.digest)

    @cached_property
    def groups(self) -> list[ChannelGroup]:
        """All groups of coupled channels of the baseline."""
        options, model = self.options, self.baseline.saved.model
        return self._timed(
            "groups", lambda: find_groups(model, ignore=options.ignore, protect_first=options.protect_first)
        )

    @cached_property
    def cost_table(self) -> CostTable:
        """Predicts the cost of any plan for the baseline."""
        baseline = self.baseline
        return self._timed("cost_table", lambda: CostTable(baseline.saved.model, self.groups, baseline.data.input_size))

    @cached_property
    def reconstruction(self) -> OutputError | None:
        """Compares outputs with the baseline's on images that are the same for all prunings; None where unwanted."""
        count, baseline = self.options.reconstruction_images, self.baseline
        if count == 0:
            return None
        images = self.batches(count, RECONSTRUCTION_SEED)
        layers = self.options.reconstruction_layers
        return OutputError(baseline.saved.model, self.groups, images, baseline.device, layers)

    def target(self, pruner: Method, goal: Goal) -> Target:
        """A goal within the user's limits, channels ranked as the method does unless the user says otherwise.

        Raises:
            UsageError: the method reaches no goal of that kind, or one threshold is to be searched, but channels are
                not in one ranking.
        """
        goal, options = pruner.aim(goal), self.options
        if isinstance(pruner, Sparsifier):
            return Target(goal.kind, goal.value)  # the limits are those of groups of channels
        scope = options.scope or pruner.scope
        pools = {} if options.scope else pruner.pools(self.baseline.saved.model, prunable(self.groups))
        if goal.within is not None and (scope != "global" or pools):
            ranking = "in pools" if pools else f"with --scope {scope}"
            raise UsageError(
                f"--auto-search finds one threshold for the whole network, but {pruner.name} ranks {ranking}; "
                "pass --scope global or leave it out"
            )
        return Target(
            goal.kind,
            goal.value,
            scope=scope,
            min_keep=options.min_keep,
            max_ratio=options.max_ratio,
            round_to=options.round_to,
            ratio_of=options.ratio_of,
            within=goal.within,
            pools=pools,
        )

    def prune(self, pruner: Method, target: Target, seed: int) -> Pruned:
        """Cuts (or zeroes weights of) and recalibrates a copy of the baseline, and scores it after each change.

        Where the method trains first, it is the trained network that is scored and cut; what comes of it is still
        compared with the baseline.

        Args:
            pruner: the method.
            target: what to reach.
            seed: seed of the method, of its training and of the choice of calibration images.

        Raises:
            BenchError: the target is out of reach, or the method cannot score this network.
        """
        self._seconds = {}
        # At once: patterns of layers that fit nothing are found before the scoring, which may take long.
        reconstruction = self.reconstruction
        if isinstance(pruner, Sparsifier):
            return self._finished(pruner, target.goal, seed, self._sparsified(pruner, target), reconstruction)
        return self._finished(pruner, target, seed, self._cut(pruner, target, seed), reconstruction)

    def _finished(
        self, pruner: Method, target: Target | Goal, seed: int, made: Made, reconstruction: OutputError | None
    ) -> Pruned:
        """Recalibrates and scores what a method made, and completes the record."""
        baseline, options, network, errors = self.baseline, self.options, made.network, {}
        cost = baseline.cost_of(network)
        quality: dict[str, Any] = {"split": baseline.split}
        evaluation = None
        if reconstruction:
            errors["cut"] = reconstruction.error(network, made.plan)
        if options.evaluate:
            quality["baseline"] = baseline.quality
            if made.trained:
                quality["prepared"] = self._quality_of(made.trained)
            evaluation = baseline.evaluate(network, "after the cut")
            quality["cut"] = evaluation.record()
        if options.recalibrate and made.is_changed:
            self.recalibrate(network, seed)
            if reconstruction:
                errors["recalibrated"] = reconstruction.error(network, made.plan)
            if options.evaluate:
                evaluation = baseline.evaluate(network, "recalibrated")
                quality["recalibrated"] = evaluation.record()

        how = {
            "method": pruner.name,
            "method_options": asdict(pruner),
            "target": asdict(target),
            "seed": seed,
            "baseline": {"path": baseline.checkpoint, "sha256": baseline.digest},
        }
        info = {
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
            "quality": quality,
            "options": asdict(options),
            "seconds": self._seconds,
            "provenance": provenance(),
            **made.record,
            "reconstruction": errors,
        }
        before = baseline.saved
        meta = {
            **before.meta,
            "input_size": baseline.data.input_size,
            "pruning": [*before.meta.get("pruning", []), how],
        }
        if made.sparse:
            meta[SPARSE] = made.sparse
        return Pruned(SavedModel(network, before.spec, made.channels, plain(meta)), plain(info), evaluation)

    def _cut(self, pruner: Pruner, target: Target, seed: int) -> Made:
        """Scores, plans and cuts."""
        baseline, groups, table = self.baseline, self.groups, self.cost_table
        before = baseline.saved
        if pruner.starts_anew and self.options.absorb_bias:
            raise UsageError(f"{pruner.name} draws all weights anew after the cut; leave --absorb-bias out")
        # A pattern that fits nothing is found before the scoring, which may take long.
        fixed_ratios(groups, target.ratio_of)
        if pruner.trains_first and not target.goal.is_timed:
            # So is a target that no scores can reach.
            make_plan(groups, flat_scores(groups), table, target)
        prepared = self.prepared(pruner, seed, target)
        scores, scores_file = self.scores(pruner, seed, target)
        plan, measured = self._timed("plan", lambda: self._plan(scores, prepared.model, target))
        network, absorbed = self.smaller(plan, prepared.model)
        channels = original_channels(before.channels, groups, plan)
        if pruner.starts_anew:
            network = fresh_network(before.spec, replace(plan, kept=channels), seed).to(baseline.device)
        search = None if measured is None else search_record(target.goal, measured, baseline.time(network))
        record = {
            "scores": scores_file,
            "plan": plan.as_record(),
            "sparsity": None,
            "bias_absorption": absorbed,
            "preparation": prepared.record,
            "latency_search": search,
        }
        return Made(network, plan.removes_channels, channels, [], record, plan, prepared if prepared.record else None)

    def _sparsified(self, pruner: Sparsifier, target: Target) -> Made:
        """Chooses single weights and zeroes them."""
        before = self.baseline.saved
        spared = layers_to_spare(self.groups)
        sparsity = self._timed("score", lambda: pruner.choose(before.model, spared, target.value))
        network = copy.deepcopy(before.model)
        set_to_zero(network, sparsity.zeroed)
        changed = [name for name, zeros in sparsity.zeroed.items() if zeros.any()]
        sparse = list(dict.fromkeys([*before.meta.get(SPARSE, []), *changed]))
        unused = dict.fromkeys(("scores", "plan", "bias_absorption", "preparation", "latency_search"))
        record = {**unused, "sparsity": sparsity.record}
        return Made(network, bool(changed), before.channels, sparse, record)

    def _plan(self, scores: Scores, whole: nn.Module, target: Target) -> tuple[PruningPlan, list[Measurement] | None]:
        """The plan for a target and, where the target is a latency, what was measured to find it."""
        groups, table = self.groups, self.cost_table
        if not target.goal.is_timed:
            return make_plan(groups, scores, table, target), None
        order, dense = removal_order_of(groups, scores, table, target), table.dense()

        def measure(number: int, effort: float) -> LatencyReport:
            network, _ = self.smaller(plan_of(groups, scores, table, order, number), whole)
            return self.baseline.time(network, effort)

        number, measured = find(order, dense.macs, target.goal, measure)
        return plan_of(groups, scores, table, order, number), measured

    def smaller(self, plan: PruningPlan, whole: nn.Module | None = None) -> tuple[nn.Module, dict[str, Any] | None]:
        """A copy of a network without the channels a plan removes, and the record of a bias absorption, if wanted.

        BatchNorm statistics are not re-estimated.

        Args:
            plan: what to keep.
            whole: what a method made of the baseline; by default the baseline.
        """
        network = copy.deepcopy(whole or self.baseline.saved.model)
        absorbed = None
        if self.options.absorb_bias:
            absorbed = self._timed("absorb", lambda: absorb_bias(network, self.groups, plan))
        self._timed("cut", lambda: cut(network, self.groups, plan))
        return network, absorbed

    def recalibrate(self, network: nn.Module, seed: int) -> None:
        """Re-estimates a network's BatchNorm statistics on training images chosen by seed."""
        batches = self.batches(self.options.recalibration_images, seed)
        self._timed("recalibrate", lambda: recalibrate(network, batches, self.baseline.device))

    def prepared(self, pruner: Pruner, seed: int, target: Target | None = None) -> Prepared:
        """The network a method scores: the baseline, or what its own training made of that.

        A training is done once for all that it serves, in this process or an earlier one.

        Args:
            pruner: the method.
            seed: seed of its training.
            target: what to reach, for methods that need to know.
        """
        baseline = self.baseline
        if not pruner.trains_first:
            return Prepared(baseline.saved.model, {}, None)
        groups, budget = self._prunable(), self._budget(pruner, target)
        identity = digest(self.training_identity(pruner, seed, target))
        folder = self._scores_folder / f"prepared_{pruner.name}_{identity}"
        training = Training(baseline.data.seeded(seed), groups, seed, baseline.device, folder, budget)
        if is_done(folder, NETWORK):
            path = folder / NETWORK
        else:
            path = self._timed("prepare", lambda: prepare(pruner, baseline.saved, training))
        return open_prepared(path, training)

    def scores(
        self, pruner: Method, seed: int, target: Target | None = None, subject: Subject | None = None
    ) -> tuple[Scores, str]:
        """A method's scores of all prunable channels and the file they are kept in.

        They come from that file if the same ones were computed before.

        Args:
            pruner: the method.
            seed: its seed.
            target: what to reach, for methods that need to know.
            subject: what is scored; by default the baseline, or what the method's own training made of that.

        Raises:
            UsageError: the method ranks no channels, or needs a target and there is none.
            BenchError: no channel may be removed, or the method can score none.
        """
        if not isinstance(pruner, Pruner):
            raise UsageError(f"{pruner.name} zeroes single weights and ranks no channels; choose a method that does")
        groups, budget = self._prunable(subject), self._budget(pruner, target)
        identity = plain(self.score_identity(pruner, seed, target, subject))
        path = self._scores_folder / f"scores_{pruner.name}_{digest(identity)}.pt"
        if path.is_file():
            return torch.load(path, weights_only=True)["scores"], path.name
        prepared = Prepared(subject.model, {}, None) if subject else self.prepared(pruner, seed, target)
        images = self.batches(self.options.calib_images, seed) if pruner.needs_data else []
        void = self.baseline.data.classes.ignore_index
        calibration = Calibration(images, void, seed, budget, prepared.learnt)
        scores = self._timed("score", lambda: pruner.score(prepared.model, groups, calibration))
        if not scores:
            raise BenchError(f"{pruner.name} can score no channel of {self.baseline.saved.spec.name}; use another one")
        scores = {name: score.detach().cpu() for name, score in scores.items()}
        make_folder(self._scores_folder)
        with whole_file(path) as temporary:
            torch.save({"identity": identity, "scores": scores}, temporary)
        return scores, path.name

    def score_identity(
        self, pruner: Pruner, seed: int, target: Target | None = None, subject: Subject | None = None
    ) -> dict[str, Any]:
        """All that a method's scores depend on."""
        subject = subject or self.subject
        identity = {
            "method": pruner.name,
            "options": asdict(pruner),
            "seed": seed,
            "baseline": subject.digest,
            "groups": {group.name: group.channels for group in prunable(subject.groups)},
        }
        data, options = self.baseline.data, self.options
        if pruner.needs_data or pruner.trains_first:
            identity["data"] = [data.name, data.dataset.root.absolute(), data.input_size]
        if pruner.needs_data:
            identity["images"] = [options.calib_images, options.calib_batch_size]
        budget = self._budget(pruner, target)
        if budget:
            identity["budget"] = [budget.macs, dict(budget.given)]
        return identity

    def training_identity(self, pruner: Pruner, seed: int, target: Target | None = None) -> dict[str, Any]:
        """All that a method's own training depends on: what its scores do, but for the calibration images."""
        identity = self.score_identity(pruner, seed, target)
        return {name: value for name, value in identity.items() if name != "images"}

    def _budget(self, pruner: Pruner, target: Target | None) -> Budget | None:
        if not pruner.needs_target:
            return None
        if target is None:
            raise UsageError(f"{pruner.name} learns widths for a target, and there is none here; choose another method")
        return budget_for(self.groups, self.cost_table, target)

    def _prunable(self, subject: Subject | None = None) -> list[ChannelGroup]:
        groups = prunable((subject or self.subject).groups)
        if not groups:
            raise BenchError(
                f"no channel of {self.baseline.saved.spec.name} may be removed: every group is protected or ignored; "
                "ignore fewer layers"
            )
        return groups

    def _quality_of(self, prepared: Prepared) -> dict[str, Any]:
        """Quality of a network that a method trained, measured once for all prunings of it."""
        key = prepared.record["sha256"]
        if key not in self._prepared_quality:
            self._prepared_quality[key] = self.baseline.evaluate(prepared.model, "prepared").record()
        return self._prepared_quality[key]

    def batches(self, images: int, seed: int, split: str = "train") -> list[Batch]:
        """Calibration batches: images chosen by seed, with labels, both at the input size."""
        return self.baseline.data.calibration(images, self.options.calib_batch_size, seed, split)

    def _timed(self, stage: str, work: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        result = work()
        self._seconds[stage] = round(self._seconds.get(stage, 0.0) + time.perf_counter() - start, 4)
        return result
