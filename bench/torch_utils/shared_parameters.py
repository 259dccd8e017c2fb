"""Parameters that several modules share, and keeping them shared where each module gets a new one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import nn

Places = list[tuple[nn.Module, str]]
"""The modules that have one parameter, and its name in each."""


def shared_parameters(model: nn.Module) -> list[Places]:
    """The places of each parameter that a network has in several."""
    owners: dict[int, Places] = defaultdict(list)
    for layer in model.modules():
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                owners[id(parameter)].append((layer, name))
    return [places for places in owners.values() if len(places) > 1]


def share_again(shared: Sequence[Places]) -> None:
    """Lets places have the same parameter again, the first one's; those of other values stay apart.

    Values are other in files of a time when a cut took shared parameters apart.
    """
    for (first, first_name), *others in shared:
        parameter = getattr(first, first_name)
        for layer, name in others:
            if torch.equal(getattr(layer, name), parameter):
                setattr(layer, name, parameter)
