"""Training networks in the folder of a job, as the pruned one: from `pruned_model.pt` to `finetuned_report.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bench.config.declare import identity_of
from bench.datasets.fingerprint import DataFiles
from bench.measure.baseline import Baseline
from bench.measure.evaluation_report import EvaluationReport, FinetunedReport, FinetuneRecord, latency_of
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.system.files import digest, file_digest, plain, read_json, write_json
from bench.system.kept_files import read_kept
from bench.system.run_folder import BEST, FINETUNED, FINETUNED_REPORT, LAST, PRUNED, REPORT
from bench.train_eval import fit
from bench.training.distillation import Distillation
from bench.training.options import TrainOptions
from bench.training.state import can_resume, drop_outdated_run
from bench.training.step import Knobs


class Place(NamedTuple):
    """Where a training in the folder of a job keeps what it makes.

    Attributes:
        model: file of the network that scored best on the validation split.
        report: file of what was measured on it.
        part: what of the report says how it was trained.
        history: how the folder of the training itself begins.
    """

    model: str
    report: str
    part: str
    history: str


FINETUNING = Place(FINETUNED, FINETUNED_REPORT, "finetune", "finetune")


def kept_finetuning(
    baseline: Baseline, folder: Path, options: TrainOptions, seed: int, distillation: Distillation | None = None
) -> FinetunedReport | None:
    """The report of a fine-tuning by this recipe on the images there are now; None where that is to be done.

    The arguments are those of `finetune_model`.
    """
    done = report_of(folder, FINETUNING, _recipe(folder, options, seed, distillation))
    return None if done is None or files_of(baseline).changed_since(done.get("data")) else done


def _recipe(folder: Path, options: TrainOptions, seed: int, distillation: Distillation | None) -> dict[str, Any]:
    return {**recipe_of(options, seed, distillation), "pruned": file_digest(folder / PRUNED)}


def recipe_of(options: TrainOptions, seed: int, distillation: Distillation | None) -> dict[str, Any]:
    """All that decides a training but the network and the images, as plain data."""
    taught = distillation.as_record() if distillation else {}
    return plain({**identity_of(options), **taught, "seed": seed})


def files_of(baseline: Baseline) -> DataFiles:
    """The images that a training in a job's folder depends on."""
    return baseline.data.files(*dict.fromkeys(["train", "val", baseline.split]))


def report_of(folder: Path, place: Place, recipe: Mapping[str, Any]) -> EvaluationReport | None:
    """The report of a training that was done by this recipe; None where there is none."""
    done = read_kept(folder / place.report, read_json) if (folder / place.model).is_file() else None
    return done if done is not None and done[place.part]["recipe"] == recipe else None


def finetune_model(
    baseline: Baseline,
    folder: Path,
    options: TrainOptions,
    seed: int,
    distillation: Distillation | None = None,
) -> FinetunedReport:
    """Fine-tunes the pruned network of a job, unless that was done with the same recipe on the same images.

    The folder receives `finetuned_model.pt`, the network that scored best on the validation split, and
    `finetuned_report.json`; an interrupted run goes on where it stopped.

    Args:
        baseline: the network and its data.
        folder: the job's folder, with `pruned_model.pt` in it.
        options: the recipe.
        seed: seed of the training.
        distillation: the teacher that is part of it, if there is one.

    Returns:
        What `finetuned_report.json` says.
    """
    recipe = _recipe(folder, options, seed, distillation)
    done = report_of(folder, FINETUNING, recipe)
    if done is not None and files_of(baseline).fits(done.get("data"), f"{folder.name} was fine-tuned"):
        return done
    saved = load_model(folder / PRUNED, outputs=baseline.data.classes.outputs)
    how = {"distillation": distillation, "label": "fine-tuning", "knobs": Knobs(lr="`finetune_lr`")}
    return train_in(baseline, folder, FINETUNING, saved, options, recipe, **how)


def train_in(
    baseline: Baseline,
    folder: Path,
    place: Place,
    saved: SavedModel,
    options: TrainOptions,
    recipe: Mapping[str, Any],
    *,
    distillation: Distillation | None,
    label: str,
    knobs: Knobs,
) -> EvaluationReport:
    """Trains a network in the folder of a job, or goes on where that stopped, and measures it.

    Args:
        baseline: the images, and what it is compared with.
        folder: the job's.
        place: where in it.
        saved: the network.
        options: the recipe.
        recipe: `recipe_of` that, with all else that decides the numbers.
        distillation: the teacher that is part of it, if there is one.
        label: what the progress bar says.
        knobs: what the options are called in messages.

    Returns:
        What the report says.
    """
    files, history = files_of(baseline), folder / f"{place.history}_{digest(recipe)[:8]}"
    drop_outdated_run(history, files)
    result = fit(
        saved,
        baseline.data.seeded(recipe["seed"]),
        options,
        recipe["seed"],
        history,
        distillation=distillation,
        resume=can_resume(history),
        device=baseline.device,
        label=label,
        knobs=knobs,
    )
    record: FinetuneRecord = {
        "recipe": dict(recipe),
        "best_epoch": result.best_epoch,
        "val_miou": result.best_miou,
        "history": result.history,
    }
    report = keep_trained(baseline, folder, place, load_model(result.best), record)
    # The history stays; the weights are in the file beside the pruned network's.
    for name in (BEST, LAST):
        (history / name).unlink(missing_ok=True)
    return report


def keep_trained(
    baseline: Baseline, folder: Path, place: Place, best: SavedModel, record: FinetuneRecord
) -> EvaluationReport:
    """Writes a trained network and what is measured on it; its latency is that of the pruned one, whose shape it has.

    The arguments are those of `train_in`, and what the report says of the training.
    """
    save_model(folder / place.model, best)
    report: EvaluationReport = {
        **baseline.compare(folder / place.model, best, latency=latency_of(read_json(folder / REPORT))),
        "data": files_of(baseline).record(),
        place.part: record,
    }
    write_json(folder / place.report, report)
    return report
