"""What the dependency graph says of a network, as plain data."""

from __future__ import annotations

import pytest
import torch
import toy_networks as toys
from torch import nn

from bench.channels.layer_axes import IN, OUT
from bench.channels.tracing import IMAGE, PARAMETER, Traced, trace


def traced_of(model: nn.Module) -> dict[str, Traced]:
    return {traced.root: traced for traced in trace(model)}


def test_channels_are_followed_from_the_layer_that_makes_them() -> None:
    found = traced_of(toys.Chain())
    assert {name: (one.channels, one.is_output) for name, one in found.items()} == {
        "first.0": (8, False),
        "second.0": (6, False),
        "head": (4, True),
    }
    first = found["first.0"]
    sides = {side.layer: (side.side, side.norm_behind) for side in first.sides}
    assert sides == {"first.0": (OUT, "first.1"), "first.1": (OUT, None), "second.0": (IN, "second.1")}
    assert all(side.positions == side.channels == list(range(8)) for side in first.sides)
    assert first.passed == ["first.0", "first.1", "second.0"]


def test_what_is_no_layer_has_a_name_too() -> None:
    scaled = toys.Between(toys.Scaled(8))
    assert PARAMETER in traced_of(scaled)["first"].passed

    class OntoTheImage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 4, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(images + self.first(images))

    found = traced_of(OntoTheImage())
    assert IMAGE in found["first"].passed
    assert not {IMAGE, PARAMETER} & set(found["head"].passed)


@pytest.mark.parametrize("kind", [toys.Chain, toys.Residual, toys.Unpooled])
def test_no_hook_of_the_project_is_left(kind: type[nn.Module]) -> None:
    model = kind()
    trace(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_unpooling_ties_the_encoder_to_what_is_unpooled() -> None:
    sides = {side.layer for side in traced_of(toys.Unpooled())["encoder.0"].sides}
    assert {"encoder.0", "middle.0", "decoder.0"} <= sides
