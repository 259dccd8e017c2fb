"""What all prunings of one baseline share: groups, cost table, scores, networks that methods trained. Computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.config.declare import identity_of
from bench.datasets.fingerprint import DataFiles
from bench.engine.cut_schedule import CutSchedule
from bench.engine.method_training import MethodNetwork, kept_or_made, open_trained, train_by
from bench.engine.options import PruneOptions
from bench.engine.output_error import OutputError
from bench.engine.repairing import repair_network
from bench.engine.results import Subject
from bench.engine.score_store import ScoreStore
from bench.engine.stopwatch import Stopwatch
from bench.engine.weighing.checks import MEASURE, check_objective
from bench.errors import BenchError, UsageError
from bench.measure.baseline import Baseline
from bench.plan.cost_table import CostTable
from bench.plan.macs_budget import Budget, budget_for
from bench.plan.pruning_plan import PruningPlan, Scores
from bench.plan.target import Goal, Target
from bench.pruners.base import Calibration, Method, Pruner, Sparsifier, Training
from bench.recover.options import BIAS, RepairOptions, with_old_spelling
from bench.recover.recalibration import recalibrate
from bench.system.console import announce
from bench.system.failures import memory_of
from bench.system.files import digest, file_digest
from bench.torch_utils.batches import Batch
from bench.torch_utils.sparse_weights import SPARSE
from bench.training.options import TrainOptions

# Not a pruning's own: errors on the same images can be compared.
RECONSTRUCTION_SEED = 0


class Session:
    """One baseline, and what is the same for all prunings of it: scored once, planned many times.

    `bench.engine.pruning.prune_network` prunes in it.

    Attributes:
        baseline: the network and its data.
        options: limits, calibration images, what is measured.
        repair: how the layers behind a cut are repaired.
        schedule: the cuts of each pruning; None for a single one.
        folder: where scores, and networks that methods trained, are kept.
        stopwatch: what the stages of the present pruning took.
    """

    def __init__(
        self,
        baseline: Baseline,
        options: PruneOptions,
        folder: Path,
        schedule: CutSchedule | None = None,
        recipe: TrainOptions | None = None,
        repair: RepairOptions | None = None,
    ):
        """Sets up the session; nothing is computed before it is needed.

        Args:
            baseline: the network and its data.
            options: what is the same for all prunings.
            folder: where scores, and networks that methods trained, are kept, to be found again by content.
            schedule: several cuts, if that is wanted.
            recipe: of which the methods' own trainings take crop size, precision and memory format.
            repair: how the layers behind a cut are repaired; by default not at all.

        Raises:
            UsageError: two kinds of repair at once.
        """
        self._recipe = recipe or TrainOptions()
        self.baseline, self.schedule, self.stopwatch = baseline, schedule, Stopwatch()
        self.repair = with_old_spelling(repair or RepairOptions(), options.absorb_bias)
        # Both spellings are one thing, in records and in what names folders.
        self.options = replace(options, absorb_bias=self.repair.repair == BIAS)
        self.folder, self._scores = folder, ScoreStore(folder)
        self._trained_quality: dict[str, dict[str, Any]] = {}

    @property
    def identity(self) -> dict[str, Any]:
        """All that the prunings of this session have in common but the baseline and its data."""
        pruning, curves = identity_of(self.options), self.options.sensitivity_curves
        if curves not in (None, MEASURE):
            pruning["sensitivity_curves"] = file_digest(curves)
        identity: dict[str, Any] = {"pruning": pruning}
        if self.schedule is not None:
            identity["schedule"] = self.schedule.as_record()
        # Left out where it has no say, so that what was pruned before there were repairs is found again.
        return {**identity, "repair": identity_of(self.repair)} if self.repair.solves else identity

    @property
    def settings(self) -> dict[str, Any]:
        """The options that all prunings share, for records; those of the repair only where there is one."""
        return {**asdict(self.options), **(asdict(self.repair) if self.repair.solves else {})}

    @property
    def subject(self) -> Subject:
        """The baseline, to be scored."""
        return Subject(self.baseline.saved.model, self.groups, self.baseline.digest)

    @cached_property
    def groups(self) -> list[ChannelGroup]:
        """All groups of coupled channels of the baseline."""
        options = self.options
        announce("finding the channels that can only go together")
        with self.stopwatch.stage("groups"):
            return find_groups(
                self.baseline.saved.model,
                ignore=options.ignore,
                protect_first=options.protect_first,
                check=options.tries_groups,
            )

    @cached_property
    def cost_table(self) -> CostTable:
        """Predicts the cost of any plan for the baseline."""
        model, groups, size = self.baseline.saved.model, self.groups, self.baseline.data.input_size
        with self.stopwatch.stage("cost_table"):
            return CostTable(model, groups, size)

    @cached_property
    def output_error(self) -> OutputError | None:
        """Compares outputs with the baseline's on images that are the same for all prunings; None where unwanted."""
        count, baseline = self.options.reconstruction_images, self.baseline
        if count == 0:
            return None
        images = self.batches(count, RECONSTRUCTION_SEED)
        return OutputError(
            baseline.saved.model, self.groups, images, baseline.device, self.options.reconstruction_layers
        )

    def prunable_groups(self, subject: Subject | None = None) -> list[ChannelGroup]:
        """The groups channels may be removed from, of the baseline unless another network is given.

        Raises:
            BenchError: there are none.
        """
        groups = prunable((subject or self.subject).groups)
        if not groups:
            raise BenchError(
                f"no channel of {self.baseline.saved.spec.name} may be removed: every group is protected or ignored; "
                "ignore fewer layers"
            )
        return groups

    def target(self, pruner: Method, goal: Goal) -> Target:
        """A goal within the user's limits, channels ranked as the method does unless the user says otherwise.

        Raises:
            UsageError: the method reaches no goal of that kind, or one threshold is to be searched, but channels are
                not in one ranking.
        """
        goal, options = pruner.aim(goal), self.options
        if isinstance(pruner, Sparsifier):
            return Target(goal)  # the limits are those of groups of channels
        check_objective(options, pruner, goal)
        is_weighed = options.objective != "channels"
        scope = options.scope or ("global" if is_weighed else pruner.scope)
        has_pools = not options.scope and (pruner.comparable or not is_weighed)
        pools = pruner.pools(self.baseline.saved.model, prunable(self.groups)) if has_pools else {}
        if goal.within is not None and (scope != "global" or pools):
            ranking = "in pools" if pools else f"with `scope={scope}`"
            raise UsageError(
                f"`auto_search` finds one threshold for the whole network, but {pruner.name} ranks {ranking}; "
                "pass `scope=global` or leave it out"
            )
        return Target(goal, scope, options.min_keep, options.max_ratio, options.round_to, options.ratio_of, pools)

    def network_of(self, pruner: Pruner, seed: int, target: Target | None = None) -> MethodNetwork:
        """The network a method scores: the baseline, or what its own training made of that.

        A training is done once for all that it serves, in this process or an earlier one.

        Args:
            pruner: the method.
            seed: seed of its training.
            target: what to reach, for methods that need to know.
        """
        baseline = self.baseline
        if not pruner.trains_first:
            return MethodNetwork(baseline.saved.model, {}, None)
        groups, budget = self.prunable_groups(), self._budget(pruner, target)
        identity = digest(self.training_identity(pruner, seed, target))
        folder = self.folder / f"prepared_{pruner.name}_{identity}"
        training = Training(baseline.data.seeded(seed), groups, seed, baseline.device, folder, budget, self._recipe)

        def train() -> MethodNetwork:
            with self.stopwatch.stage("prepare"):
                train_by(pruner, baseline.saved, training)
            return open_trained(training)

        return kept_or_made(training, train, f"the network that {pruner.name} trains")

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
        groups, budget = self.prunable_groups(subject), self._budget(pruner, target)

        def compute() -> Scores:
            network = MethodNetwork(subject.model, {}, None) if subject else self.network_of(pruner, seed, target)
            if pruner.needs_data:
                # Of void alone every gradient is zero, and so is every score.
                self.baseline.data.check_labelled("train")
            images = self.batches(self.options.calib_images, seed) if pruner.needs_data else []
            void = self.baseline.data.classes.ignore_index
            calibration = Calibration(images, void, seed, budget, network.learnt)
            smaller = "use a smaller `calib_batch_size`, or fewer `calib_images`"
            announce(f"scoring channels by {pruner.name}")
            with self.stopwatch.stage("score"), memory_of(f"scoring channels by {pruner.name}", smaller):
                scores = pruner.score(network.model, groups, calibration)
            if not scores:
                raise BenchError(
                    f"{pruner.name} can score no channel of {self.baseline.saved.spec.name}; use another one"
                )
            return scores

        looks = pruner.needs_data or pruner.trains_first
        files = self.baseline.data.files("train") if looks else None
        return self._scores.get(pruner.name, self.score_identity(pruner, seed, target, subject), compute, files)

    def files_for(self, pruner: Method) -> DataFiles:
        """The images and labels that a pruning by a method depends on, and what is measured on it."""
        options = self.options
        looks = isinstance(pruner, Pruner) and (pruner.needs_data or pruner.trains_first)
        looks = looks or options.recalibrate or options.reconstruction_images > 0 or self.schedule is not None
        looks = looks or self.repair.solves or options.refine > 0 or options.sensitivity_curves == MEASURE
        return self.baseline.data.files(*dict.fromkeys([*(["train"] if looks else []), self.baseline.split]))

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
            **pruner.identity,
        }
        data, options = self.baseline.data, self.options
        if pruner.needs_data or pruner.trains_first:
            identity["data"] = [data.name, data.dataset.root.absolute(), data.input_size]
        if pruner.needs_data:
            identity["images"] = [options.calib_images, options.calib_batch_size]
        identity |= self.method_training(pruner)
        budget = self._budget(pruner, target)
        if budget:
            identity["budget"] = [budget.macs, dict(budget.given)]
        return identity

    def method_training(self, pruner: Method) -> dict[str, Any]:
        """What a method's own training takes from the user's recipe and its result depends on; nothing of the usual."""
        if not (isinstance(pruner, Pruner) and pruner.trains_first):
            return {}
        usual = TrainOptions()
        asked = {name: getattr(self._recipe, name) for name in ("crop_size", "amp")}
        return {name: value for name, value in asked.items() if value != getattr(usual, name)}

    def training_identity(self, pruner: Pruner, seed: int, target: Target | None = None) -> dict[str, Any]:
        """All that a method's own training depends on: what its scores do, but for the calibration images."""
        identity = self.score_identity(pruner, seed, target)
        return {name: value for name, value in identity.items() if name != "images"}

    def recalibrate(self, network: nn.Module, seed: int) -> None:
        """Re-estimates a network's BatchNorm statistics on training images chosen by seed."""
        batches = self.batches(self.options.recalibration_images, seed)
        with self.stopwatch.stage("recalibrate"):
            recalibrate(network, batches, self.baseline.device)

    def repair_network(
        self, before: nn.Module, network: nn.Module, groups: Sequence[ChannelGroup], plan: PruningPlan, seed: int
    ) -> dict[str, Any]:
        """Repairs a network after a cut by least squares, in place; the record of it.

        Args:
            before: the network before the cut, on the device.
            network: the same after it.
            groups: all groups of the network before the cut.
            plan: what was kept, in its channel numbers.
            seed: seed of the choice of images and of positions in them.
        """
        options, sparse = self.options, self.baseline.saved.meta.get(SPARSE, [])
        with self.stopwatch.stage("repair"):
            return repair_network(
                before,
                network.to(self.baseline.device),
                groups,
                plan,
                self.repair,
                lambda images: self.batches(images, seed),
                recalibration_images=options.recalibration_images if options.recalibrate else 0,
                batch_size=options.calib_batch_size,
                ignore_index=self.baseline.data.classes.ignore_index,
                seed=seed,
                spared={tensor.rpartition(".")[0] for tensor in sparse},
            )

    def quality_of(self, network: MethodNetwork) -> dict[str, Any]:
        """Quality of a network that a method trained, measured once for all prunings of it."""
        key = network.record["sha256"]
        if key not in self._trained_quality:
            evaluation = self.baseline.shared_evaluation(
                self.folder, network.model, key, "the network the method trained"
            )
            self._trained_quality[key] = evaluation.record()
        return self._trained_quality[key]

    def batches(self, images: int, seed: int, split: str = "train") -> list[Batch]:
        """Calibration batches: images chosen by seed, with labels, both at the input size."""
        return self.baseline.data.calibration(images, self.options.calib_batch_size, seed, split)

    def _budget(self, pruner: Pruner, target: Target | None) -> Budget | None:
        if not pruner.needs_target:
            return None
        if target is None:
            raise UsageError(f"{pruner.name} learns widths for a target, and there is none here; choose another method")
        return budget_for(self.groups, self.cost_table, target)
