"""The stages put together: what each script calls."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench import distributed
from bench.checkpoint import SavedModel, load_model, save_model
from bench.console import say
from bench.data import SegmentationData
from bench.datasets import dataset_class
from bench.devices import set_up
from bench.distillation import Distillation
from bench.errors import BenchError, UsageError
from bench.groups import ChannelGroup, find_groups
from bench.html_report import html_page
from bench.inference import PLAIN, Scoring
from bench.models import ModelSpec, build_model
from bench.models.backbone import load_backbone
from bench.options import (
    DataOptions,
    MeasureOptions,
    ModelOptions,
    PageOptions,
    PruneOptions,
    RunOptions,
    TrainOptions,
)
from bench.panels import panels_of, segment
from bench.pictures import prediction_picture, write_ids
from bench.pruners.base import Method
from bench.reference import Reference
from bench.runs import (
    digest,
    file_digest,
    is_done,
    make_folder,
    plain,
    provenance,
    read_json,
    run_folder,
    write_json,
    write_text,
)
from bench.target import Goal
from bench.train_eval import evaluate, fit
from bench.training_state import BEST, LAST, check_same_run, run_identity
from bench.workbench import Workbench

CONFIG, REPORT = "config.json", "report.json"
PRUNED, INFO = "pruned_model.pt", "pruning_info.json"
FINETUNED, FINETUNED_REPORT = "finetuned_model.pt", "finetuned_report.json"


def train_model(
    data_options: DataOptions,
    model_options: ModelOptions,
    options: TrainOptions,
    run: RunOptions,
    measure: MeasureOptions,
    folder: Path,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Trains a network and scores its best state on the validation and the headline split.

    The folder receives `config.json`, `best.pt`, `last.pt`, `metrics.csv` and `report.json`.

    Args:
        data_options: the images.
        model_options: the network.
        options: the recipe.
        run: device and seed.
        measure: the split to report and how to score it.
        folder: the run's own folder.
        checkpoint: weights to start from, dense or pruned; a pruned network stays as narrow as it is.
        resume: go on with the run in the folder; starts it where there is none.
        overwrite: replace the run in the folder.

    Returns:
        What `report.json` says.

    Raises:
        UsageError: options that contradict each other or name what does not exist.
        BenchError: the folder holds another run; what data, checkpoint and training may meet.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite contradict each other; pass one")
    if checkpoint and model_options.pretrained_backbone:
        raise UsageError("--ckpt and --pretrained-backbone both name the first weights; pass one")
    scoring = Scoring.of(measure)
    with distributed.joined(set_up(run)) as device:
        world = distributed.world()
        make_folder(folder)
        finished, begun = is_done(folder, BEST, REPORT), (folder / LAST).is_file()
        if finished and not (resume or overwrite):
            raise BenchError(f"{folder} already holds a finished run; choose another --save or pass --overwrite")
        if begun and not (resume or overwrite):
            raise BenchError(f"{folder} holds an unfinished run; pass --resume to go on or --overwrite to start anew")

        data, saved = _open(data_options, model_options, run, checkpoint)
        if finished and resume:
            identity = run_identity(saved, data, options, run, world.size)
            check_same_run(folder, load_model(folder / LAST), saved, identity)
            say(f"{folder} is finished already; nothing to do")
            return read_json(folder / REPORT)
        if resume and not begun:
            say(f"{folder} holds no run to resume; starting one")

        # Opened before training, so that a missing split is not found out after it.
        splits = dict.fromkeys(("val", measure.split or data.headline_split))
        loaders = {
            split: data.eval_loader(split, measure.eval_batch_size, rank=world.rank, world=world.size)
            for split in splits
        }
        distributed.barrier()
        with run_folder(folder) if world.is_first else contextlib.nullcontext(), _resume_hint(folder):
            if world.is_first:
                groups = (data_options, model_options, options, run, measure)
                config = {name: value for group in groups for name, value in asdict(group).items()}
                write_json(folder / CONFIG, {**config, "ckpt": checkpoint, "provenance": provenance()})
            result = fit(
                saved,
                data,
                options,
                run,
                folder,
                resume=resume and begun,
                device=device,
                eval_batch_size=measure.eval_batch_size,
            )
            best = load_model(result.best).model
            scores = {
                split: evaluate(
                    best,
                    loader,
                    data.classes,
                    device=device,
                    amp=options.amp,
                    channels_last=options.channels_last,
                    label=split,
                    scoring=scoring,
                )
                for split, loader in loaders.items()
            }
            report = {
                "format": "training-report/1",
                "best_epoch": result.best_epoch,
                "epochs": result.epochs,
                "input_size": data.input_size,
                "scoring": asdict(scoring),
                **{split: asdict(quality) for split, quality in scores.items()},
            }
            if world.is_first:
                write_json(folder / REPORT, report)
        shown = ", ".join(f"{split} mIoU {quality.miou:.2%}" for split, quality in scores.items())
        say(f"best epoch {result.best_epoch} of {result.epochs}: {shown} -> {result.best}")
        return report


def _open(
    data_options: DataOptions, model_options: ModelOptions, run: RunOptions, checkpoint: Path | None
) -> tuple[SegmentationData, SavedModel]:
    """The data set, and the network with its first weights."""
    if checkpoint is None:
        data = SegmentationData(data_options, seed=run.seed)
        spec = ModelSpec(model_options.model, data.classes.outputs)
        saved = SavedModel(build_model(spec), spec)
        if model_options.pretrained_backbone:
            load_backbone(saved.model, model_options.pretrained_backbone)
        return data, saved
    saved = load_model(
        checkpoint, name=model_options.model, outputs=dataset_class(data_options.dataset).classes.outputs
    )
    return SegmentationData(data_options, seed=run.seed, input_size=saved.meta.get("input_size")), saved


@contextlib.contextmanager
def _resume_hint(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if (folder / LAST).is_file():
            say(f"{folder / LAST} holds the last finished epoch; go on with the same command and --resume")
        raise


def ensure_baseline(
    checkpoint: Path,
    data_options: DataOptions,
    model_options: ModelOptions,
    options: TrainOptions,
    run: RunOptions,
    measure: MeasureOptions,
) -> None:
    """Trains the network a `best.pt` is to hold, unless that was done; goes on with an interrupted run.

    Raises:
        UsageError: a file of another name; a training run writes `best.pt`.
    """
    if checkpoint.name != BEST:
        raise UsageError(f"--train-baseline writes a {BEST}; name --baseline {checkpoint.with_name(BEST)}")
    if is_done(checkpoint.parent, BEST, REPORT):
        say(f"baseline {checkpoint} is there already")
        return
    train_model(data_options, model_options, options, run, measure, checkpoint.parent, resume=True)


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


def evaluate_pair(reference: Reference, candidate: Path | None, report: Path, page: PageOptions) -> dict[str, Any]:
    """Measures a candidate beside the baseline, or the baseline alone.

    Args:
        reference: the baseline and its data.
        candidate: file of a network for the same data set, if there is one.
        report: the JSON file to write.
        page: whether a page of the same name is put beside it, and what that shows.

    Returns:
        What the report says.

    Raises:
        UsageError: the report has the name of the page.
    """
    page_path = report.with_suffix(".html")
    if page.html and page_path == report:
        raise UsageError(f"--report names the JSON file; pass {report.with_suffix('.json')}, the page goes beside it")
    make_folder(report.parent)
    networks = {"baseline": reference.saved.model}
    if candidate is None:
        measured, apart = reference.describe(), reference.evaluation.wrong
    else:
        saved = _candidate(reference, candidate)
        networks["candidate"] = saved.model.to(reference.device)
        evaluation, apart = reference.evaluate_beside(saved.model)
        measured = reference.compare(candidate, saved, evaluation=evaluation)
    write_json(report, measured)
    if page.html:
        shown = panels_of(reference, networks, apart, page.html_images) if page.html_images else None
        write_text(page_path, html_page(measured, shown, reference.data.classes))
    return measured


def write_predictions(reference: Reference, candidate: Path | None, folder: Path, *, label_ids: bool = False) -> int:
    """Writes what a network predicts for each image of the split as a PNG of the image's name and the label's size.

    Args:
        reference: the baseline and its data.
        candidate: file of the network; without one it is the baseline.
        folder: where to.
        label_ids: write the ids of the data set's label files, grey, as its evaluation server wants them. Otherwise
            pixels hold the numbers the network is trained on, shown in the data set's colours.

    Returns:
        The number of files.

    Raises:
        UsageError: label ids of a data set whose files hold the training numbers themselves.
        BenchError: two images of one name, or a folder that cannot be written.
    """
    data = reference.data
    ids = data.dataset.label_ids
    if label_ids and ids is None:
        raise UsageError(f"{data.name} has no label ids but the ones it is trained on; leave --predict-ids out")
    names = data.names(reference.split)
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise BenchError(f"two images of {reference.split} are called {twice}; rename one, they would share a file")
    make_folder(folder)
    model = reference.saved.model if candidate is None else _candidate(reference, candidate).model
    for name, prediction in reference.predictions(model, "predictions"):
        path = folder / f"{name}.png"
        if label_ids:
            write_ids(path, np.array(ids)[prediction.numpy()])
        else:
            write_ids(path, prediction.numpy(), data.classes)
    return len(names)


def _candidate(reference: Reference, path: Path) -> SavedModel:
    return load_model(path, name=reference.saved.spec.name, outputs=reference.data.classes.outputs)


def draw_pair(reference: Reference, candidate: Path | None, index: int, path: Path) -> None:
    """Draws one image of the split, its label, and what baseline and candidate make of it.

    Args:
        reference: the baseline and its data.
        candidate: file of the other network, if there is one.
        index: which image of the split.
        path: the PNG to write.
    """
    data = reference.data
    count = len(data.names(reference.split))
    if not 0 <= index < count:
        raise UsageError(
            f"--picture-index {index} is not one of the {count} images of {reference.split} (0 to {count - 1})"
        )
    networks = {"baseline": reference.saved.model}
    if candidate is not None:
        networks[candidate.stem] = _candidate(reference, candidate).model.to(reference.device)
    image, label, maps = segment(reference, networks, index)
    make_folder(path.parent)
    prediction_picture(path, image, {"label": label, **maps}, data.classes)
