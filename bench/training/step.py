"""One training step, wherever it is taken: the loss of a batch, and what an optimizer step changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.config.declare import require
from bench.datasets.fingerprint import DataFiles
from bench.models.checkpoint import SavedModel
from bench.torch_utils.batches import batchnorm_explained
from bench.torch_utils.contexts import autocast
from bench.training.distillation import Distillation
from bench.training.losses import segmentation_loss
from bench.training.optimizer import (
    Ema,
    build_optimizer,
    learning_rate,
    leave_backbone,
    penalise_scales,
    set_learning_rate,
)
from bench.training.options import TrainOptions
from bench.training.state import TrainingState

if TYPE_CHECKING:
    from bench.data import SegmentationData


@dataclass(frozen=True)
class Knobs:
    """What the options of a training are called where it was asked for, so that messages name what can be turned."""

    batch_size: str = "`batch_size`"
    lr: str = "`lr`"

    @property
    def for_memory(self) -> str:
        """What to do where the memory does not suffice."""
        return f"use a smaller {self.batch_size} or `crop_size`"


def check_precision(options: TrainOptions, device: torch.device) -> None:
    """Raises UsageError for fp16 on CPU."""
    require(
        options.amp != "fp16" or device.type == "cuda", "`amp=fp16` needs a CUDA device; use `amp=bf16` or `amp=none`"
    )


def new_state(
    saved: SavedModel, options: TrainOptions, device: torch.device, identity: dict[str, Any], files: DataFiles
) -> TrainingState:
    """What a run begins with.

    Args:
        saved: the network, on the device.
        options: the recipe.
        device: where it is trained.
        identity: see `bench.training.state.run_identity`.
        files: the images and labels.
    """
    return TrainingState(
        saved,
        build_optimizer(saved.model, options),
        torch.amp.GradScaler(device.type, enabled=options.amp == "fp16"),
        Ema(saved.model, options.ema) if options.ema else None,
        identity,
        files,
    )


class TrainingLoss:
    """The loss that a recipe trains with, by the labels and by a teacher where there is one."""

    def __init__(
        self,
        data: SegmentationData,
        options: TrainOptions,
        device: torch.device,
        distillation: Distillation | None,
        knobs: Knobs = Knobs(),
    ):
        self._knobs = knobs
        self._options, self._device, self._void = options, device, data.classes.ignore_index
        self._distillation = distillation
        # What the data set says of itself was written by hand, and needs no counting.
        weights = None if data.classes.weights is None else torch.tensor(data.classes.weights)
        if weights is None and options.compute_class_weights:
            weights = data.class_weights(options.class_weighting)
        self._class_weights = None if weights is None else weights.float().to(device)
        self._unweighted = False

    def begin_epoch(self, epoch: int) -> None:
        """Says which epoch of the recipe the batches are of, from 0; without it classes are weighed all the way."""
        self._unweighted = epoch >= self._options.epochs - self._options.unweighted_epochs

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch on the device, [], in the recipe's precision.

        Raises:
            BenchError: a BatchNorm sees a single value a channel.
        """
        with autocast(self._device, self._options.amp), batchnorm_explained(self._knobs.batch_size):
            output = network(images)
            wanted = self._distillation.logits(images) if self._distillation else None
        weights = None if self._unweighted else self._class_weights
        loss = segmentation_loss(output, labels, self._void, weight=weights, aux_weight=self._options.aux_weight)
        return loss + self._distillation.loss(output, wanted, labels, self._void) if self._distillation else loss


def take_step(state: TrainingState, options: TrainOptions, step: int, steps: int) -> None:
    """An optimizer step by the gradients that are there, at the rate of its place in the run.

    Args:
        state: the run.
        options: its recipe.
        step: number of the step, from 0.
        steps: steps of the whole run.
    """
    optimizer, scaler, model = state.optimizer, state.scaler, state.saved.model
    set_learning_rate(optimizer, learning_rate(options, step, steps))
    leave_backbone(model, options, step, steps)
    if options.grad_clip or options.sparsity_lambda:
        scaler.unscale_(optimizer)
    if options.grad_clip:
        nn.utils.clip_grad_norm_(model.parameters(), options.grad_clip)
    if options.sparsity_lambda:
        penalise_scales(model, options.sparsity_lambda)
    scaler.step(optimizer)
    scaler.update()
    state.zeros.restore()
    optimizer.zero_grad(set_to_none=True)
    if state.ema:
        state.ema.update(model, step)


def mixed_seed(*numbers: int) -> int:
    """One seed from several numbers, such as a run's seed and the number of an epoch."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
