"""`--refine`: plans around the one that an objective gives, each made real and judged on the calibration images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bench.datasets.fingerprint import DataFiles
from bench.engine.results import Subject
from bench.engine.session import Session
from bench.engine.weighing.objective import MakeSmaller, Weighing
from bench.plan.pruning_plan import PruningPlan, Scores
from bench.plan.refinement import Trial, refine
from bench.plan.target import Target
from bench.plan.weighed_order import Objective
from bench.pruners.base import Pruner
from bench.recover.recalibration import recalibrate
from bench.system.console import say
from bench.system.files import digest, make_folder, plain, read_json, write_json
from bench.system.kept_files import read_kept
from bench.torch_utils.batches import Batch
from bench.training.losses import main_logits, segmentation_loss

FORMAT = "refinement/1"

SLACK = 0.005
"""Share of the dense network's MACs or parameters that a plan may cost more than is asked for."""


def weighed_plan(
    session: Session,
    pruner: Pruner,
    seed: int,
    target: Target,
    scores: Scores,
    weighing: Weighing | None,
    plan_with: Callable[[Objective | None], PruningPlan],
    smaller: MakeSmaller,
    subject: Subject | None = None,
) -> tuple[PruningPlan, dict[str, Any]]:
    """The plan of an objective, refined where that is wanted.

    A search that was interrupted goes on where it stopped.

    Args:
        session: the options and the images.
        pruner: the method.
        seed: seed of the search and of the choice of images.
        target: what to reach.
        scores: their groups are weighed.
        weighing: the objective; None where importance alone decides.
        plan_with: makes a plan.
        smaller: the network that a plan leaves.
        subject: what was scored, if not the baseline.

    Returns:
        The plan, and what the record says of the objective: nothing, or `objective` alone.
    """
    if weighing is None:
        return plan_with(None), {}
    objective, options = weighing.objective, session.options
    if not options.refine:
        return plan_with(objective), {"objective": {**weighing.record, "trials": []}}
    # A longer search goes on from a shorter one.
    choice = session.identity
    del choice["pruning"]["refine"]
    identity = digest(
        [
            session.score_identity(pruner, seed, target, subject),
            choice,
            target.as_record(),
            weighing.record,
            session.baseline.data.name,
        ]
    )
    path = make_folder(session.folder) / f"refine_{pruner.name}_{identity}.json"
    files = session.baseline.data.files("train")
    known = _known(path, files)
    batches = session.batches(options.calib_images, seed)
    allowed = cost_limit(target, plan_with(objective))

    def loss_of(plan: PruningPlan) -> float:
        network = smaller(plan)
        # A repair has settled the statistics.
        if options.recalibrate and not session.repair.solves:
            recalibrate(network, batches, session.baseline.device)
        return mean_loss(network, batches, session.baseline.data.classes.ignore_index, session.baseline.device)

    with session.stopwatch.stage("refine"):
        plan, trials = refine(
            list(scores),
            lambda multipliers: plan_with(replace(objective, multipliers=multipliers)),
            loss_of,
            allowed,
            trials=options.refine,
            seed=seed,
            known=known,
            keep=lambda done: _keep(path, identity, files, known, done),
        )
    best = min((trial for trial in trials if trial.is_best), key=lambda trial: trial.loss)
    say(f"refined: loss {trials[0].loss:.4g} -> {best.loss:.4g} on the calibration images, by trial {best.trial}")
    return plan, {"objective": {**weighing.record, "trials": plain(trials)}}


def _known(path: Path, files: DataFiles) -> list[Trial]:
    """The trials of an earlier search on the same images and labels."""
    record = read_kept(path, read_json)
    if record and files.fits(record.get("data"), f"{path} was searched"):
        return [Trial(**trial) for trial in record["trials"]]
    return []


def _keep(path: Path, identity: str, files: DataFiles, known: list[Trial], done: Iterable[Trial]) -> None:
    """Writes all trials; those of an earlier, longer search stay."""
    done = list(done)
    trials = [*done, *known[len(done) :]]
    write_json(path, {"format": FORMAT, "identity": identity, "data": files.record(), "trials": trials})


def cost_limit(target: Target, first: PruningPlan) -> Callable[[PruningPlan], bool]:
    """Whether a plan costs no more than was asked for, but for a little, or no more than the first did.

    Args:
        target: what was asked for.
        first: the plan that is refined.
    """
    goal = target.goal
    if goal.kind not in ("macs", "params"):
        return lambda _: True  # plans never exceed these
    field = {"macs": "macs", "params": "parameters"}[goal.kind]
    dense = getattr(first.dense, field)
    most = max(getattr(first.predicted, field), (goal.value + SLACK) * dense)
    return lambda plan: getattr(plan.predicted, field) <= most


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable[Batch], ignore_index: int, device: torch.device) -> float:
    """Cross-entropy of a network on some images, in nats a pixel that counts.

    Args:
        model: in evaluation mode, on the device.
        batches: images and labels.
        ignore_index: label that does not count.
        device: where to run.
    """
    total, pixels = 0.0, 0
    for images, labels in batches:
        labels = labels.to(device)
        counted = int((labels != ignore_index).sum())
        logits = main_logits(model(images.to(device)))
        if logits.shape[-2:] != labels.shape[-2:]:
            logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
        loss = segmentation_loss(logits, labels, ignore_index)
        total, pixels = total + counted * float(loss), pixels + counted
    return total / max(1, pixels)
