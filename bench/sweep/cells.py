"""The cells of a sweep: where each has its files, how it is made, and whether that was done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from bench.datasets.fingerprint import Fingerprints
from bench.engine.session import Session
from bench.errors import UsageError
from bench.jobs.controls import PLACES, Control, kept_control, train_control
from bench.jobs.finetuning import FINETUNING, finetune_model, kept_finetuning
from bench.jobs.pruning import prune_model
from bench.measure.latency import device_name
from bench.measure.latency_mode import PLAIN_MODE
from bench.pruners.base import Method
from bench.report.row_settings import Settings, settings_of
from bench.sweep.grid import Job
from bench.sweep.names import CellName, fits, is_chosen
from bench.sweep.worst_images import draw_worst_images
from bench.system.files import digest, plain, read_json
from bench.system.run_folder import DONE, INFO, LAST, PRUNED, REPORT, is_done
from bench.training.distillation import Distillation
from bench.training.options import TrainOptions

# What is made of a pruned network, of the same images.
_TRAINED = [name for place in (FINETUNING, *PLACES.values()) for name in (place.model, place.report)]


@dataclass(frozen=True)
class Cell:
    """One cell: a job and its folder.

    Attributes:
        job: method, goal and seed.
        folder: its own.
        settings: how its network is made besides, for its row.
        is_done: whether all its files are there, of the images and labels there are now.
        work: makes the files that are missing.
        trains: whether the work trains a network.
        is_timed: whether the work measures latencies.
    """

    job: Job
    folder: Path
    settings: Settings
    is_done: Callable[[], bool]
    work: Callable[[], None]
    trains: bool = False
    is_timed: bool = False

    @property
    def name(self) -> str:
        """What it is called where cells are chosen: METHOD@TARGET@SEED."""
        return str(name_of(self.job))

    def forget(self) -> None:
        """Lets the cell be made anew: removes what says that it is done, and what an unfinished training goes on from.

        What is named by its content and shared with others stays.
        """
        for name in (DONE, *_TRAINED):
            (self.folder / name).unlink(missing_ok=True)
        for path in self.folder.glob(f"*/{LAST}"):
            path.unlink()


def name_of(job: Job) -> CellName:
    """The name of a job."""
    return CellName(job.method, job.goal.kind, job.goal.value, job.seed)


def cells_of(
    session: Session,
    pruners: Mapping[str, Method],
    jobs: Sequence[Job],
    finetune: TrainOptions | None,
    out: Path,
    distillation: Distillation | None = None,
    controls: Sequence[Control] = (),
) -> list[Cell]:
    """The cells that prune, fine-tune where there is a recipe, and train controls.

    Args:
        session: the baseline and what all cells share.
        pruners: the methods by name.
        jobs: the grid.
        finetune: the recipe of fine-tuning after each pruning, or None.
        out: folder of the benchmark.
        distillation: the teacher of fine-tuning, if there is one.
        controls: those of every job.
    """
    schedule = session.schedule.as_record() if session.schedule else None
    cells = []
    for job in jobs:
        pruner, folder = pruners[job.method], out / folder_name(session, pruners[job.method], job)
        done = partial(_is_done, session, pruner, folder, finetune, job.seed, distillation, controls)
        work = partial(_work, session, pruner, job, folder, finetune, distillation, controls)
        settings = settings_of(asdict(pruner), session.settings, schedule, None)
        is_timed = job.goal.is_timed or session.options.objective == "latency"
        cells.append(Cell(job, folder, settings, done, work, finetune is not None or bool(controls), is_timed))
    return cells


def chosen(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells that fit one of some patterns; all where there are none.

    Raises:
        UsageError: a pattern that no cell fits.
    """
    for pattern in patterns:
        if not any(fits(cell.name, pattern) for cell in cells):
            raise UsageError(f"no cell fits --only '{pattern}'; there are {_some(cells)}")
    return [cell for cell in cells if is_chosen(cell.name, patterns)]


def _some(cells: Sequence[Cell]) -> str:
    names = [cell.name for cell in cells]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def folder_name(session: Session, pruner: Method, job: Job) -> str:
    """Readable, and different for every difference that changes what is pruned."""
    baseline = session.baseline
    is_timed = job.goal.is_timed or session.options.objective == "latency"
    where = {"device": [device_name(baseline.device), torch.get_num_threads()]} if is_timed else {}
    if is_timed and baseline.mode != PLAIN_MODE:
        where["mode"] = baseline.mode
    content = plain(
        {
            **where,
            "job": job,
            "options": asdict(pruner),
            **pruner.identity,
            **session.identity,
            **session.method_training(pruner),
            "baseline": baseline.digest,
            "data": [baseline.data.name, baseline.data.input_size, baseline.split],
            "scoring": baseline.scoring,
        }
    )
    return f"{job.method}_{job.goal.tag}_s{job.seed}_{digest(content)[:8]}"


def _work(
    session: Session,
    pruner: Method,
    job: Job,
    folder: Path,
    finetune: TrainOptions | None,
    distillation: Distillation | None,
    controls: Sequence[Control],
) -> None:
    if not is_done(folder, PRUNED, INFO, REPORT):
        prune_model(session, pruner, job.goal, job.seed, folder)
    elif not session.files_for(pruner).fits(_data_of(folder), f"{folder.name} was pruned"):
        # What came of other images goes.
        for name in _TRAINED:
            (folder / name).unlink(missing_ok=True)
        prune_model(session, pruner, job.goal, job.seed, folder)
    if finetune is not None:
        finetune_model(session.baseline, folder, finetune, job.seed, distillation)
    for control in controls:
        train_control(session.baseline, folder, control, job.seed)
    draw_worst_images(session.baseline, folder)


def _is_done(
    session: Session,
    pruner: Method,
    folder: Path,
    finetune: TrainOptions | None,
    seed: int,
    distillation: Distillation | None,
    controls: Sequence[Control],
) -> bool:
    if not is_done(folder, PRUNED, INFO, REPORT) or session.files_for(pruner).changed_since(_data_of(folder)):
        return False
    if finetune is not None and kept_finetuning(session.baseline, folder, finetune, seed, distillation) is None:
        return False
    return all(kept_control(session.baseline, folder, control, seed) is not None for control in controls)


def _data_of(folder: Path) -> Fingerprints | None:
    return read_json(folder / REPORT).get("data")
