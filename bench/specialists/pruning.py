"""One specialist: pruned by papm on the pixels of its classes, fine-tuned with all other classes as background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.config.declare import identity_of
from bench.data import SegmentationData
from bench.datasets.fingerprint import DataFiles
from bench.engine.pruning import prune_network
from bench.engine.results import Pruned
from bench.engine.session import Session
from bench.measure.cost import count_parameters
from bench.measure.evaluation import evaluate_images
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.plan.target import Goal
from bench.pruners import make_pruner
from bench.specialists.deployment import Group, group_name, specialist_file, spelt
from bench.specialists.group_labels import data_of_group, with_group_outputs
from bench.specialists.records import kept_record, record_of
from bench.system.console import say
from bench.system.files import digest, file_digest, make_folder, plain, write_json
from bench.system.locks import lock_of, share_out, try_lock
from bench.system.provenance import provenance
from bench.system.run_folder import BEST, LAST
from bench.train_eval import fit
from bench.training.options import TrainOptions
from bench.training.state import can_resume, drop_outdated_run
from bench.training.step import Knobs

FORMAT = "specialist/1"

METHOD = "papm"

# How far off the wanted number of parameters a specialist may be, as a share of it, before it is pruned again.
_CLOSE = 0.002

WORK = "work"
"""Folder below the specialists' own for what is only needed on the way: scores, trainings."""


@dataclass(frozen=True)
class Recipe:
    """How networks are pruned and fine-tuned besides what the session says.

    Attributes:
        settings: options of papm besides its classes.
        within: how far off the wanted number of parameters a network may end, as a share of the baseline's; None takes
            the closest there is.
        training: of the fine-tuning.
        seed: of the calibration images and of the training.
    """

    settings: Mapping[str, Any]
    within: float | None
    training: TrainOptions
    seed: int

    def as_record(self) -> dict[str, Any]:
        """All of it that decides the numbers, as plain data."""
        training = identity_of(self.training)
        return plain({"method_options": self.settings, "within": self.within, "training": training, "seed": self.seed})


def work_folder(folder: Path) -> Path:
    """Where scores and unfinished trainings of the specialists in a folder are."""
    return make_folder(folder / WORK)


def training_folder(path: Path, identity: Mapping[str, Any], files: DataFiles) -> Path:
    """Where a training is kept until the file that comes of it is there: one for each recipe.

    An unfinished training on images that changed since is removed.

    Args:
        path: the file.
        identity: all that the training depends on but the images.
        files: the images and labels.
    """
    folder = path.parent / WORK / f"{path.stem}_{digest(identity)[:8]}"
    drop_outdated_run(folder, files)
    return folder


def prune_specialists(
    session: Session, recipe: Recipe, groups: Sequence[Group], reduction: float, folder: Path
) -> list[dict[str, Any]]:
    """Makes the specialists of some groups, one after the other; returns the record of each.

    Several processes may do that in one folder, on one machine or several: each makes those that no other is at.

    Args:
        session: the baseline, and how all networks are cut and repaired.
        recipe: how they are scored and fine-tuned.
        groups: the classes of each.
        reduction: share of the baseline's parameters that a specialist loses.
        folder: where they go.
    """
    made: dict[Group, dict[str, Any]] = {}

    def make(group: Group) -> bool:
        return _made_here(session, recipe, group, reduction, folder, made)

    def told(left: list[Group]) -> str:
        return f"other processes are at the specialists of {', '.join(map(spelt, left))}; waiting for them"

    share_out(groups, make, told)
    return [made[group] for group in groups]


def _made_here(
    session: Session, recipe: Recipe, group: Group, reduction: float, folder: Path, made: dict[Group, dict[str, Any]]
) -> bool:
    """Makes a specialist, unless another process is at it, which makes it False."""
    lock = try_lock(lock_of(folder / specialist_file(group, _threshold(reduction))))
    if lock is None:
        return False
    try:
        say(f"specialist of the classes {spelt(group)}")
        made[group] = make_specialist(session, recipe, group, reduction, folder)
    finally:
        lock.release()
    return True


def _threshold(reduction: float) -> float:
    return round(100 * reduction, 6)


def make_specialist(session: Session, recipe: Recipe, group: Group, reduction: float, folder: Path) -> dict[str, Any]:
    """Makes the specialist of a group, unless that was done by the same recipe on the same images.

    Args:
        session: the baseline, and how all networks are cut and repaired.
        recipe: how they are scored and fine-tuned.
        group: the classes.
        reduction: share of the baseline's parameters that goes.
        folder: where `pruned_class..._th....pt` and its record go.

    Returns:
        What its record says.
    """
    threshold = _threshold(reduction)
    baseline, path = session.baseline, folder / specialist_file(group, threshold)
    view = data_of_group(baseline.data, group)
    what = {"classes": list(group), "threshold": threshold}
    goal = Goal("params", 1 - reduction, recipe.within)
    meta = {"specialist": {**what, "baseline": baseline.digest, "dataset": baseline.data.name}}
    return _pruned_and_tuned(session, recipe, goal, view, path, what, meta, group)


