"""The third step: a fusion head for each grouping, and beside it one pruned network of the same total size."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bench.config.declare import identity_of
from bench.engine.options import PruneOptions
from bench.engine.session import Session
from bench.errors import BenchError
from bench.measure.baseline import Baseline
from bench.measure.cost import count_parameters, state_bytes
from bench.models import ModelSpec
from bench.models.checkpoint import SavedModel, read_stored
from bench.plan.target import Goal
from bench.recover.options import RepairOptions
from bench.specialists.deployment import Grouping, spelt
from bench.specialists.fusion import AGAIN, FUSION, Fused, FusionHead, HeadSpec, head_macs, open_head, save_head
from bench.specialists.opened import Specialist
from bench.specialists.options import FusionOptions
from bench.specialists.pruning import Recipe, make_single, training_folder, work_folder
from bench.specialists.records import kept_record, record_beside, record_of
from bench.system.console import say
from bench.system.devices import seed_everything
from bench.system.files import file_digest, make_folder, plain, write_json
from bench.system.provenance import provenance
from bench.system.run_folder import BEST, LAST
from bench.train_eval import fit
from bench.training.options import TrainOptions
from bench.training.state import can_resume

SINGLE = "single_model.pt"

FORMAT = "fusion/1"


def fusion_folder(folder: Path, grouping: Grouping, threshold: float) -> Path:
    """Where what belongs to one grouping and threshold is: `devices3_th77`."""
    return folder / f"devices{grouping.devices}_th{threshold:g}"


def fuse_specialists(
    baseline: Baseline,
    specialists: list[Specialist],
    training: TrainOptions,
    options: FusionOptions,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Trains the head of some specialists, unless that was done by the same recipe on the same images.

    The folder receives `fusion_model.pt` and its record, `fusion_model.json`.

    Args:
        baseline: whose data it is trained on.
        specialists: in the order in which the head reads their features.
        training: the recipe.
        options: width of the head, and when the training ends.
        seed: of the training.
        folder: see `fusion_folder`.

    Returns:
        What the record says.
    """
    path, data = make_folder(folder) / FUSION, baseline.data
    files = data.files("train", "val")
    channels = tuple(specialist.features.channels for specialist in specialists)
    spec = HeadSpec(channels, options.head_width, data.classes.outputs)
    parts = [specialist.as_record() for specialist in specialists]
    recipe = {
        "training": identity_of(training),
        "patience": options.patience,
        "seed": seed,
        "input_size": data.input_size,
    }
    identity = plain({"specialists": parts, "head": asdict(spec), **recipe})
    kept = kept_record(path, identity, files, "trained")
    if kept is not None:
        say(f"{path} is there already")
        return kept
    groups = ", ".join(spelt(specialist.group) for specialist in specialists)
    say(f"fusing the specialists of the classes {groups} -> {path}")
    history = training_folder(path, identity, files)
    seed_everything(seed)
    head = FusionHead(spec)
    run = fit(
        SavedModel(head, ModelSpec("fusion_head", spec.outputs, {"channels": spec.channels, "width": spec.width})),
        data.seeded(seed),
        training,
        seed,
        history,
        resume=can_resume(history),
        device=baseline.device,
        label="fusion head",
        patience=options.patience,
        around=lambda network: Fused([specialist.features for specialist in specialists], network),
    )
    best = read_stored(run.best)
    head.load_state_dict(best["state_dict"])
    save_head(path, head.cpu(), spec, parts, best["meta"])
    record = {
        "format": FORMAT,
        "specialists": parts,
        "head": {**asdict(spec), "parameters": count_parameters(head), "state_bytes": state_bytes(head)},
        "macs": head_macs(head, _features_of_a_blank(specialists, data.input_size, baseline.device)),
        "file": {"name": path.name, "sha256": file_digest(path), "bytes": path.stat().st_size},
        "training": {"history": run.history, "best_epoch": run.best_epoch, "best_miou": run.best_miou},
        "recipe": recipe,
        "identity": identity,
        "data": files.record(),
        "provenance": provenance(),
    }
    write_json(record_of(path), record)
    for name in (BEST, LAST):
        (history / name).unlink(missing_ok=True)
    return plain(record)


def single_beside(
    baseline: Baseline, specialists: list[Specialist], fusion: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Makes one pruned network of as many parameters as some specialists and their head have together.

    It is pruned, repaired and fine-tuned as the first specialist was, but on all classes and for as many epochs as that
    and the head together.

    Args:
        baseline: the network and its data.
        specialists: those it is compared with.
        fusion: the record of their head.
        folder: see `fusion_folder`; receives `single_model.pt` and its record.

    Returns:
        What its record says.
    """
    pruning, repair, recipe = settings_in(specialists[0].record)
    total = fusion["head"]["parameters"] + sum(count_parameters(each.saved.model) for each in specialists)
    epochs = recipe.training.epochs + len(fusion["training"]["history"])
    longer = replace(recipe, training=replace(recipe.training, epochs=epochs))
    session = Session(baseline, pruning, work_folder(folder.parent), None, longer.training, repair)
    share = total / baseline.cost["parameters"]
    if share >= 1:
        say(f"specialists and head have {share:.2f} times the baseline's parameters: the single network stays whole")
    return make_single(session, longer, Goal("params", min(1.0, share), recipe.within), folder / SINGLE)


def settings_in(record: dict[str, Any]) -> tuple[PruneOptions, RepairOptions, Recipe]:
    """How the network of a record was pruned, repaired and fine-tuned.

    Raises:
        BenchError: an earlier or a later version wrote it.
    """
    try:
        said, options = record["recipe"], record["options"]
        training = TrainOptions(**said["training"])
        training = replace(training, crop_size=training.crop_size and tuple(training.crop_size))
        recipe = Recipe(said["method_options"], said["within"], training, said["seed"])
        # Before there was a balance all positions counted the same.
        repair = RepairOptions(**{"repair_balance": 0.0, **options["repair"]})
        return PruneOptions(**options["pruning"]), repair, recipe
    except (KeyError, TypeError) as error:
        raise BenchError(
            f"the record of {record.get('file', {}).get('name')} was written by another version ({error}); run "
            "`python -m bench.specialists prune` again"
        ) from error


def opened_head(folder: Path, specialists: list[Specialist], device: torch.device) -> tuple[FusionHead, dict[str, Any]]:
    """The head of some specialists and the record beside it.

    Raises:
        BenchError: missing, damaged or of others.
    """
    path = folder / FUSION
    return open_head(path, specialists, device), record_beside(path, FORMAT, AGAIN)


def _features_of_a_blank(
    specialists: list[Specialist], input_size: tuple[int, int], device: torch.device
) -> list[torch.Tensor]:
    blank = torch.zeros(1, 3, *input_size, device=device)
    with torch.no_grad():
        return [specialist.features(blank) for specialist in specialists]
