"""Cuts an optimizer's state (momenta and the like) along with the parameters it belongs to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.channels.layer_axes import sliced
from bench.errors import BenchError

Slices = dict[str, list[tuple[int, Tensor]]]
"""Tensor name -> (axis, positions kept on it) of every axis that loses some."""


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
    """Makes an optimizer go on with the parameters of a network that was cut (`bench.cut.network.cut` calls it).

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
    return sliced(value, dict(slices))
