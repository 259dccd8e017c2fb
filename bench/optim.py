"""The optimizer, the learning rate of each step, and the moving average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.channels.layer_axes import sliced
from bench.config.options import TrainOptions
from bench.errors import BenchError

Slices = dict[str, list[tuple[int, Tensor]]]
"""Tensor name -> (axis, positions kept on it) of every axis that loses some."""


def build_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW over all trainable parameters.

    Weight decay acts on every parameter, norms and biases too, as in torchvision's segmentation reference.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay)
    return torch.optim.SGD(parameters, lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay)


def learning_rate(options: TrainOptions, step: int, steps: int) -> float:
    """The learning rate of an optimizer step.

    Args:
        options: schedule, initial rate, power or milestones.
        step: number of the step, from 0.
        steps: steps of the whole run.

    Returns:
        poly: `lr * (1 - step / steps) ** power`; multistep: `lr` over 10 for each milestone behind.
    """
    done = step / steps
    if options.schedule == "multistep":
        return options.lr * 0.1 ** sum(done >= milestone for milestone in options.milestones)
    return options.lr * (1.0 - done) ** options.poly_power


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def penalise_scales(model: nn.Module, strength: float) -> None:
    """Adds the subgradient of `strength * sum |gamma|` over all BatchNorm scales to their gradients.

    To be called between the last change of the task's gradients (unscaling, clipping) and the optimizer's step.
    sign(0) is 0; a scale without a gradient took no part in the loss and is left alone.

    Args:
        model: the network, after a backward pass.
        strength: lambda of Network Slimming (Liu et al., ICCV 2017).
    """
    for layer in model.modules():
        scale = layer.weight if isinstance(layer, nn.modules.batchnorm._BatchNorm) else None
        if scale is not None and scale.grad is not None:
            scale.grad.add_(scale.sign(), alpha=strength)


State = dict[str, dict[str, object]]
"""Parameter name -> what an optimizer keeps for it."""


@torch.no_grad()
def cut_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], slices: Slices) -> State:
    """What an optimizer is to keep for the parameters that a cut narrows: momenta sliced like the weights.

    Args:
        optimizer: trains the network; left as it is.
        parameters: name -> parameter of the network before the cut.
        slices: what the cut keeps of each.

    Raises:
        BenchError: the optimizer keeps something of another shape than the weights, as Adafactor does.
    """
    narrowed = {name: parameter for name, parameter in parameters.items() if name in slices}
    return {
        name: {
            key: _sliced_like(parameter, value, slices[name], f"{key} of {name}")
            for key, value in optimizer.state[parameter].items()
        }
        for name, parameter in narrowed.items()
        if parameter in optimizer.state
    }


def carry_over(
    optimizer: torch.optim.Optimizer,
    before: Mapping[str, nn.Parameter],
    after: Mapping[str, nn.Parameter],
    state: State,
) -> None:
    """Makes an optimizer go on with the parameters of a network that was cut (`bench.cut.cut` calls it).

    Groups, their order and their settings stay.

    Args:
        optimizer: holds the parameters from before the cut, and perhaps others, which it keeps.
        before: name -> parameter before the cut.
        after: name -> parameter now.
        state: what `cut_state` gave before the cut.
    """
    for name, values in state.items():
        del optimizer.state[before[name]]
        optimizer.state[after[name]] = values
    now = {id(parameter): after[name] for name, parameter in before.items()}
    for group in optimizer.param_groups:
        group["params"] = [now.get(id(parameter), parameter) for parameter in group["params"]]


def _sliced_like(parameter: nn.Parameter, value: object, slices: list[tuple[int, Tensor]], what: str) -> object:
    # What is no tensor or has a single value, such as the number of steps, belongs to all channels.
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    if value.shape != parameter.shape:
        raise BenchError(
            f"the optimizer's {what} is {list(value.shape)}, the weight {list(parameter.shape)}: it cannot be cut "
            "along; use SGD or AdamW, or a new optimizer after the cut"
        )
    for axis, kept in slices:
        value = sliced(value, axis, kept)
    return value


class Ema:
    """An exponential moving average of a network's weights.

    Attributes:
        model: the averaged network, in evaluation mode.
        decay: weight of the past once the run is long enough.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """`average = d * average + (1 - d) * weights` after an optimizer step.

        `d = min(decay, (1 + step) / (10 + step))`, so that a short run forgets its initial weights.

        Args:
            model: the network in training.
            step: number of the step, from 0.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(weight, 1.0 - decay)

    @torch.no_grad()
    def copy_buffers(self, model: nn.Module) -> None:
        """Takes over the running statistics, which are averages already."""
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
