"""A baseline on the workbench: what several prunings of it have in common is computed once and kept."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from bench.absorb import absorb_bias
from bench.checkpoint import SavedModel
from bench.cost_table import CostTable
from bench.cut import cut
from bench.errors import BenchError
from bench.evaluation import Batch, recalibrate
from bench.family import fixed_ratios
from bench.groups import ChannelGroup, find_groups, prunable
from bench.options import PruneOptions
from bench.plan import PruningPlan, Scores, make_plan, original_channels
from bench.pruners.base import Calibration, Pruner
from bench.reconstruction import Reconstruction
from bench.reference import Reference, cost_changes
from bench.runs import digest, make_folder, plain, provenance, whole_file
from bench.target import Goal, Target

Result = TypeVar("Result")

# Not a pruning's own: errors on the same images can be compared.
RECONSTRUCTION_SEED = 0


@dataclass(frozen=True)
class Pruned:
    """A pruned network and the record of how it was made.

    Attributes:
        saved: the network.
        info: what `pruning_info.json` holds.
    """

    saved: SavedModel
    info: dict[str, Any]


class Workbench:
    """Prunes one baseline by any method to any target; scores once, plans many times."""

    def __init__(self, reference: Reference, options: PruneOptions, scores_folder: Path):
        """Sets up the bench; nothing is computed before it is needed.

        Args:
            reference: the baseline and its data.
            options: what is the same for all prunings.
            scores_folder: where scores are kept, to be found again by content.
        """
        self.reference, self.options, self._scores_folder = reference, options, scores_folder
        self._seconds: dict[str, float] = {}

    @cached_property
    def groups(self) -> list[ChannelGroup]:
        """All groups of coupled channels of the baseline."""
        options, model = self.options, self.reference.saved.model
        return self._timed(
            "groups", lambda: find_groups(model, ignore=options.ignore, protect_first=options.protect_first)
        )

    @cached_property
    def cost_table(self) -> CostTable:
        """Predicts the cost of any plan for the baseline."""
        reference = self.reference
        return self._timed(
            "cost_table", lambda: CostTable(reference.saved.model, self.groups, reference.data.input_size)
        )

    @cached_property
    def reconstruction(self) -> Reconstruction | None:
        """Compares outputs with the baseline's on images that are the same for all prunings; None where unwanted."""
        count, reference = self.options.reconstruction_images, self.reference
        if count == 0:
            return None
        images = self.batches(count, RECONSTRUCTION_SEED)
        layers = self.options.reconstruction_layers
        return Reconstruction(reference.saved.model, self.groups, images, reference.device, layers)

    def prune(self, pruner: Pruner, target: Target, seed: int) -> Pruned:
        """Scores, plans, cuts and recalibrates a copy of the baseline, and scores it after each change.

        Args:
            pruner: the method.
            target: what to reach.
            seed: seed of the method and of the choice of calibration images.

        Raises:
            BenchError: the target is out of reach, or the method cannot score this network.
        """
        reference, options = self.reference, self.options
        self._seconds = {}
        groups, table = self.groups, self.cost_table
        # A pattern that fits nothing is found before the scoring, which may take long.
        fixed_ratios(groups, target.ratio_of)
        reconstruction, errors = self.reconstruction, {}
        scores, scores_file = self.scores(pruner, seed)
        plan = self._timed("plan", lambda: make_plan(groups, scores, table, target))
        network, absorbed = self.smaller(plan)

        cost = reference.cost_of(network)
        quality: dict[str, Any] = {"split": reference.split}
        if reconstruction:
            errors["cut"] = reconstruction.error(network, plan)
        if options.evaluate:
            quality |= {"baseline": reference.quality, "cut": reference.score(network, "after the cut")}
        if options.recalibrate and plan.removes_channels:
            batches = self.batches(options.recalibration_images, seed)
            self._timed("recalibrate", lambda: recalibrate(network, batches, reference.device))
            if reconstruction:
                errors["recalibrated"] = reconstruction.error(network, plan)
            if options.evaluate:
                quality["recalibrated"] = reference.score(network, "recalibrated")

        how = {
            "method": pruner.name,
            "method_options": asdict(pruner),
            "target": asdict(target),
            "seed": seed,
            "baseline": {"path": reference.checkpoint, "sha256": reference.digest},
        }
        info = {
            "format": "pruning-info/1",
            **how,
            "paper": pruner.paper,
            "model": {**asdict(reference.saved.spec), "input_size": reference.data.input_size},
            "dataset": reference.data.name,
            "cost": {"before": reference.cost, "after": cost, "change": cost_changes(reference.cost, cost)},
            "quality": quality,
            "options": asdict(options),
            "scores": scores_file,
            "seconds": self._seconds,
            "provenance": provenance(),
            "plan": plan.as_record(),
            "bias_absorption": absorbed,
            "reconstruction": errors,
        }
        before = reference.saved
        meta = {
            **before.meta,
            "input_size": reference.data.input_size,
            "pruning": [*before.meta.get("pruning", []), how],
        }
        channels = original_channels(before.channels, groups, plan)
        return Pruned(SavedModel(network, before.spec, channels, plain(meta)), plain(info))

    def smaller(self, plan: PruningPlan) -> tuple[nn.Module, dict[str, Any] | None]:
        """A copy of the baseline without the channels a plan removes, and the record of a bias absorption, if wanted.

        BatchNorm statistics are not re-estimated.
        """
        network = copy.deepcopy(self.reference.saved.model)
        absorbed = None
        if self.options.absorb_bias:
            absorbed = self._timed("absorb", lambda: absorb_bias(network, self.groups, plan))
        self._timed("cut", lambda: cut(network, self.groups, plan))
        return network, absorbed

    def scores(self, pruner: Pruner, seed: int) -> tuple[Scores, str]:
        """A method's scores of all prunable channels and the file they are kept in.

        They come from that file if the same ones were computed before.

        Raises:
            BenchError: no channel may be removed, or the method can score none.
        """
        groups = prunable(self.groups)
        if not groups:
            raise BenchError(
                f"no channel of {self.reference.saved.spec.name} may be removed: every group is protected or ignored; "
                "ignore fewer layers"
            )
        identity = plain(self.score_identity(pruner, seed))
        path = self._scores_folder / f"scores_{pruner.name}_{digest(identity)}.pt"
        if path.is_file():
            return torch.load(path, weights_only=True)["scores"], path.name
        images = self.batches(self.options.calib_images, seed) if pruner.needs_data else []
        calibration = Calibration(images, self.reference.data.classes.ignore_index, seed)
        model = self.reference.saved.model
        scores = self._timed("score", lambda: pruner.score(model, groups, calibration))
        if not scores:
            raise BenchError(f"{pruner.name} can score no channel of {self.reference.saved.spec.name}; use another one")
        scores = {name: score.detach().cpu() for name, score in scores.items()}
        make_folder(self._scores_folder)
        with whole_file(path) as temporary:
            torch.save({"identity": identity, "scores": scores}, temporary)
        return scores, path.name

    def score_identity(self, pruner: Pruner, seed: int) -> dict[str, Any]:
        """All that a method's scores depend on."""
        data, options = self.reference.data, self.options
        identity = {
            "method": pruner.name,
            "options": asdict(pruner),
            "seed": seed,
            "baseline": self.reference.digest,
            "groups": {group.name: group.channels for group in prunable(self.groups)},
        }
        if pruner.needs_data:
            identity["data"] = [data.name, data.dataset.root.absolute(), data.input_size]
            identity["images"] = [options.calib_images, options.calib_batch_size]
        return identity

    def batches(self, images: int, seed: int, split: str = "train") -> list[Batch]:
        """Calibration batches: images chosen by seed, with labels, both at the input size."""
        return self.reference.data.calibration(images, self.options.calib_batch_size, seed, split)

    def _timed(self, stage: str, work: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        result = work()
        self._seconds[stage] = round(time.perf_counter() - start, 4)
        return result


def target_of(pruner: Pruner, goal: Goal, options: PruneOptions) -> Target:
    """A goal within the user's limits, channels ranked as the method does unless the user says otherwise."""
    return Target(
        goal.kind,
        goal.value,
        scope=options.scope or pruner.scope,
        min_keep=options.min_keep,
        max_ratio=options.max_ratio,
        round_to=options.round_to,
        ratio_of=options.ratio_of,
    )
