"""DMCP's published training: a network that works at many widths, and in its second half the search for the widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.config.declare import require
from bench.errors import BenchError
from bench.pruners.base import Training
from bench.pruners.dmcp.gated import Gates, Widths
from bench.pruners.dmcp.search import GateOptimizer, cosine
from bench.recover.recalibration import recalibrate
from bench.system.console import progress, say
from bench.system.devices import seed_everything
from bench.system.failures import memory_of
from bench.torch_utils.batches import batchnorm_explained, moved, to_device
from bench.torch_utils.contexts import autocast
from bench.training.losses import main_logits, pixel_divergence, segmentation_loss

LAST_RATE = 0.16
"""The learning rate of the weights ends at this share of its start (published: from 0.5 to 0.08)."""

LAST_UNIFORM = 0.1
"""Share of the random networks that are still drawn uniformly, not from the gates, when the search ends."""

CALIBRATION_BATCHES = 5


@dataclass(frozen=True)
class SandwichRecipe:
    """How long and how fast.

    Attributes:
        epochs: passes over the training images; in the second half of the steps the widths are learned too.
        batch_size: images a step.
        lr: initial learning rate of the weights.
        budget_weight: weight of the budget's loss.
    """

    epochs: int
    batch_size: int
    lr: float
    budget_weight: float


def train_slimmable(model: nn.Module, training: Training, widths: Widths, recipe: SandwichRecipe) -> dict[str, Any]:
    """Trains weights and widths in place; returns what it cost.

    Every step sums the gradients of four networks: the widest by its cross-entropy, the narrowest and two random
    ones by how far their predictions are from the widest one's.

    Args:
        model: the network; left in evaluation mode with statistics of its full width.
        training: data, groups, seed and budget.
        widths: order and logits; the logits are learned.
        recipe: length and rates.
    """
    loader = training.data.train_loader(recipe.batch_size, crop_size=training.recipe.crop_size)
    require(training.recipe.amp != "fp16", "dmcp trains without a gradient scaler; use `amp=bf16` or `amp=none`")
    to_device(model, training.device, training.recipe.channels_last)
    steps = recipe.epochs * len(loader)
    trainer = _Trainer(model, training, widths, recipe, steps)
    images_seen = 0
    size = "the option sandwich_batch_size of dmcp"
    enough = memory_of("dmcp's training", f"use a smaller {size.removeprefix('the ')} or `crop_size`")
    with Gates(model, training.groups) as gates, enough, batchnorm_explained(size):
        for epoch in range(recipe.epochs):
            loader.set_epoch(epoch)
            model.train()
            losses = []
            for number, (images, labels) in enumerate(
                progress(loader, f"slimmable training {epoch + 1}/{recipe.epochs}")
            ):
                if number == 0:
                    # Dropout draws from the global generators.
                    seed_everything(training.seed * recipe.epochs + epoch)
                batch = moved(images, labels, training.device, training.recipe.channels_last)
                losses.append(trainer.step(gates, *batch))
                images_seen += len(images)
            trainer.report(epoch, torch.stack(losses).mean().item())
    batches = training.data.calibration(CALIBRATION_BATCHES * recipe.batch_size, recipe.batch_size, training.seed)
    recalibrate(model, batches, training.device)
    model.eval()
    return {"epochs": recipe.epochs, "steps": steps, "images": images_seen, "networks_a_step": 4}


class _Trainer:
    """What one step needs."""

    def __init__(self, model: nn.Module, training: Training, widths: Widths, recipe: SandwichRecipe, steps: int):
        self._model, self._training, self._widths, self._recipe = model, training, widths, recipe
        self._steps, self._search_from, self._step = steps, steps // 2, 0
        self._void = training.data.classes.ignore_index
        self._generator = torch.Generator().manual_seed(training.seed)
        self._sgd = torch.optim.SGD(_decayed_groups(model), lr=recipe.lr, momentum=0.9, nesterov=True)
        search_steps = steps - self._search_from
        self._gates = GateOptimizer(widths, training.budget.macs, recipe.budget_weight, search_steps)

    def step(self, gates: Gates, images: Tensor, labels: Tensor) -> Tensor:
        """Trains the weights on a batch and, in the second half, the widths on the same one; the widest one's loss."""
        choices = {name: self._widths.choices(name) for name in self._widths.order}
        self._sgd.zero_grad(set_to_none=True)
        output = self._at({name: widths[-1] for name, widths in choices.items()}, gates, images)
        loss = segmentation_loss(output, labels, self._void)
        loss.backward()
        teacher = main_logits(output).detach()
        narrowest = {name: widths[0] for name, widths in choices.items()}
        for width in (narrowest, self._random(choices), self._random(choices)):
            pixel_divergence(main_logits(self._at(width, gates, images)), teacher).mean().backward()
        rate = cosine(self._step, self._steps, self._recipe.lr, LAST_RATE * self._recipe.lr)
        for group in self._sgd.param_groups:
            group["lr"] = rate
        self._sgd.step()
        if self._step >= self._search_from:
            self._gates.step(self._forward, gates, images, labels, self._void)
        self._step += 1
        return loss.detach()

    def report(self, epoch: int, loss: float) -> None:
        """Says how the training goes."""
        if loss != loss or loss == float("inf"):
            raise BenchError(f"the loss of dmcp's training is {loss} in epoch {epoch + 1}; try a lower sandwich_lr")
        with torch.no_grad():
            share = self._widths.macs(self._widths.logits).item() / self._training.budget.macs
        say(f"slimmable {epoch + 1}/{self._recipe.epochs}: loss {loss:.4f}, mean MACs {share:.2f} of the budget")

    def _at(self, widths: Mapping[str, int], gates: Gates, images: Tensor) -> Any:
        gates.set(self._widths.masks(widths))
        return self._forward(images)

    def _forward(self, images: Tensor) -> Any:
        with autocast(self._training.device, self._training.recipe.amp):
            return self._model(images)

    def _random(self, choices: Mapping[str, list[int]]) -> dict[str, int]:
        """A width for each group: any in the first half; then ever more often what its gates make of it."""
        searched = max(0.0, (self._step - self._search_from) / max(1, self._steps - self._search_from))
        if torch.rand((), generator=self._generator) < LAST_UNIFORM**searched:
            draws = {name: torch.randint(len(of), (), generator=self._generator) for name, of in choices.items()}
            return {name: choices[name][int(draw)] for name, draw in draws.items()}
        return {name: self._widths.sample(name, self._generator) for name in choices}


def _decayed_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay acts on filters alone, not on biases and normalisations."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter.dim() > 1], "weight_decay": 1e-4},
        {"params": [parameter for parameter in parameters if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
