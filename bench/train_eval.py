"""Training a segmentation network with validation, by one function for fresh, pruned and sparse networks alike.

`fit` trains. `evaluate`, which scores a network, and `recalibrate`, which re-estimates its BatchNorm statistics, can
be had from here, too; they live in `bench.measure.evaluation` and `bench.recover.recalibration`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.datasets.base import Classes
from bench.errors import BenchError, Diverged, MachineError
from bench.measure.evaluation import evaluate
from bench.models.checkpoint import SavedModel
from bench.recover.recalibration import recalibrate
from bench.system import processes
from bench.system.console import progress, say
from bench.system.devices import release_memory, seed_everything
from bench.system.failures import is_out_of_memory, memory_of
from bench.system.files import make_folder
from bench.system.provenance import provenance
from bench.system.run_folder import BEST
from bench.system.signals import sigterm_as_interrupt
from bench.torch_utils.batches import moved, to_device
from bench.torch_utils.finite import has_finite_weights
from bench.training.distillation import Distillation
from bench.training.options import TrainOptions
from bench.training.shared_training import shared_out
from bench.training.state import EpochRow, run_identity
from bench.training.step import Knobs, TrainingLoss, check_precision, mixed_seed, new_state, take_step

if TYPE_CHECKING:
    from bench.data import SegmentationData

__all__ = ["FitResult", "evaluate", "fit", "recalibrate"]

# Steps between two looks at the loss; each look makes the host wait for the device.
_CHECK_EVERY = 10


@dataclass(frozen=True)
class FitResult:
    """A finished training run.

    Attributes:
        best_miou: highest validation mIoU, 0..1.
        best_epoch: the epoch it was reached in, from 1.
        epochs: epochs trained.
        best: file of the network that reached it.
        history: one row an epoch, as in `metrics.csv`.
        extended: the numbers of epochs that the run had been for before it was extended.
    """

    best_miou: float
    best_epoch: int
    epochs: int
    best: Path
    history: list[EpochRow]
    extended: list[int] = field(default_factory=list)


def fit(
    saved: SavedModel,
    data: SegmentationData,
    options: TrainOptions,
    seed: int,
    folder: Path,
    *,
    distillation: Distillation | None = None,
    resume: bool = False,
    device: torch.device,
    label: str = "train",
    knobs: Knobs = Knobs(),  # noqa: B008 - frozen
    patience: int | None = None,
    around: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> FitResult:
    """Trains a network, dense or pruned, and keeps `best.pt`, `last.pt` and `metrics.csv` in a folder.

    The zeros of sparse tensors (`bench.torch_utils.sparse_weights`) stay. The same seed gives the same weights on CPU,
    also when the run is killed at any moment and resumed.

        saved = SavedModel(build_model(spec), spec)
        result = fit(saved, data, TrainOptions(epochs=50), 0, Path("runs/unet"), device=torch.device("cpu"))
        best = load_model(result.best)

    Args:
        saved: the network and what is known of it; moved to the device and trained in place, left in
            evaluation mode with the weights of the last epoch.
        data: training and validation images.
        options: the recipe.
        seed: seed of what is drawn in training, as by dropout; the order of the images has that of the data.
        folder: where the files go; those of an earlier run there are replaced.
        distillation: the teacher to follow beside the labels, if there is one.
        resume: go on after the last finished epoch of the run in the folder. A finished run may be given more epochs:
            the learning rate of those that follow is that of the longer run, which is not what the longer run alone
            would have given.
        device: where to run; under torchrun what `processes.joined` gave, or that of this process within
            `processes.led`, where the others take part.
        label: what the progress bar says.
        knobs: what the options are called in messages, where they are not those of train.py.
        patience: epochs without a better validation score that end the training; None: it takes all.
        around: makes of the network that learns the one that images go through, where it is a part of that, and the
            rest of it stays as it is.

    Raises:
        UsageError: fp16 on CPU.
        BenchError: a split without labels; the loss is no longer finite; resuming with other options, on images or
            labels that changed, or without `last.pt`.
        KeyboardInterrupt: Ctrl-C or SIGTERM; `last.pt` holds the last finished epoch.
    """
    check_precision(options, device)
    make_folder(folder)
    with (
        sigterm_as_interrupt(),
        shared_out(saved, data, options, seed, folder, distillation, resume=resume, label=label),
    ):
        trainer = _Trainer(saved, data, options, seed, folder, distillation, device, label, knobs, around)
        trainer.start(resume)
        while not trainer.state.is_over(options.epochs, patience):
            trainer.one_epoch()
        trainer.close()
    state = trainer.state
    return FitResult(state.best_miou, state.best_epoch, state.epoch, folder / BEST, state.history, state.extended)


class _Trainer:
    """One run of `fit`: the state that is saved, and what is set up anew in every process."""

    def __init__(
        self,
        saved: SavedModel,
        data: SegmentationData,
        options: TrainOptions,
        seed: int,
        folder: Path,
        distillation: Distillation | None,
        device: torch.device,
        label: str,
        knobs: Knobs,
        around: Callable[[nn.Module], nn.Module],
    ):
        self.knobs, self.around = knobs, around
        self.options, self.seed, self.folder, self.device, self.label = options, seed, folder, device, label
        self.world = processes.world()
        self.classes: Classes = data.classes
        data.check_labelled("train", "val")
        shard = {"rank": self.world.rank, "world": self.world.size}
        images = options.batch_size * (1 if self.world.shares_batches else self.world.size)
        self.train_loader = data.train_loader(images, crop_size=options.crop_size, **shard)
        self.val_loader = data.eval_loader("val", **shard)
        self.steps_per_epoch = math.ceil(len(self.train_loader) / options.accumulate)
        # What fits into memory may be less than was asked for.
        self.batch_size, self.accumulate, self.data = options.batch_size, options.accumulate, data
        self.loss = TrainingLoss(data, options, device, distillation, knobs)
        taught = distillation.as_record() if distillation else {}

        self.network = around(saved.model)
        to_device(self.network, device, options.channels_last)
        self.wrapped = processes.wrapped(self.network, device)
        # Who shares batches does the same in any number.
        identity = run_identity(saved, data, options, seed, 1 if self.world.shares_batches else self.world.size, taught)
        self.state = new_state(saved, options, device, identity, data.files("train", "val"))
        self.meta = {
            **data.record,
            "crop_size": options.crop_size or data.crop_size,
            "options": {**asdict(options), **taught, "seed": seed},
            "provenance": provenance(),
        }
        self.board = _tensorboard(folder) if options.tensorboard and self.world.is_first else None

    def start(self, resume: bool) -> None:
        """Restores the run in the folder, or makes sure from the first moment that there is one to resume."""
        if resume:
            self.state.restore(self.folder)
            if self.world.is_first:
                self.state.write_history(self.folder)
        elif self.world.is_first:
            (self.folder / BEST).unlink(missing_ok=True)
            self.state.save_last(self.folder, {**self.meta, "epoch": 0})

    def one_epoch(self) -> None:
        """Trains one epoch, validates where that is due, and saves."""
        state, began = self.state, time.perf_counter()
        loss, images = self._train_within_memory()
        trained = time.perf_counter() - began
        processes.average_buffers(state.saved.model)
        if state.ema:
            state.ema.copy_buffers(state.saved.model)
        self._check_weights()
        state.epoch += 1
        row: EpochRow = {
            "epoch": state.epoch,
            "lr": state.optimizer.param_groups[0]["lr"],
            "train_loss": loss,
            "images_per_second": images / trained,
        }
        if self.batch_size < self.options.batch_size:
            row["batch_size"] = self.batch_size
        improved = self._validate(row) if self._validation_is_due() else False
        row["seconds"] = time.perf_counter() - began
        state.history.append(row)
        self._save(row, improved)
        self._report(row)

    def _train_within_memory(self) -> tuple[float, int]:
        """`_train`, where memory runs out with half the batch and twice the batches a step, from the last epoch on."""
        while True:
            try:
                with memory_of("training", self.knobs.for_memory):
                    return self._train()
            except MachineError as error:
                # Processes that train together would wait for the one that begins anew.
                if not is_out_of_memory(error.__cause__) or self.batch_size == 1 or self.world.size > 1:
                    raise
                reason = str(error).partition(";")[0]
            self.batch_size, self.accumulate = self.batch_size // 2, 2 * self.accumulate
            say(
                f"{reason}: going on after epoch {self.state.epoch} with batches of {self.batch_size}, "
                f"{self.accumulate} a step; norms see fewer images at once"
            )
            self.state.optimizer.zero_grad(set_to_none=True)
            release_memory()
            self.state.restore(self.folder)
            self.train_loader = self.data.train_loader(self.batch_size, crop_size=self.options.crop_size)

    def _train(self) -> tuple[float, int]:
        """One pass over the images; returns the mean loss and the number of images of all processes."""
        network, accumulate = self.network, self.accumulate
        # Smaller batches may leave over fewer of the images.
        epoch, batches = self.state.epoch, min(len(self.train_loader), self.steps_per_epoch * accumulate)
        self.train_loader.set_epoch(epoch)
        self.loss.begin_epoch(epoch)
        # A network that was scored by its gradients still carries them.
        self.state.optimizer.zero_grad(set_to_none=True)
        network.train()
        total, images_seen = torch.zeros((), device=self.device), 0
        loader = self.train_loader
        taken = loader if batches == len(loader) else itertools.islice(loader, batches)
        bar = progress(taken, f"{self.label} {epoch + 1}/{self.options.epochs}", total=batches)
        for number, (images, labels) in enumerate(bar):
            if number == 0:
                # Not earlier: what the loader draws when it starts depends on whether its workers exist already.
                seed_everything(mixed_seed(self.seed, epoch, self.world.rank))
            group_start = number - number % accumulate
            is_step = number + 1 == min(group_start + accumulate, batches)
            group_size = min(accumulate, batches - group_start)
            images, labels = moved(images, labels, self.device, self.options.channels_last)
            # The processes exchange gradients only where a step follows.
            waits = network is not self.wrapped and not is_step
            with self.wrapped.no_sync() if waits else contextlib.nullcontext():
                loss = self.loss(self.wrapped, images, labels)
                self.state.scaler.scale(loss / group_size).backward()
            total += loss.detach()
            images_seen += len(images)
            if is_step:
                step = epoch * self.steps_per_epoch + number // accumulate
                take_step(self.state, self.options, step, self.options.epochs * self.steps_per_epoch)
            if (number + 1) % _CHECK_EVERY == 0:
                bar.set_postfix(loss=f"{self._checked_mean(total, number + 1):.3f}", refresh=False)
        seen = processes.sum_over_processes(torch.tensor(images_seen, device=self.device))
        return self._checked_mean(total, batches), int(seen)

    def _checked_mean(self, total: Tensor, batches: int) -> float:
        # A copy, because the running total of this process must not take in the others'.
        mean = processes.sum_over_processes(total.clone()).item() / (batches * self.world.size)
        if not math.isfinite(mean):
            self._stop(f"the loss is {mean} in epoch {self.state.epoch + 1} by iteration {batches}")
        return mean

    def _check_weights(self) -> None:
        if not has_finite_weights(self.state.saved.model):
            self._stop(f"a weight is not finite after epoch {self.state.epoch + 1}")

    def _stop(self, what: str) -> None:
        rate = self.state.optimizer.param_groups[0]["lr"]
        raise Diverged(
            f"{what} (learning rate {rate:.3g}); try a lower {self.knobs.lr}, `grad_clip=1` or `amp=none`; "
            f"{self.folder} keeps the files of epoch {self.state.epoch}"
        )

    def _validation_is_due(self) -> bool:
        return self.state.epoch % self.options.eval_every == 0 or self.state.epoch == self.options.epochs

    def _validate(self, row: EpochRow) -> bool:
        state = self.state
        quality = evaluate(
            self.around(state.scored),
            self.val_loader,
            self.classes,
            device=self.device,
            amp=self.options.amp,
            channels_last=self.options.channels_last,
            label="validation",
        )
        row |= {"val_miou": quality.miou, "val_pixel_accuracy": quality.pixel_accuracy}
        improved = state.best_epoch == 0 or quality.miou > state.best_miou
        if improved:
            state.best_miou, state.best_epoch = quality.miou, state.epoch
        return improved

    def _save(self, row: EpochRow, improved: bool) -> None:
        if not self.world.is_first:
            return
        meta = {**self.meta, "epoch": self.state.epoch, "val_miou": row.get("val_miou")}
        if self.state.extended:
            meta["extended"] = self.state.extended
        # best.pt first: killed between the two, the run does this epoch again and writes the same best.pt.
        if improved:
            self.state.save_best(self.folder, meta)
        self.state.save_last(self.folder, meta)

    def _report(self, row: EpochRow) -> None:
        state = self.state
        text = f"{self.label} {state.epoch}/{self.options.epochs}: loss {row['train_loss']:.4f}"
        if "val_miou" in row:
            text += f", val mIoU {row['val_miou']:.2%} (best {state.best_miou:.2%} in epoch {state.best_epoch})"
        say(f"{text}, {row['seconds']:.1f} s")
        if self.board:
            for name, value in row.items():
                if name != "epoch":
                    self.board.add_scalar(name, value, state.epoch)

    def close(self) -> None:
        """Leaves once every process sees the files."""
        processes.unwrapped(self.network)
        self.state.saved.model.eval()
        if self.board:
            self.board.close()
        processes.barrier()


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BenchError("TensorBoard is not installed; pip install tensorboard or leave out `tensorboard`") from error
    return SummaryWriter(str(folder / "tensorboard"))
