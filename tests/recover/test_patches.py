"""What a layer reads at single positions, beside what torch unfolds and computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.recover.patches import Places, draw_places, filters, outputs_at, patches_at, positions_of, set_filters

CONVOLUTIONS = {
    "pointwise": nn.Conv2d(6, 4, 1),
    "plain": nn.Conv2d(6, 4, 3, padding=1),
    "strided": nn.Conv2d(6, 4, (3, 5), stride=(2, 3), padding=(0, 2)),
    "dilated": nn.Conv2d(6, 4, 3, padding=4, dilation=(2, 4), stride=2),
    "same": nn.Conv2d(6, 4, (4, 3), padding="same"),
    "valid": nn.Conv2d(6, 4, 3, padding="valid"),
    "reflected": nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
    "circular": nn.Conv2d(6, 4, (3, 5), padding=(1, 2), padding_mode="circular"),
    "grouped": nn.Conv2d(6, 8, 3, padding=1, groups=2, stride=2),
    "depthwise": nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "multiplied": nn.Conv2d(6, 12, 3, padding=1, groups=6),
    "transposed": nn.ConvTranspose2d(6, 4, 2, stride=2),
    "overlapping": nn.ConvTranspose2d(6, 4, (3, 4), stride=(2, 1), padding=1, output_padding=(1, 0)),
    "transposed dilated": nn.ConvTranspose2d(6, 4, 3, stride=3, padding=2, dilation=2),
    "transposed grouped": nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2),
    "one axis": nn.Conv1d(6, 4, 4, padding=2, dilation=3, stride=2, padding_mode="replicate"),
    "one axis transposed": nn.ConvTranspose1d(6, 4, 5, stride=3, padding=1, groups=2),
    "three axes": nn.Conv3d(6, 4, (2, 3, 1), padding=(1, 0, 0), stride=(1, 2, 3), dilation=(1, 2, 1)),
    "three axes transposed": nn.ConvTranspose3d(6, 4, (1, 2, 3), stride=(2, 1, 2), padding=(0, 1, 0)),
    "linear": nn.Linear(6, 4),
}
INPUTS = torch.randn(3, 6, 11, 14, generator=torch.Generator().manual_seed(3))


def inputs_of(layer: nn.Module) -> Tensor:
    """The same numbers, with as many axes as a layer reads."""
    if isinstance(layer, nn.Linear):
        return INPUTS.movedim(1, -1)
    return INPUTS.reshape(3, 6, *{1: (154,), 2: (11, 14), 3: (11, 7, 2)}[len(layer.kernel_size)])


def everywhere(layer: nn.Module, output: Tensor) -> Places:
    images, positions = len(output), positions_of(layer, output)
    return Places(torch.arange(images).repeat_interleave(positions), torch.arange(positions).repeat(images))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_filters_times_patches_are_the_output(name: str, channels_last: bool) -> None:
    layer = CONVOLUTIONS[name]
    inputs = inputs_of(layer)
    if channels_last and inputs.dim() == 4 and name != "linear":
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        output = layer(inputs)
    size = tuple(output.shape[2:])
    for places in (everywhere(layer, output), draw_places(3, positions_of(layer, output), 20, 0, name)):
        read = patches_at(layer, inputs, size, places)
        made = (read @ filters(layer).mT).transpose(0, 1).flatten(1)
        torch.testing.assert_close(made + layer.bias, outputs_at(layer, output, places), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "settings"),
    [
        ((3, 3), {"padding": 1}),
        ((2, 3), {"stride": (2, 1), "padding": (0, 2)}),
        ((3, 3), {"dilation": (2, 3), "padding": (2, 3), "stride": 2}),
    ],
)
def test_patches_are_what_torch_unfolds(kernel: tuple[int, int], settings: dict) -> None:
    layer = nn.Conv2d(6, 4, kernel, **settings)
    output = layer(INPUTS)
    places = draw_places(3, positions_of(layer, output), 25, 7, "layer")
    unfolded = functional.unfold(INPUTS, kernel, **settings)
    assert torch.equal(
        patches_at(layer, INPUTS, tuple(output.shape[2:]), places)[0], unfolded[places.image, :, places.position]
    )


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_filters_are_written_where_they_were_read(name: str) -> None:
    layer = CONVOLUTIONS[name]
    before = layer.weight.detach().clone()
    matrices = filters(layer).clone()
    set_filters(layer, 2 * matrices)
    assert torch.equal(layer.weight.detach(), 2 * before)
    set_filters(layer, matrices)
    assert torch.equal(layer.weight.detach(), before)


def test_features_between_images_and_channels_are_positions() -> None:
    layer, tokens = nn.Linear(6, 4), torch.randn(2, 5, 3, 6)
    output = layer(tokens)
    assert positions_of(layer, output) == 15
    places = everywhere(layer, output)
    assert torch.equal(outputs_at(layer, output, places), output.reshape(30, 4))
    assert torch.equal(patches_at(layer, tokens, (), places)[0], tokens.reshape(30, 6))
    flat = torch.randn(4, 6)
    assert positions_of(layer, layer(flat)) == 1
    assert torch.equal(patches_at(layer, flat, (), everywhere(layer, layer(flat)))[0], flat)


def test_positions_are_drawn_evenly_and_by_seed_and_name() -> None:
    drawn = draw_places(4, 50, 42, seed=1, name="a")
    assert len(drawn) == 44
    assert torch.bincount(drawn.image).tolist() == [11, 11, 11, 11]
    assert len({*zip(drawn.image.tolist(), drawn.position.tolist(), strict=True)}) == 44
    assert drawn.position.min() >= 0 and drawn.position.max() < 50
    again, other, named = (draw_places(4, 50, 42, *key) for key in ((1, "a"), (2, "a"), (1, "b")))
    assert torch.equal(drawn.position, again.position)
    assert not torch.equal(drawn.position, other.position)
    assert not torch.equal(drawn.position, named.position)
    # No more than there are.
    assert len(draw_places(4, 50, 1000, 1, "a")) == 200
