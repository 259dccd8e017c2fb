"""What a trace shows of a network: sides that channels reach, what keeps them, both modes, any output."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch_pruning as tp
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import find_groups
from bench.channels.layer_axes import IN, OUT
from bench.channels.tracing import IMAGE, Trace, Traced
from bench.models import ModelSpec, build_model
from bench.torch_utils.outputs import tensors_in


def traced_of(model: nn.Module) -> dict[str, Traced]:
    """By the first layer that makes the channels."""
    found = {}
    for one in Trace(model).channels():
        makers = [side.layer for side in one.sides if side.side == OUT]
        if makers:
            found[makers[0]] = one
    return found


def test_channels_are_followed_from_the_layer_that_makes_them() -> None:
    trace = Trace(toys.Chain())
    found = {one.sides[0].layer: one for one in trace.channels() if one.sides[0].side == OUT}
    assert {name: (one.channels, one.is_output, one.obstacle) for name, one in found.items()} == {
        "first.0": (8, False, None),
        "second.0": (6, False, None),
        "head": (4, True, None),
    }
    first = found["first.0"]
    assert [(side.layer, side.side) for side in first.sides] == [("first.0", OUT), ("first.1", OUT), ("second.0", IN)]
    assert all(np.array_equal(side.positions, np.arange(8)[:, None]) for side in first.sides)
    assert trace.norm_behind == {"first.0": "first.1", "second.0": "second.1"}
    assert trace.run == {"first.0", "first.1", "second.0", "second.1", "head"}


def test_a_parameter_of_ones_own_has_sides_that_are_named_after_it() -> None:
    sides = {(side.layer, side.side) for side in traced_of(toys.Between(toys.Scaled(8)))["first"].sides}
    assert sides == {("first", OUT), ("layer", "scale.0"), ("head", IN)}


def test_channels_that_are_added_to_the_image_stay() -> None:
    class OntoTheImage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(images + self.first(images))

    found = traced_of(OntoTheImage())
    assert (found["first"].obstacle, found["head"].obstacle) == (IMAGE, None)


@pytest.mark.parametrize("kind", [toys.Chain, toys.Residual, toys.Unpooled])
def test_no_hook_of_the_project_is_left(kind: type[nn.Module]) -> None:
    model = kind()
    Trace(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_unpooling_ties_the_encoder_to_what_is_unpooled() -> None:
    sides = {side.layer for side in traced_of(toys.Unpooled())["encoder.0"].sides}
    assert {"encoder.0", "middle.0", "decoder.0"} <= sides


@pytest.mark.parametrize("name", ["unet_small", "resnet18_seg", "fcn_resnet50", "simple_segnet"])
def test_groups_are_those_of_torch_prunings_graph(name: str) -> None:
    """Another tracer, which goes by the autograd graph of the training pass alone, sees the same couplings."""
    model = build_model(ModelSpec(name, 5)).train()
    ours = {
        frozenset((member.layer, member.side == IN) for member in group.members)
        for group in find_groups(model, check=False)
    }

    def trained(network: nn.Module, images: Tensor) -> list[Tensor]:
        network.train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        # It takes a layer for an output only if nothing reads it.
        return [1 * output for output in tensors_in(network(images))]

    graph = tp.DependencyGraph().build_dependency(
        model, torch.zeros(2, 3, 64, 64), forward_fn=trained, output_transform=None, verbose=False
    )
    names = {module: name for name, module in model.named_modules()}
    theirs = set()
    for group in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.ConvTranspose2d]):
        items = [(item.dep.target.module, item.dep.handler) for item in group]
        theirs.add(
            frozenset(
                (names[module], not graph.is_out_channel_pruning_fn(handler))
                for module, handler in items
                if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d))
            )
        )
    if name == "simple_segnet":
        # Indices carry no gradient: that graph does not see what unpooling ties.
        assert len(theirs) > len(ours)
    else:
        assert ours == theirs
