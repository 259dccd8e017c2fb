"""The layer table: widths, removal of channels, narrowing to given shapes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.channels.layer_axes import (
    IN,
    OUT,
    adopt_shapes,
    axes_of,
    is_depthwise,
    is_grouped,
    keep_channels,
    width,
    widths,
)

KEPT = torch.tensor([0, 2, 3])


def test_widths() -> None:
    assert (width(nn.Conv2d(4, 6, 3), OUT), width(nn.Conv2d(4, 6, 3), IN)) == (6, 4)
    assert (width(nn.ConvTranspose2d(4, 6, 2), OUT), width(nn.ConvTranspose2d(4, 6, 2), IN)) == (6, 4)
    assert (width(nn.Linear(4, 6), OUT), width(nn.Linear(4, 6), IN)) == (6, 4)
    depthwise = nn.Conv2d(5, 5, 3, groups=5)
    assert (width(depthwise, OUT), width(depthwise, IN)) == (5, 5)
    assert width(nn.BatchNorm2d(7), OUT) == width(nn.BatchNorm2d(7), IN) == 7
    assert width(nn.BatchNorm2d(7, affine=False), OUT) == 7
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ConvTranspose2d(8, 5, 2), nn.Linear(9, 2))
    assert list(widths(layers).items()) == [("0", 8), ("2", 5), ("3", 2)]


def test_kinds_of_convolutions() -> None:
    assert is_depthwise(nn.Conv2d(4, 4, 3, groups=4))
    assert not is_depthwise(nn.Conv2d(1, 4, 3))
    assert is_grouped(nn.Conv2d(4, 8, 3, groups=2))
    assert not is_grouped(nn.Conv2d(4, 4, 3, groups=4))
    assert not is_grouped(nn.Conv2d(4, 4, 3))


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.MaxPool2d(2), nn.PReLU()], ids=["relu", "pool", "one-slope"])
def test_layers_without_channels_of_their_own(layer: nn.Module) -> None:
    assert axes_of(layer) is None


@pytest.mark.parametrize("layer", [nn.Conv2d(5, 5, 3), nn.ConvTranspose2d(5, 5, 2, stride=2), nn.Linear(5, 5)])
def test_outputs_kept(layer: nn.Module) -> None:
    images = torch.randn(2, 5) if isinstance(layer, nn.Linear) else torch.randn(2, 5, 8, 8)
    before = layer(images)
    keep_channels(layer, OUT, KEPT)
    assert (width(layer, OUT), width(layer, IN)) == (3, 5)
    assert getattr(layer, "out_channels", None) == 3 or layer.out_features == 3
    torch.testing.assert_close(layer(images), before[:, KEPT])


@pytest.mark.parametrize("layer", [nn.Conv2d(5, 5, 3), nn.ConvTranspose2d(5, 5, 2, stride=2), nn.Linear(5, 5)])
def test_inputs_kept(layer: nn.Module) -> None:
    images = torch.randn(2, 5) if isinstance(layer, nn.Linear) else torch.randn(2, 5, 8, 8)
    images[:, [1, 4]] = 0
    before = layer(images)
    keep_channels(layer, IN, KEPT)
    assert (width(layer, OUT), width(layer, IN)) == (5, 3)
    assert getattr(layer, "in_channels", None) == 3 or layer.in_features == 3
    torch.testing.assert_close(layer(images[:, KEPT]), before)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(5, 5, 3, groups=5),
        nn.ConvTranspose2d(5, 5, 3, groups=5),
        nn.BatchNorm2d(5),
        nn.BatchNorm2d(5, affine=False),
        nn.PReLU(5),
    ],
    ids=["depthwise", "depthwise-transposed", "norm", "norm-without-weights", "slopes"],
)
def test_layers_with_one_side(layer: nn.Module) -> None:
    for name, tensor in layer.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(len(name))) + 0.5)
    layer.eval()
    images = torch.randn(2, 5, 6, 6)
    before = layer(images)
    keep_channels(layer, OUT, KEPT)
    assert width(layer, OUT) == 3
    torch.testing.assert_close(layer(images[:, KEPT]), before[:, KEPT])
    widths = [getattr(layer, name) for name in ("num_features", "groups", "num_parameters") if hasattr(layer, name)]
    assert widths == [3]


def test_layer_norm() -> None:
    layer = nn.LayerNorm(5)
    keep_channels(layer, OUT, KEPT)
    assert layer.normalized_shape == (3,)
    assert layer(torch.randn(2, 5)[:, KEPT]).shape == (2, 3)


def test_a_depthwise_convolution_may_shrink_to_one_channel() -> None:
    layer = nn.Conv2d(5, 5, 3, groups=5)
    images = torch.randn(1, 5, 6, 6)
    before = layer(images)
    keep_channels(layer, OUT, torch.tensor([3]))
    assert (layer.in_channels, layer.out_channels, layer.groups) == (1, 1, 1)
    torch.testing.assert_close(layer(images[:, 3:4]), before[:, 3:4])


def test_format_and_gradient_flag_survive() -> None:
    layer = nn.Conv2d(5, 6, 3).to(memory_format=torch.channels_last)
    layer.weight.requires_grad_(False)
    keep_channels(layer, OUT, KEPT)
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert isinstance(layer.weight, nn.Parameter)
    assert not layer.weight.requires_grad
    assert layer.bias.requires_grad


def test_adopting_shapes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
    small = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 5, 3, groups=5), nn.Conv2d(5, 4, 1))
    adopt_shapes(model, {name: tuple(tensor.shape) for name, tensor in small.state_dict().items()})
    model.load_state_dict(small.state_dict())
    images = torch.randn(2, 3, 9, 9)
    assert torch.equal(model.eval()(images), small.eval()(images))
    assert [str(layer) for layer in model] == [str(layer) for layer in small]


@pytest.mark.parametrize(
    "shape", [(9, 3, 3, 3), (8, 3, 1, 1), (0, 3, 3, 3), (8, 3, 3)], ids=["wider", "other kernel", "empty", "other rank"]
)
def test_adopting_only_narrows_channels(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    adopt_shapes(model, {"0.weight": shape})
    assert model[0].weight.shape == (8, 3, 3, 3)
    assert model[0].out_channels == 8
