"""DMCP: how many channels each group keeps is learned under a budget of MACs.

Guo et al., DMCP: Differentiable Markov Channel Pruning for Neural Networks, CVPR 2020,
https://arxiv.org/abs/2005.03354
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup
from bench.config.declare import option
from bench.errors import UsageError
from bench.models.checkpoint import SavedModel
from bench.plan.macs_budget import Budget
from bench.plan.pruning_plan import Scores
from bench.pruners.base import Calibration, Preparation, Pruner, Training
from bench.pruners.dmcp.gated import Widths
from bench.pruners.dmcp.gates import gate_layout, scores_from_width
from bench.pruners.dmcp.sandwich import SandwichRecipe, train_slimmable
from bench.pruners.dmcp.search import learn_widths
from bench.pruners.norm.pruner import L2

RECIPES = ("light", "full")

START = 3.0
"""Logits before the search: nearly open. The published 0 begins with the first step alone."""


@dataclass(frozen=True)
class Dmcp(Pruner):
    """Light search on the frozen baseline, or the published training of weights and widths before the cut."""

    recipe: str = option("light", "light searches widths for the frozen baseline; full trains weights and widths first")
    steps: int = option(200, "steps of the light search, one calibration batch each")
    budget_weight: float = option(0.1, "weight of the budget's term in the loss")
    sandwich_epochs: int = option(20, "epochs of the full recipe, both halves together")
    sandwich_lr: float = option(0.01, "initial learning rate of the full recipe's weights")
    sandwich_batch_size: int = option(8, "images a step of the full recipe")
    fresh: bool = option(False, "new random weights after the cut")

    name: ClassVar[str] = "dmcp"
    paper: ClassVar[str] = "Guo et al., DMCP: Differentiable Markov Channel Pruning for Neural Networks, CVPR 2020"
    scope: ClassVar[str] = "global"
    needs_data: ClassVar[bool] = True
    needs_target: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise UsageError(f"option recipe of dmcp must be {' or '.join(RECIPES)}, not '{self.recipe}'")
        for name in ("steps", "sandwich_epochs", "sandwich_batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"option {name} of dmcp must be at least 1, not {getattr(self, name)}")
        if not self.budget_weight >= 0:
            raise UsageError(f"option budget_weight of dmcp must be at least 0, not {self.budget_weight}")
        if not self.sandwich_lr > 0:
            raise UsageError(f"option sandwich_lr of dmcp must be above 0, not {self.sandwich_lr}")

    @property
    def trains_first(self) -> bool:
        return self.recipe == "full"

    @property
    def starts_anew(self) -> bool:
        return self.fresh

    def prepare(self, saved: SavedModel, training: Training) -> Preparation:
        """Sandwich training from the baseline's weights, its channels in their order of importance."""
        recipe = SandwichRecipe(self.sandwich_epochs, self.sandwich_batch_size, self.sandwich_lr, self.budget_weight)
        order = importance_order(saved.model, training.groups)
        widths = Widths(order, first_logits(order, training.device), training.budget)
        spent = train_slimmable(saved.model, training, widths, recipe)
        learnt = {f"order/{name}": channels for name, channels in order.items()}
        learnt |= {f"logits/{name}": logits for name, logits in widths.logits.items()}
        return Preparation({**spent, "recipe": asdict(recipe)}, learnt)

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        budget = calibration.budget
        if self.trains_first:
            widths = _learnt(groups, calibration, budget)
        else:
            order = importance_order(model, groups)
            widths = Widths(order, first_logits(order, next(model.parameters()).device), budget)
            learn_widths(model, groups, widths, calibration, self.steps, self.budget_weight)
        return {name: scores_from_width(widths.order[name], width) for name, width in widths.within_budget().items()}


def importance_order(model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    """Group name -> its channels by the L2 norm of their filters, merged as method `l2` does, largest first."""
    scores = L2().score(model, groups, Calibration([], ignore_index=-1, seed=0))
    return {name: score.cpu().argsort(descending=True, stable=True) for name, score in scores.items()}


def first_logits(order: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Group name -> the logits of all its steps before the search."""
    return {
        name: torch.full((gate_layout(len(channels)).steps,), START, device=device) for name, channels in order.items()
    }


def _learnt(groups: Sequence[ChannelGroup], calibration: Calibration, budget: Budget) -> Widths:
    """What the training before the scoring has left."""
    learnt = calibration.learnt
    order = {group.name: learnt[f"order/{group.name}"] for group in groups}
    return Widths(order, {group.name: learnt[f"logits/{group.name}"] for group in groups}, budget)
