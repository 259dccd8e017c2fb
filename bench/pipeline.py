"""The stages put together, from a baseline to pruned and fine-tuned networks on disk."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.channels.groups import ChannelGroup, find_groups
from bench.config.options import DataOptions, MeasureOptions, PruneOptions, RunOptions, TrainOptions
from bench.datasets import dataset_class
from bench.engine.session import Workbench
from bench.errors import BenchError, UsageError
from bench.measure.baseline import Reference
from bench.measure.inference import PLAIN
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import load_model, save_model
from bench.plan.target import Goal
from bench.pruners.base import Method
from bench.system.devices import set_up
from bench.system.files import digest, file_digest, plain, read_json, write_json
from bench.system.run_folder import REPORT, run_folder
from bench.train_eval import fit
from bench.training.distillation import Distillation
from bench.training.state import BEST, LAST

PRUNED, INFO = "pruned_model.pt", "pruning_info.json"
FINETUNED, FINETUNED_REPORT = "finetuned_model.pt", "finetuned_report.json"


def open_reference(
    checkpoint: Path | str,
    data_options: DataOptions,
    run: RunOptions,
    measure: MeasureOptions,
    *,
    model: str | None = None,
) -> Reference:
    """Sets up the device, and opens a baseline and its data there.

    Args:
        checkpoint: the baseline's file.
        data_options: the images.
        run: device, threads and seed.
        measure: the split and how it is scored.
        model: the network the file must hold, if that is known.
    """
    return Reference(Path(checkpoint), data_options, run, measure, device=set_up(run), model=model)


def prune_model(workbench: Workbench, pruner: Method, goal: Goal, seed: int, folder: Path) -> dict[str, Any]:
    """Prunes the baseline on the bench and measures the result.

    The folder receives `pruned_model.pt`, `pruning_info.json` and `report.json`.

    Args:
        workbench: the baseline, and what is the same for all prunings.
        pruner: the method.
        goal: what to reach.
        seed: seed of the method and of its calibration images.
        folder: the job's own folder.

    Returns:
        What `pruning_info.json` says.
    """
    with run_folder(folder):
        pruned = workbench.prune(pruner, workbench.target(pruner, goal), seed)
        save_model(folder / PRUNED, pruned.saved)
        search = pruned.info["latency_search"]
        report = workbench.reference.compare(
            folder / PRUNED, pruned.saved, evaluation=pruned.evaluation, latency=search and search["verified"]
        )
        write_json(folder / REPORT, report)
        info = {**pruned.info, "saved_model": str(folder / PRUNED)}
        write_json(folder / INFO, info)
    return info


def groups_of(checkpoint: str | None, model: str | None, dataset: str, options: PruneOptions) -> list[ChannelGroup]:
    """The groups of coupled channels of a network, and which of them a pruning would leave whole.

    Args:
        checkpoint: file of the network; without one it is built with fresh weights.
        model: the network's name.
        dataset: the data set it is for.
        options: what to protect.

    Raises:
        UsageError: neither checkpoint nor model, or names that do not exist.
    """
    outputs = dataset_class(dataset).classes.outputs
    if checkpoint is not None:
        network = load_model(Path(checkpoint), name=model, outputs=outputs).model
    elif model is not None:
        network = build_model(ModelSpec(model, outputs))
    else:
        raise UsageError("--list-groups needs a network; pass --ckpt FILE or --model NAME")
    return find_groups(network, ignore=options.ignore, protect_first=options.protect_first)


def check_comparable(reference: Reference, folder: Path) -> None:
    """Refuses a pruned network that was measured beside another baseline or on other data.

    Raises:
        BenchError: names the first flag that differs, and its earlier value.
    """
    report = read_json(folder / REPORT)
    if report["baseline"]["sha256"] != reference.digest:
        raise BenchError(
            f"{folder} was pruned from {report['baseline']['path']}, {reference.checkpoint} is another network; "
            "pass that one as --baseline"
        )
    now = {"dataset": reference.data.name, "input_size": reference.data.input_size, "split": reference.split}
    now |= asdict(reference.scoring)
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


def time_model(reference: Reference, folder: Path) -> None:
    """Adds the latency to the `report.json` of a pruned network measured without it or in another mode, if wanted."""
    report = read_json(folder / REPORT)
    if reference.is_timed and not (report["latency"] and reference.times_alike(report["latency"])):
        candidate = load_model(folder / PRUNED, outputs=reference.data.classes.outputs)
        write_json(folder / REPORT, {**report, "latency": reference.time(candidate.model).as_dict()})


def finetune_model(
    reference: Reference,
    folder: Path,
    options: TrainOptions,
    run: RunOptions,
    distillation: Distillation | None = None,
) -> dict[str, Any]:
    """Fine-tunes the pruned network of a job, unless that was done with the same recipe.

    The folder receives `finetuned_model.pt`, the network that scored best on the validation split, and
    `finetuned_report.json`; an interrupted run goes on where it stopped.

    Args:
        reference: the baseline and its data.
        folder: the job's folder, with `pruned_model.pt` in it.
        options: the recipe.
        run: device and seed.
        distillation: the teacher that is part of it, if there is one.

    Returns:
        What `finetuned_report.json` says.
    """
    taught = distillation.as_record() if distillation else {}
    recipe = plain({**asdict(options), **taught, "seed": run.seed, "pruned": file_digest(folder / PRUNED)})
    if (folder / FINETUNED).is_file() and (folder / FINETUNED_REPORT).is_file():
        report = read_json(folder / FINETUNED_REPORT)
        if report["finetune"]["recipe"] == recipe:
            return report
    saved = load_model(folder / PRUNED, outputs=reference.data.classes.outputs)
    history = folder / f"finetune_{digest(recipe)[:8]}"
    result = fit(
        saved,
        reference.data.seeded(run.seed),
        options,
        run,
        history,
        distillation=distillation,
        resume=(history / LAST).is_file(),
        device=reference.device,
        label="fine-tuning",
    )
    best = load_model(result.best)
    save_model(folder / FINETUNED, best)
    report = reference.compare(folder / FINETUNED, best, latency=read_json(folder / REPORT)["latency"])
    report["finetune"] = {
        "recipe": recipe,
        "best_epoch": result.best_epoch,
        "val_miou": result.best_miou,
        "history": result.history,
    }
    write_json(folder / FINETUNED_REPORT, report)
    # The history stays; the weights are in finetuned_model.pt.
    for name in (BEST, LAST):
        (history / name).unlink(missing_ok=True)
    return report
