"""A training run from options to files: what train.py calls."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.data import SegmentationData
from bench.datasets import classes_of, dataset_class
from bench.datasets.options import DataOptions
from bench.datasets.recorded import said_of, settled
from bench.errors import BenchError, MachineError, UsageError, as_flags
from bench.measure.inference import Scoring
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models import new_model
from bench.models.backbone import load_backbone
from bench.models.checkpoint import SavedModel, load_model, read_meta, read_stored
from bench.models.options import ModelOptions
from bench.models.own_network import check_input, name_factory
from bench.system import processes
from bench.system.console import say
from bench.system.devices import set_up
from bench.system.failures import explained
from bench.system.files import make_folder, plain, read_json, write_csv, write_json
from bench.system.kept_files import read_kept
from bench.system.locks import lock_of, locked, remove_dead
from bench.system.options import RunOptions
from bench.system.provenance import provenance
from bench.system.run_folder import BEST, CONFIG, LAST, REPORT, SPLIT, is_done, run_folder
from bench.train_eval import evaluate, fit
from bench.training.options import TrainOptions
from bench.training.state import can_resume, check_same_run, finished_epochs, run_identity, shown


def train_model(
    data_options: DataOptions,
    model_options: ModelOptions,
    options: TrainOptions,
    run: RunOptions,
    scoring: ScoringOptions,
    folder: Path,
    *,
    timing: TimingOptions | None = None,
    checkpoint: Path | None = None,
    reset_head: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    unasked: bool = False,
) -> dict[str, Any]:
    """Trains a network and scores its best state on the validation and the headline split.

    The folder receives `config.json`, `best.pt`, `last.pt`, `metrics.csv` and `report.json`, and `split.csv` where the
    splits of the data were drawn.

    Args:
        data_options: the images.
        model_options: the network.
        options: the recipe.
        run: device, threads and seed.
        scoring: the split to report and how to score it.
        folder: the run's own folder.
        timing: options of what comes after the training; `config.json` holds them too (default: theirs).
        checkpoint: weights to start from, dense or pruned; a pruned network stays as narrow as it is. What the options
            leave open about the data and the network is as the file says.
        reset_head: begin with new output layers in place of the checkpoint's. A plain state dict whose outputs alone
            are of another number than the data set's begins with new ones in any case.
        resume: go on with the run in the folder; starts it where there is none.
        overwrite: replace the run in the folder.
        unasked: nobody asked for this training by itself: it is a step of a command that goes on with it whenever it is
            run again.

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
    if reset_head and not checkpoint:
        raise UsageError("--reset-head begins with new output layers in place of a checkpoint's; pass --ckpt FILE")
    how = Scoring.of(scoring)
    with processes.joined(set_up(run)) as device:
        world = processes.world()
        make_folder(folder)
        # A run that died in its first epoch holds nothing to go on from and nothing to lose.
        done = None if overwrite or (unasked and not can_resume(folder)) else finished_epochs(folder)
        finished = is_done(folder, BEST, REPORT) and read_kept(folder / REPORT, read_json) is not None
        begun = bool(done)
        if finished and not (resume or overwrite):
            raise BenchError(f"{folder} already holds a finished run; choose another --save or pass --overwrite")
        if begun and not (resume or overwrite):
            raise BenchError(f"{folder} holds an unfinished run; pass --resume to go on or --overwrite to start anew")

        data, saved = _open(data_options, model_options, run.seed, scoring.eval_batch_size, checkpoint, reset_head)
        if finished and resume:
            identity = run_identity(saved, data, options, run.seed, world.size)
            check_same_run(folder, read_stored(folder / LAST), saved, identity, data.files("train", "val"))
            if options.epochs == done:
                say(f"{folder} is finished already; nothing to do")
                return read_json(folder / REPORT)
            say(
                f"{folder} is extended from {done} to {options.epochs} epochs: from epoch {done + 1} on the learning "
                f"rate is that of a run of {options.epochs}; such a run from the start would end with other weights"
            )
        if resume and not begun and not unasked:
            say(f"{folder} holds {'no run' if done is None else 'no finished epoch'} to resume; starting one")
        already = "going on with the training of" if begun and resume else "training"
        say(f"{already} {saved.spec.name} on {data.name}, {options.epochs} epochs -> {folder}")

        # Opened before training, so that a missing split is not found out after it.
        splits = dict.fromkeys(("val", scoring.split or data.headline_split))
        data.check_labelled("train", *splits)
        loaders = {split: data.eval_loader(split, rank=world.rank, world=world.size) for split in splits}
        processes.barrier()
        with run_folder(folder) if world.is_first else contextlib.nullcontext(), _resume_hint(folder, unasked):
            if world.is_first:
                groups = (data_options, model_options, options, run, scoring, timing or TimingOptions())
                config = {name: value for group in groups for name, value in asdict(group).items()}
                config |= {"dataset": data.name, "model": saved.spec.name}
                start = {"ckpt": checkpoint, "reset_head": reset_head}
                write_json(folder / CONFIG, {**config, **start, "provenance": provenance()})
                if split := data.dataset.written_split():
                    write_csv(folder / SPLIT, tuple(split[0]), split)
            result = fit(
                saved,
                data,
                options,
                run.seed,
                folder,
                resume=resume and begun,
                device=device,
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
                    label=f"scoring the best epoch on {split}",
                    scoring=how,
                )
                for split, loader in loaders.items()
            }
            report = {
                "format": "training-report/1",
                "best_epoch": result.best_epoch,
                "epochs": result.epochs,
                "input_size": data.input_size,
                "scoring": asdict(how),
                **({"extended": result.extended} if result.extended else {}),
                "data": data.files(*dict.fromkeys(("train", *splits))).record(),
                **{split: asdict(quality) for split, quality in scores.items()},
            }
            if world.is_first:
                write_json(folder / REPORT, report)
        shown = ", ".join(f"{split} mIoU {quality.miou:.2%}" for split, quality in scores.items())
        say(f"best epoch {result.best_epoch} of {result.epochs}: {shown} -> {result.best}")
        return report


