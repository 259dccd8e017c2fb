"""Fine-tuning a pruned network, from `pruned_model.pt` to `finetuned_report.json`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.measure.baseline import Baseline
from bench.measure.evaluation_report import FinetunedReport, latency_of
from bench.measure.inference import PLAIN
from bench.models.checkpoint import load_model, save_model
from bench.system.files import digest, file_digest, plain, read_json, write_json
from bench.system.kept_files import read_kept
from bench.system.run_folder import BEST, FINETUNED, FINETUNED_REPORT, LAST, PRUNED, REPORT
from bench.train_eval import fit
from bench.training.distillation import Distillation
from bench.training.options import TrainOptions
from bench.training.state import can_resume
from bench.training.step import Knobs


def check_comparable(baseline: Baseline, folder: Path) -> None:
    """Refuses a pruned network that was measured beside another baseline or on other data.

    Raises:
        BenchError: names the first flag that differs, and its earlier value.
    """
    report = read_json(folder / REPORT)
    if report["baseline"]["sha256"] != baseline.digest:
        raise BenchError(
            f"{folder} was pruned from {report['baseline']['path']}, {baseline.checkpoint} is another network; "
            "pass that one as --baseline"
        )
    now = {"dataset": baseline.data.name, "input_size": baseline.data.input_size, "split": baseline.split}
    now |= asdict(baseline.scoring)
    # Reports of the time before networks could be scored in other ways do not say how theirs was.
    before = {**report, **(report.get("scoring") or plain(PLAIN))}
    for name, value in plain(now).items():
        if before[name] != value:
            raise BenchError(f"{folder} was measured {_asked(name, before[name])}, or its numbers do not compare")


def _asked(name: str, value: Any) -> str:
    """What to do to measure with the same value of an option."""
    flag = "--" + name.replace("_", "-")
    if value is None or value is False:
        return f"without {flag}; leave that out too"
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return f"with {flag if value is True else f'{flag} {value}'}; pass that too"


def finetune_model(
    baseline: Baseline,
    folder: Path,
    options: TrainOptions,
    seed: int,
    distillation: Distillation | None = None,
) -> FinetunedReport:
    """Fine-tunes the pruned network of a job, unless that was done with the same recipe.

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
    taught = distillation.as_record() if distillation else {}
    recipe = plain({**asdict(options), **taught, "seed": seed, "pruned": file_digest(folder / PRUNED)})
    done = read_kept(folder / FINETUNED_REPORT, read_json) if (folder / FINETUNED).is_file() else None
    if done is not None and done["finetune"]["recipe"] == recipe:
        return done
    saved = load_model(folder / PRUNED, outputs=baseline.data.classes.outputs)
    history = folder / f"finetune_{digest(recipe)[:8]}"
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
