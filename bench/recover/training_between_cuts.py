"""Training a few steps at a time while the network is cut in between: one optimizer, one run of the learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from bench.channels.groups import ChannelGroup
from bench.cut.network import cut
from bench.errors import BenchError
from bench.models.checkpoint import SavedModel
from bench.plan.pruning_plan import PruningPlan
from bench.system.console import progress
from bench.system.devices import seed_everything
from bench.system.failures import memory_of
from bench.torch_utils.batches import Batch, moved, to_device
from bench.torch_utils.finite import has_finite_weights
from bench.training.distillation import Distillation
from bench.training.options import TrainOptions
from bench.training.step import Knobs, TrainingLoss, check_precision, mixed_seed, new_state, take_step

if TYPE_CHECKING:
    from bench.data import SegmentationData


class TrainingBetweenCuts:
    """A network that is trained and cut by turns; momenta and a moving average of the weights are cut along.

    The same seed gives the same weights on CPU.

    Attributes:
        steps_done: optimizer steps so far.
    """

    def __init__(
        self,
        saved: SavedModel,
        data: SegmentationData,
        options: TrainOptions,
        steps: int,
        seed: int,
        device: torch.device,
        distillation: Distillation | None = None,
    ):
        """Sets up the run; no image is read before the first step.

        Args:
            saved: the network, trained and cut in place, left in evaluation mode.
            data: training images in the order of a seed.
            options: the recipe, but for its number of epochs.
            steps: steps of the whole run, on which the learning rates depend.
            seed: seed of dropout.
            device: where to run; the network is moved there.
            distillation: the teacher to follow beside the labels, if there is one; it is not cut.

        Raises:
            UsageError: fp16 on CPU.
        """
        check_precision(options, device)
        self._data, self._options, self._steps, self._seed, self._device = data, options, steps, seed, device
        to_device(saved.model, device, options.channels_last)
        self._distillation = distillation
        self._state = new_state(saved, options, device, {}, data.files())
        for model in self.networks:
            # The averaged one too, because a method may score it by its gradients.
            model.requires_grad_(True)
        self._batches = self._endless()
        self._loss: TrainingLoss | None = None
        self.steps_done = 0

    @property
    def networks(self) -> list[nn.Module]:
        """The network in training and, where one is kept, the averaged one."""
        return [self._state.saved.model, *([self._state.ema.model] if self._state.ema else [])]

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, with the momenta of the network in training."""
        return self._state.optimizer

    @property
    def result(self) -> nn.Module:
        """The network that is scored and kept: the averaged one where there is one."""
        return self._state.scored

    def cut(self, groups: Sequence[ChannelGroup], plan: PruningPlan) -> None:
        """Cuts the network, the optimizer's state and the averaged network by one plan."""
        live, *averaged = self.networks
        cut(live, groups, plan, self._state.optimizer)
        for model in averaged:
            cut(model, groups, plan)
        self._state.note_zeros()

    def train(self, steps: int) -> float:
        """Trains some steps; returns their mean loss.

        Raises:
            BenchError: loss or weights are no longer finite.
        """
        model = self._state.saved.model
        self._loss = self._loss or TrainingLoss(self._data, self._options, self._device, self._distillation)
        self._state.optimizer.zero_grad(set_to_none=True)
        model.train()
        total = torch.zeros((), device=self._device)
        for _ in progress(range(steps), "training between cuts"):
            with memory_of("training between cuts", Knobs().for_memory):
                total += self._step(model)
            self.steps_done += 1
        model.eval()
        if self._state.ema:
            self._state.ema.copy_buffers(model)
        self._check(total)
        return total.item() / steps

    def _step(self, model: nn.Module) -> torch.Tensor:
        batches = [next(self._batches) for _ in range(self._options.accumulate)]
        # Each step by itself, so that nothing done between two cuts changes what dropout draws.
        seed_everything(mixed_seed(self._seed, self.steps_done))
        total = torch.zeros((), device=self._device)
        for batch in batches:
            images, labels = moved(*batch, self._device, self._options.channels_last)
            loss = self._loss(model, images, labels) / self._options.accumulate
            self._state.scaler.scale(loss).backward()
            total += loss.detach()
        take_step(self._state, self._options, self.steps_done, self._steps)
        return total

    def _endless(self) -> Iterator[Batch]:
        loader = self._data.train_loader(self._options.batch_size, crop_size=self._options.crop_size)
        epoch = 0
        while True:
            loader.set_epoch(epoch)
            yield from loader
            epoch += 1

    def _check(self, total: torch.Tensor) -> None:
        if not (total.isfinite() and has_finite_weights(self._state.saved.model)):
            raise BenchError(
                f"the training between cuts diverged within {self.steps_done} steps; "
                "try a lower `finetune_lr`, `grad_clip=1` or `amp=none`"
            )