def _open(
    data_options: DataOptions,
    model_options: ModelOptions,
    seed: int,
    eval_batch_size: int,
    checkpoint: Path | None,
    reset_head: bool,
) -> tuple[SegmentationData, SavedModel]:
    """The data set, and the network with its first weights."""
    if checkpoint is None:
        data = SegmentationData(data_options, seed=seed, eval_batch_size=eval_batch_size)
        saved = SavedModel(*new_model(model_options.spec(data.classes.outputs)))
        check_input(saved.model, saved.spec.name, data.input_size)
        if model_options.pretrained_backbone:
            load_backbone(saved.model, model_options.pretrained_backbone)
        return data, saved
    if data_options.dataset is not None:
        dataset_class(data_options.dataset)  # a name that does not exist comes before whatever is wrong with the file
    meta = read_meta(checkpoint)
    data_options = settled(data_options, meta, checkpoint, may_differ=True)
    said = said_of(meta, data_options.dataset)
    outputs = classes_of(data_options, said).outputs
    head = "fresh" if reset_head else "fitting"
    saved = load_model(checkpoint, outputs=outputs, head=head, **model_options.in_file)
    data = SegmentationData(data_options, seed=seed, eval_batch_size=eval_batch_size, recorded=said)
    check_input(saved.model, saved.spec.name, data.input_size)
    return data, saved


