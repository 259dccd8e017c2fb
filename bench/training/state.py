"""The state of a training run: all that it needs to go on after it was killed, and the files that hold it.

`last.pt` holds everything as of the last finished epoch; `best.pt` the network that scored best on the
validation split; `metrics.csv` one row an epoch. Random numbers are not stored: every epoch seeds its
generators from (seed, epoch, rank), so an epoch done again draws the same ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from bench.config.declare import identity_of
from bench.datasets.fingerprint import DataFiles
from bench.errors import BenchError, DamagedFile
from bench.models.checkpoint import SavedModel, read_meta, read_stored, save_model, stored_tensors
from bench.models.state_dict_file import fitting_tensors
from bench.system.files import plain, write_csv
from bench.system.kept_files import read_kept
from bench.system.run_folder import BEST, LAST, METRICS
from bench.torch_utils.sparse_weights import SPARSE, FixedZeros
from bench.training.optimizer import Ema
from bench.training.options import TrainOptions

# What else than a flag of its own name sets a part of the identity.
_FLAGS = {"nproc_per_node": "torchrun --nproc_per_node", "teacher": "`baseline`"}


class EpochRow(TypedDict, total=False):
    """One epoch of a training, a line of `metrics.csv`; without `val_...` where it was not validated, with `batch_size`
    only where memory ran out and fewer images went through at once than were asked for."""

    epoch: int
    lr: float
    train_loss: float
    val_miou: float
    val_pixel_accuracy: float
    seconds: float
    images_per_second: float
    batch_size: int


COLUMNS = tuple(EpochRow.__annotations__)


def run_identity(
    saved: SavedModel,
    data: Any,
    options: TrainOptions,
    seed: int,
    processes: int,
    taught: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All that decides the numbers of a run but its first weights, by flag name.

    Two runs with the same identity may be joined by resuming. The number of epochs belongs to it: the
    learning rate of every step depends on the length of the run.

    Args:
        saved: the network.
        data: the images.
        options: the recipe.
        seed: seed of the training and of its images.
        processes: how many train together.
        taught: the record of a distillation, if a teacher takes part.
    """
    identity = {name: value for name, value in identity_of(options).items() if name != "tensorboard"}
    identity |= {
        "model": saved.spec,
        "dataset": data.name,
        "input_size": data.input_size,
        "crop_size": options.crop_size or data.crop_size,
        "seed": seed,
        "nproc_per_node": processes,
        **data.identity,
        **(taught or {}),
    }
    return plain(identity)


def finished_epochs(folder: Path) -> int | None:
    """How many epochs the run in a folder has finished; None where there is no run.

    A file that does not say counts as one, so that it is not lost.

    Raises:
        BenchError: its `last.pt` is damaged.
    """
    path = folder / LAST
    if not path.is_file():
        return None
    with _damage_explained(folder):
        return read_meta(path).get("epoch", 1)


@contextlib.contextmanager
def _damage_explained(folder: Path) -> Iterator[None]:
    """Says of a damaged `last.pt` what there is to go on with."""
    try:
        yield
    except DamagedFile as error:
        best = folder / BEST
        other = f", `ckpt={best}` and another `save` go on from the best network" if best.is_file() else ""
        raise DamagedFile(
            f"{folder / LAST} is damaged, so there is no run to resume; `overwrite` starts anew{other}", folder / LAST
        ) from error


def check_same_run(
    folder: Path, found: Mapping[str, Any], saved: SavedModel, identity: dict[str, Any], files: DataFiles
) -> None:
    """Refuses to go on with a run under other options, but for more epochs than a finished one had, or on other images.

    Args:
        folder: of the run.
        found: what its `last.pt` holds.
        saved: the network that is to be trained.
        identity: of the training that is asked for.
        files: the images and labels it is to see.

    Raises:
        BenchError: names the first option that differs, and its old value, or the splits that changed.
    """
    if not found.get("state"):
        raise BenchError(f"{folder / LAST} holds no training state; start a new run with `ckpt={folder / LAST}`")
    before, done = found["state"]["identity"], found["state"]["epoch"]
    for name in {**identity, **before}:
        now, then = identity.get(name), before.get(name)
        if name == "epochs" and done == then < now:
            continue
        if name == "epochs" and now != then:
            can_be_more = (
                "a finished run can be extended, this one has" if done < then else "it can only be more, it has"
            )
            raise BenchError(
                f"cannot resume {folder}: `epochs` is {now}, the run was started with {then}; {can_be_more} finished "
                f"{done}: repeat `epochs={then}`, or start a new run in another folder with `ckpt={folder / LAST}`"
            )
        if now != then:
            flag = _FLAGS.get(name, f"`{name}`")
            raise BenchError(
                f"cannot resume {folder}: {flag} is {shown(now)}, the run was started with {shown(then)}; "
                "repeat that value or start a new run in another folder"
            )
    if plain(found["channels"]) != plain(saved.channels):
        raise BenchError(f"cannot resume {folder}: its network was pruned differently; repeat the `ckpt` it began with")
    changed = files.changed_since(found["state"].get("data"))
    if changed:
        raise BenchError(
            f"cannot resume {folder}: images or labels of {' and '.join(changed)} changed since the run was started; "
            f"train on from its weights with `ckpt={folder / LAST}` and another `save`, or start anew with `overwrite`"
        )


