"""Training a fusion head on the features of frozen specialists, until its validation score no longer rises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.config.declare import identity_of
from bench.data import SegmentationData
from bench.errors import BenchError
from bench.measure.evaluation import evaluate
from bench.models import ModelSpec
from bench.models.checkpoint import SavedModel
from bench.specialists.fusion import Fused, FusionHead, HeadSpec, read_head, save_head
from bench.specialists.opened import Specialist
from bench.system.console import progress, say
from bench.system.devices import seed_everything
from bench.system.failures import memory_of
from bench.system.files import plain
from bench.system.kept_files import read_kept
from bench.system.provenance import provenance
from bench.system.signals import sigterm_as_interrupt
from bench.torch_utils.batches import moved
from bench.torch_utils.finite import has_finite_weights
from bench.training.options import TrainOptions
from bench.training.step import TrainingLoss, check_precision, mixed_seed, new_state, take_step

LAST_HEAD, BEST_HEAD = "fusion_last.pt", "fusion_best.pt"


@dataclass
class FusionRun:
    """How far a training is.

    Attributes:
        history: a row an epoch: `epoch`, `train_loss`, `val_miou`.
        best_epoch: the epoch of the best validation score, from 1; 0 before the first.
        best_miou: that score.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_miou: float = 0.0

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.history)

    def is_over(self, options: TrainOptions, patience: int) -> bool:
        """Whether all epochs are done, or the last `patience` of them were no better than one before."""
        return self.epoch >= options.epochs or (self.best_epoch > 0 and self.epoch - self.best_epoch >= patience)


def train_head(
    specialists: Sequence[Specialist],
    spec: HeadSpec,
    data: SegmentationData,
    options: TrainOptions,
    patience: int,
    seed: int,
    folder: Path,
    device: torch.device,
) -> FusionRun:
    """Trains a head; the best one is in `fusion_best.pt` when it returns.

    The same seed gives the same weights on CPU, also when the run is killed at any moment and started again.

    Args:
        specialists: frozen, on the device.
        spec: of the head.
        data: training and validation images with labels of all classes.
        options: the recipe; `epochs` is the most there are, and the length of the learning-rate schedule.
        patience: epochs without a better validation score that end the training.
        seed: of the head's first weights; the order of the images has that of the data.
        folder: for the files of the run.
        device: where to train.

    Raises:
        BenchError: the loss is no longer finite.
        KeyboardInterrupt: Ctrl-C or SIGTERM; `fusion_last.pt` holds the last finished epoch.
    """
    check_precision(options, device)
    data.check_labelled("train", "val")
    seed_everything(seed)
    head = FusionHead(spec).to(device)
    fused = Fused([specialist.features for specialist in specialists], head).to(device)
    training = _Training(specialists, fused, spec, data, options, patience, seed, folder, device)
    with sigterm_as_interrupt():
        training.restore()
        while not training.run.is_over(options, patience):
            training.one_epoch()
    return training.run


class _Training:
    def __init__(
        self,
        specialists: Sequence[Specialist],
        fused: Fused,
        spec: HeadSpec,
        data: SegmentationData,
        options: TrainOptions,
        patience: int,
        seed: int,
        folder: Path,
        device: torch.device,
    ):
        self.fused, self.spec, self.seed = fused, spec, seed
        self.options, self.folder, self.device = options, folder, device
        self.records = [plain(specialist.as_record()) for specialist in specialists]
        self.data, self.files, self.run = data, data.files("train", "val"), FusionRun()
        self.loader = data.train_loader(options.batch_size, crop_size=options.crop_size)
        self.val_loader = data.eval_loader("val")
        self.loss = TrainingLoss(data, options, device, None)
        self.identity = plain(
            {
                **identity_of(options),
                "patience": patience,
                "seed": seed,
                "head": asdict(spec),
                "specialists": self.records,
            }
        )
        saved = SavedModel(fused.head, ModelSpec("fusion_head", spec.outputs))
        self.state = new_state(saved, options, device, self.identity, self.files)

    def restore(self) -> None:
        """Goes on after the last finished epoch of the run in the folder, if it is one of this recipe and data."""
        kept = read_kept(self.folder / LAST_HEAD, read_head)
        if kept is None or kept.get("state", {}).get("identity") != self.identity:
            return
        state = kept["state"]
        if not self.files.fits(state["data"], "the training of the head began"):
            return
        self.state.saved.model.load_state_dict(kept["state_dict"])
        self.state.optimizer.load_state_dict(state["optimizer"])
        self.state.scaler.load_state_dict(state["scaler"])
        self.run = FusionRun(state["history"], state["best_epoch"], state["best_miou"])
        say(f"going on with the training of the head after epoch {self.run.epoch}")

    def one_epoch(self) -> None:
        """Trains, validates, saves."""
        run, options, head = self.run, self.options, self.fused.head
        with memory_of("training", "use a smaller `batch_size` or `crop_size`"):
            loss = self._train()
        if not (math.isfinite(loss) and has_finite_weights(head)):
            raise BenchError(
                f"the loss of the head is {loss} in epoch {run.epoch + 1}; try a lower `lr` or `grad_clip=1`"
            )
        quality = evaluate(
            self.fused, self.val_loader, self.data.classes, device=self.device, amp=options.amp, label="validation"
        )
        run.history.append({"epoch": run.epoch + 1, "train_loss": loss, "val_miou": quality.miou})
        improved = run.best_epoch == 0 or quality.miou > run.best_miou
        if improved:
            run.best_miou, run.best_epoch = quality.miou, run.epoch
        meta = {"epoch": run.epoch, "val_miou": quality.miou, "provenance": provenance()}
        # The best first: killed between the two, this epoch is done again and writes the same.
        if improved:
            save_head(self.folder / BEST_HEAD, head, self.spec, self.records, meta)
        state = {
            "identity": self.identity,
            "data": self.files.record(),
            "history": run.history,
            "best_epoch": run.best_epoch,
            "best_miou": run.best_miou,
            "optimizer": self.state.optimizer.state_dict(),
            "scaler": self.state.scaler.state_dict(),
        }
        save_head(self.folder / LAST_HEAD, head, self.spec, self.records, meta, **state)
        say(
            f"fusion head {run.epoch}/{options.epochs}: loss {loss:.4f}, val mIoU {quality.miou:.2%} "
            f"(best {run.best_miou:.2%} in epoch {run.best_epoch})"
        )

    def _train(self) -> float:
        """One pass over the images; the mean loss."""
        epoch, options, batches = self.run.epoch, self.options, len(self.loader)
        self.loader.set_epoch(epoch)
        self.fused.train()
        total = torch.zeros((), device=self.device)
        bar = progress(self.loader, f"fusion head {epoch + 1}/{options.epochs}", total=batches)
        for number, (images, labels) in enumerate(bar):
            if number == 0:
                seed_everything(mixed_seed(self.seed, epoch, 0))
            images, labels = moved(images, labels, self.device, channels_last=False)
            loss = self.loss(self.fused, images, labels)
            self.state.scaler.scale(loss).backward()
            total += loss.detach()
            take_step(self.state, options, epoch * batches + number, options.epochs * batches)
        return total.item() / batches