def _check_trained_so(
    checkpoint: Path,
    asked: Collection[str],
    data_options: DataOptions,
    model_options: ModelOptions,
    options: TrainOptions,
) -> None:
    saved = load_model(checkpoint)
    trained = {**saved.meta.get("options", {}), "model": saved.spec.name}
    trained |= {name: saved.meta[name] for name in ("dataset", "input_size") if name in saved.meta}
    wanted = plain({**asdict(options), "model": model_options.model, **asdict(data_options)})
    for name, then in trained.items():
        if name in asked and name != "tensorboard" and name in wanted and wanted[name] != then:
            raise BenchError(
                f"{checkpoint} was trained with {_flag(name, then)}, not {_flag(name, wanted[name])}; name another "
                "`baseline` to have one trained so, or pass `no_train_baseline` to take this one as it is"
            )


def _flag(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"`{name}`" if value else f"`no_{name}`"
    return f"no `{name}`" if value is None else f"`{name}={shown(value)}`"


@contextlib.contextmanager
def _resume_hint(folder: Path, unasked: bool) -> Iterator[None]:
    """Says of what ends a training early, and is no fault of its options, how it goes on."""
    again = "the same command" if unasked else "`resume`"
    try:
        yield
    except KeyboardInterrupt:
        if (folder / LAST).is_file():
            again = again if unasked else f"the same command and {again}"
            say(as_flags(f"{folder / LAST} holds the last finished epoch; go on with {again}"))
        raise
    except Exception as error:
        known = explained(error)
        if not isinstance(known, MachineError) or not (folder / LAST).is_file():
            raise
        anew = "" if unasked else ", `overwrite` starts anew"
        raise MachineError(
            f"{known}; {again} goes on after the last finished epoch by the same recipe{anew}"
        ) from error


def ensure_baseline(
    checkpoint: Path,
    data_options: DataOptions,
    model_options: ModelOptions,
    options: TrainOptions,
    run: RunOptions,
    scoring: ScoringOptions,
    timing: TimingOptions,
    *,
    asked: Collection[str] = (),
) -> None:
    """Trains the network a `best.pt` is to hold, unless that was done; goes on with an interrupted run.

    Args:
        checkpoint: the file.
        data_options: the images.
        model_options: the network.
        options: the recipe.
        run: device, threads and seed.
        scoring: as in `train_model`.
        timing: likewise.
        asked: the fields of these groups that were asked for and are no mere defaults: a network that is there already
            must have been trained so. The seed may differ: it is that of the comparison too.

    Raises:
        UsageError: a file of another name; a training run writes `best.pt`.
        BenchError: the file is there, but was trained otherwise; names the first option, and both values.
    """
    if checkpoint.name != BEST:
        raise UsageError(f"--train-baseline writes a {BEST}; name --baseline {checkpoint.with_name(BEST)}")
    name_factory(model_options.model)
    folder = checkpoint.parent

    def is_ready() -> bool:
        if not (is_done(folder, BEST, REPORT) and read_kept(checkpoint, load_model)):
            return False
        _check_trained_so(checkpoint, asked, data_options, model_options, options)
        say(f"baseline {checkpoint} is there already")
        _warn_of_other_data(folder, data_options)
        return True

    if is_ready():
        remove_dead(lock_of(folder))
        return
    # Of several commands one trains it; the processes that torchrun starts train it together.
    alone = locked(lock_of(make_folder(folder)), f"the training of {checkpoint}")
    with contextlib.nullcontext() if processes.are_several() else alone:
        if is_ready():
            return
        how = {"overwrite": True} if is_done(folder, BEST, REPORT) else {"resume": True}
        train_model(data_options, model_options, options, run, scoring, folder, timing=timing, unasked=True, **how)


def _warn_of_other_data(folder: Path, data_options: DataOptions) -> None:
    """Says that a finished network was trained on images or labels that have changed since."""
    before = read_json(folder / REPORT).get("data", {})
    changed = SegmentationData(data_options, recorded=read_meta(folder / BEST)).files(*before).changed_since(before)
    if changed:
        say(
            f"images or labels of {' and '.join(changed)} changed since it was trained; remove {folder} to have it "
            "trained again"
        )