def make_single(session: Session, recipe: Recipe, goal: Goal, path: Path) -> dict[str, Any]:
    """Makes a network for all classes, likewise.

    Args:
        session: as in `make_specialist`.
        recipe: likewise.
        goal: how much smaller or faster than the baseline it is to be.
        path: its file.
    """
    what = {"aim": str(goal)}
    meta = {"single": {**what, "baseline": session.baseline.digest}}
    return _pruned_and_tuned(session, recipe, goal, session.baseline.data, path, what, meta, None)


def _pruned_and_tuned(
    session: Session,
    recipe: Recipe,
    goal: Goal,
    data: SegmentationData,
    path: Path,
    what: dict[str, Any],
    meta: dict[str, Any],
    group: Group | None,
) -> dict[str, Any]:
    baseline = session.baseline
    seen = {"dataset": data.name, "classes": data.classes.names, "input_size": data.input_size}
    identity = plain({**what, **seen, **session.identity, **recipe.as_record(), "baseline": baseline.digest})
    files = data.files(*dict.fromkeys(["train", "val", baseline.split]))
    kept = kept_record(path, identity, files, "made")
    if kept is not None:
        say(f"{path.name} is there already")
        return kept
    pruned, saved = _pruned(session, recipe, goal, group)
    history = training_folder(path, identity, files)
    tuned = fit(
        saved,
        data.seeded(recipe.seed),
        recipe.training,
        recipe.seed,
        history,
        resume=can_resume(history),
        device=baseline.device,
        label=f"fine-tuning {group_name(group) if group else 'the single network'}",
        knobs=Knobs(lr="`finetune_lr`"),
    )
    best = load_model(tuned.best)
    save_model(path, replace(best, meta={**best.meta, **meta}))
    record = {
        "format": FORMAT,
        **what,
        "names": data.classes.names,
        "file": {"name": path.name, "sha256": file_digest(path), "bytes": path.stat().st_size},
        "parameters": {
            "baseline": baseline.cost["parameters"],
            "wanted": goal.value * baseline.cost["parameters"] if goal.kind == "params" else None,
            "network": count_parameters(best.model),
        },
        "cost": baseline.cost_of(best.model),
        "quality": quality_of(session, best, data),
        "training": {"best_epoch": tuned.best_epoch, "val_miou": tuned.best_miou, "history": tuned.history},
        "pruning": {**pruned.info, "saved_model": str(path)},
        "options": {"pruning": asdict(session.options), "repair": asdict(session.repair)},
        "recipe": {**recipe.as_record(), "training": asdict(recipe.training)},
        "identity": identity,
        "data": files.record(),
        "provenance": provenance(),
    }
    write_json(record_of(path), record)
    for name in (BEST, LAST):
        (history / name).unlink(missing_ok=True)
    return plain(record)


def _pruned(session: Session, recipe: Recipe, goal: Goal, group: Group | None) -> tuple[Pruned, SavedModel]:
    """A pruning towards a goal, and its network with the outputs of a group, if there is one.

    What is wanted are the parameters with these outputs, which are fewer: of a small network so many that it is pruned
    once more, less, and the one that comes closer is taken.
    """
    whole = session.baseline.cost["parameters"]
    pruner = make_pruner(METHOD, {**recipe.settings, **({"classes": list(group)} if group else {})})

    def towards(aim: Goal) -> tuple[Pruned, SavedModel]:
        pruned = prune_network(session, pruner, session.target(pruner, aim), recipe.seed)
        return pruned, with_group_outputs(pruned.saved, group) if group else pruned.saved

    def off(made: tuple[Pruned, SavedModel]) -> float:
        return abs(count_parameters(made[1].model) / (goal.value * whole) - 1)

    made = towards(goal)
    if group is None or off(made) <= _CLOSE:
        return made
    fewer = made[0].cost["parameters"] - count_parameters(made[1].model)
    return min(made, towards(replace(goal, value=min(1.0, goal.value + fewer / whole))), key=off)


def quality_of(session: Session, saved: SavedModel, data: SegmentationData) -> dict[str, Any]:
    """Quality of a network on the session's split, in the label set of its data, as plain data."""
    baseline = session.baseline
    loader = data.eval_loader(baseline.split)
    name = f"scoring on {baseline.split}"
    found = evaluate_images(
        saved.model, loader, data.classes, device=baseline.device, label=name, scoring=baseline.scoring
    )
    return {"split": baseline.split, **found.record()}
