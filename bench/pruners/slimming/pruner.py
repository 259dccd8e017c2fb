"""Network Slimming: a channel's BatchNorm scale is its importance, after training with a penalty on all scales.

Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017,
https://arxiv.org/abs/1708.06519
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
from bench.plan.pruning_plan import Scores
from bench.pruners.base import Calibration, Preparation, Pruner, Training
from bench.system.console import say
from bench.train_eval import fit
from bench.training.optimizer import learning_rate
from bench.training.options import TrainOptions
from bench.training.state import can_resume
from bench.training.step import Knobs


def scale_importance(gammas: Sequence[Tensor]) -> Tensor:
    """Mean of |gamma| over the normalisations of the same channels: several [C] -> [C]."""
    return torch.stack([gamma.abs() for gamma in gammas]).mean(dim=0)


def movement(recipe: TrainOptions, steps: int) -> float:
    """How far a constant gradient of 1 moves a weight in a whole training: sum of all rates / (1 - momentum).

    Times lambda, it is how far the penalty alone can move a scale.

    Args:
        recipe: an SGD recipe.
        steps: steps of the training.
    """
    return sum(learning_rate(recipe, step, steps) for step in range(steps)) / (1 - recipe.momentum)


@dataclass(frozen=True)
class Slimming(Pruner):
    """|gamma| of a channel, compared over the whole network as it is, after sparse training from the baseline."""

    scale_shift: float = option(1.0, "how far the penalty alone can move a scale in the whole training")
    sparsity_lambda: float = option(0.0, "weight of the penalty; 0 is what scale_shift makes it")
    sparse_epochs: int = option(10, "epochs of sparse training before the scoring; 0 scores the network as it is")
    sparse_lr: float = option(0.05, "initial learning rate of sparse training")
    sparse_batch_size: int = option(4, "images a step of sparse training")

    name: ClassVar[str] = "slimming"
    paper: ClassVar[str] = "Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017"
    scope: ClassVar[str] = "global"
    comparable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        least_values = {"scale_shift": 0, "sparsity_lambda": 0, "sparse_epochs": 0, "sparse_batch_size": 1}
        for name, least in least_values.items():
            if getattr(self, name) < least:
                raise UsageError(f"option {name} of slimming must be at least {least}, not {getattr(self, name)}")
        if not self.sparse_lr > 0:
            raise UsageError(f"option sparse_lr of slimming must be above 0, not {self.sparse_lr}")

    @property
    def trains_first(self) -> bool:
        return self.sparse_epochs > 0

    def prepare(self, saved: SavedModel, training: Training) -> Preparation:
        """Sparse training: the project's own recipe from the baseline's weights; the last epoch's network counts."""
        recipe = TrainOptions(
            epochs=self.sparse_epochs,
            batch_size=self.sparse_batch_size,
            lr=self.sparse_lr,
            crop_size=training.recipe.crop_size,
            amp=training.recipe.amp,
            channels_last=training.recipe.channels_last,
            # The best epoch would be the least sparse one, so none but the last is looked at.
            eval_every=self.sparse_epochs,
        )
        steps = recipe.epochs * len(training.data.train_loader(recipe.batch_size, crop_size=recipe.crop_size))
        recipe.sparsity_lambda = self.sparsity_lambda or self.scale_shift / movement(recipe, steps)
        shift = recipe.sparsity_lambda * movement(recipe, steps)
        say(f"a penalty of {recipe.sparsity_lambda:.2g} moves BatchNorm scales by at most {shift:.2g} in {steps} steps")
        fit(
            saved,
            training.data,
            recipe,
            training.seed,
            training.folder,
            resume=can_resume(training.folder),
            device=training.device,
            label="sparse training",
            knobs=Knobs("the option sparse_batch_size of slimming", "sparse_lr (an option of slimming)"),
        )
        images = steps * min(recipe.batch_size, len(training.data.names("train")))
        spent = {"epochs": recipe.epochs, "steps": steps, "images": images, "largest_scale_shift": shift}
        return Preparation({**spent, "recipe": asdict(recipe)})

    @torch.no_grad()
    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        layers = dict(model.named_modules())
        scores: Scores = {}
        for group in groups:
            gammas = [
                norm.gather(layers[norm.layer].weight, group.channels)
                for norm in group.norms
                if layers[norm.layer].weight is not None
            ]
            if gammas:
                scores[group.name] = scale_importance(gammas)
        return scores