def drop_outdated_run(folder: Path, files: DataFiles) -> None:
    """Removes the state of an unfinished run that began on images or labels that have changed since."""
    last = folder / LAST
    if not last.is_file():
        return
    began_on = read_stored(last).get("state", {}).get("data")
    if not files.fits(began_on, f"the training in {folder} began"):
        last.unlink()


def shown(value: Any) -> str:
    """A value as it is written behind its flag."""
    if value is None:  # no part of the other run
        return "not given"
    if isinstance(value, dict):  # a ModelSpec
        return f"{value['name']} {value['kwargs'] or ''}".rstrip()
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return str(value)


def can_resume(folder: Path) -> bool:
    """Whether a folder holds a run to go on with unasked; a damaged one is begun anew, with a line about it."""
    return read_kept(folder / LAST, read_stored) is not None


@dataclass
class TrainingState:
    """A run between two epochs.

    Attributes:
        saved: the network in training, and its record.
        optimizer: with its momentum.
        scaler: of fp16 gradients; disabled otherwise.
        ema: the averaged network, if one is kept.
        identity: see `run_identity`.
        files: the images and labels.
        epoch: finished epochs.
        best_miou: highest validation mIoU so far.
        best_epoch: the epoch it was reached in, from 1; 0 before the first validation.
        history: one row an epoch.
        extended: where the run was extended, the numbers of epochs it had been for before.
        zeros: those of the network's sparse tensors, which stay.
    """

    saved: SavedModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None
    identity: dict[str, Any]
    files: DataFiles
    epoch: int = 0
    best_miou: float = 0.0
    best_epoch: int = 0
    history: list[EpochRow] = field(default_factory=list)
    extended: list[int] = field(default_factory=list)
    zeros: FixedZeros = field(init=False)

    def __post_init__(self) -> None:
        self.note_zeros()

    def note_zeros(self) -> None:
        """Notes where the network's sparse tensors are zero; to be called again when it was cut."""
        self.zeros = FixedZeros(self.saved.model, self.saved.meta.get(SPARSE, ()))

    def is_over(self, epochs: int, patience: int | None) -> bool:
        """Whether all epochs are done, or the last `patience` of them were no better than one before."""
        has_waited = patience is not None and self.best_epoch > 0 and self.epoch - self.best_epoch >= patience
        return self.epoch >= epochs or has_waited

    @property
    def scored(self) -> nn.Module:
        """The network that is validated and saved: the averaged one where there is one."""
        return self.ema.model if self.ema else self.saved.model

    def restore(self, folder: Path) -> None:
        """Goes back to the last finished epoch of the run in a folder.

        Raises:
            BenchError: no or a damaged `last.pt`, or one of a run with other options or on other images.
        """
        with _damage_explained(folder):
            found = read_stored(folder / LAST)
        check_same_run(folder, found, self.saved, self.identity, self.files)
        where = f"{folder / LAST} does not fit {self.saved.spec.name}"
        state, scored = found["state"], fitting_tensors(found["state_dict"], self.scored.state_dict(), where=where)
        self.saved.model.load_state_dict(state["live"] if self.ema else scored)
        if self.ema:
            self.ema.model.load_state_dict(scored)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.best_miou, self.best_epoch = state["epoch"], state["best_miou"], state["best_epoch"]
        self.history = state["history"]
        before = state["identity"]["epochs"]
        self.extended = [*state.get("extended", []), *([before] if before != self.identity["epochs"] else [])]

    def save_best(self, folder: Path, meta: dict[str, Any]) -> None:
        """Writes the scored network alone."""
        self._save(folder / BEST, meta, {})

    def save_last(self, folder: Path, meta: dict[str, Any]) -> None:
        """Writes everything `restore` needs, then the table of epochs that belongs to it."""
        state = {
            "identity": self.identity,
            "data": self.files.record(),
            "epoch": self.epoch,
            "best_miou": self.best_miou,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        if self.extended:
            state["extended"] = self.extended
        if self.ema:
            state["live"] = stored_tensors(self.saved.model)
        self._save(folder / LAST, meta, state)
        self.write_history(folder)

    def _save(self, path: Path, meta: dict[str, Any], state: dict[str, Any]) -> None:
        meta = {**self.saved.meta, **meta}
        save_model(path, SavedModel(self.scored, self.saved.spec, self.saved.channels, meta, state))

    def write_history(self, folder: Path) -> None:
        """Writes the whole table: never a row twice or a row lost, wherever the run was killed."""
        write_csv(folder / METRICS, COLUMNS, self.history)
