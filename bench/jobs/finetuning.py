"""Fine-tuning a pruned network, from `pruned_model.pt` to `finetuned_report.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.config.declare import identity_of
from bench.datasets.fingerprint import DataFiles
from bench.measure.baseline import Baseline
from bench.measure.evaluation_report import FinetunedReport, latency_of
from bench.models.checkpoint import load_model, save_model
from bench.system.files import digest, file_digest, plain, read_json, write_json
from bench.system.kept_files import read_kept
from bench.system.run_folder import BEST, FINETUNED, FINETUNED_REPORT, LAST, PRUNED, REPORT
from bench.train_eval import fit
from bench.training.distillation import Distillation
from bench.training.options import TrainOptions
from bench.training.state import can_resume, drop_outdated_run
from bench.training.step import Knobs


def kept_finetuning(
    baseline: Baseline, folder: Path, options: TrainOptions, seed: int, distillation: Distillation | None = None
) -> FinetunedReport | None:
    """The report of a fine-tuning by this recipe on the images there are now; None where that is to be done.

    The arguments are those of `finetune_model`.
    """
    done = _report_of(folder, _recipe(folder, options, seed, distillation))
    return None if done is None or _files(baseline).changed_since(done.get("data")) else done


def _recipe(folder: Path, options: TrainOptions, seed: int, distillation: Distillation | None) -> dict[str, Any]:
    taught = distillation.as_record() if distillation else {}
    return plain({**identity_of(options), **taught, "seed": seed, "pruned": file_digest(folder / PRUNED)})


def _files(baseline: Baseline) -> DataFiles:
    return baseline.data.files(*dict.fromkeys(["train", "val", baseline.split]))


def _report_of(folder: Path, recipe: dict[str, Any]) -> FinetunedReport | None:
    done = read_kept(folder / FINETUNED_REPORT, read_json) if (folder / FINETUNED).is_file() else None
    return done if done is not None and done["finetune"]["recipe"] == recipe else None


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
    recipe, files = _recipe(folder, options, seed, distillation), _files(baseline)
    done = _report_of(folder, recipe)
    if done is not None and files.fits(done.get("data"), f"{folder.name} was fine-tuned"):
        return done
    saved = load_model(folder / PRUNED, outputs=baseline.data.classes.outputs)
    history = folder / f"finetune_{digest(recipe)[:8]}"
    drop_outdated_run(history, files)
    result = fit(
        saved,
        baseline.data.seeded(seed),
        options,
        seed,
        history,
        distillation=distillation,
        resume=can_resume(history),
        device=baseline.device,
        label="fine-tuning",
        knobs=Knobs(lr="`finetune_lr`"),
    )
    best = load_model(result.best)
    save_model(folder / FINETUNED, best)
    report: FinetunedReport = {
        **baseline.compare(folder / FINETUNED, best, latency=latency_of(read_json(folder / REPORT))),
        "data": files.record(),
        "finetune": {
            "recipe": recipe,
            "best_epoch": result.best_epoch,
            "val_miou": result.best_miou,
            "history": result.history,
        },
    }
    write_json(folder / FINETUNED_REPORT, report)
    # The history stays; the weights are in finetuned_model.pt.
    for name in (BEST, LAST):
        (history / name).unlink(missing_ok=True)
    return report
