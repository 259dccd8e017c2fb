"""A run from the record gives what a whole forward pass gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.channels.groups import find_groups, prunable
from bench.errors import BenchError
from bench.models import ModelSpec, build_model
from bench.oracle.ablation import switched_off
from bench.oracle.incremental_forward import IncrementalForward


class Dense(nn.Module):
    """A norm behind a concatenation of features with what was made of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grown, self.norm = toys.conv(3, 8), toys.conv(8, 6), nn.BatchNorm2d(14)
        self.head = nn.Conv2d(14, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images).relu()
        return self.head(self.norm(torch.cat([features, self.grown(features)], dim=1)).relu())


TOYS: dict[str, Callable[[], nn.Module]] = {
    "chain": toys.Chain,
    "no norm": lambda: toys.Chain(norm=False),
    "residual": toys.Residual,
    "unpooled": toys.Unpooled,
    "transposed": toys.Transposed,
    "flattened": toys.Flattened,
    "auxiliary": toys.Auxiliary,
    "image again": toys.ImageAgain,
    "dense": Dense,
    "prelu": lambda: toys.Between(nn.PReLU(8)),
    "depthwise": lambda: toys.Between(nn.Conv2d(8, 8, 3, padding=1, groups=8)),
}
# Each with a coupling of its own: by concatenation, by unpooling, by addition.
NETWORKS = ("unet_small", "simple_segnet", "resnet18_seg")


def plainly_without(model: nn.Module, image: Tensor, closed: Mapping[str, Sequence[Tensor]], variant: int) -> Tensor:
    """A whole forward pass with one variant's channels zero."""
    layers = dict(model.named_modules())

    def gate(positions: Tensor) -> Callable:
        def close(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            channels_last = isinstance(layer, (nn.Linear, nn.LayerNorm))
            return output.index_fill(-1 if channels_last else 1, positions, 0)

        return close

    hooks = [layers[name].register_forward_hook(gate(positions[variant])) for name, positions in closed.items()]
    with torch.inference_mode():
        logits = model(image)
    for hook in hooks:
        hook.remove()
    return logits


def check_groups(model: nn.Module, image: Tensor, count: int | None = None) -> None:
    """Compares with whole passes for all groups, or for so many from the first to the last."""
    model = toys.settled(model)
    replay = IncrementalForward(model, image)
    replay.check()
    groups = prunable(find_groups(model))
    assert groups
    if count is not None:
        groups = [groups[round(position * (len(groups) - 1) / (count - 1))] for position in range(count)]
    for group in groups:
        last = group.channels - 1
        sets = [[0], [last], [0, last // 2, last]]
        closed = switched_off(group, sets)
        together = replay.logits_without(closed, 3)
        assert together.shape == (3, *replay.logits.shape[1:])
        for variant, channels in enumerate(sets):
            wanted = plainly_without(model, image, closed, variant)
            tolerance = 1e-5 * float(wanted.abs().max())
            assert torch.allclose(together[variant], wanted[0], rtol=0, atol=tolerance), group.name
            alone = replay.logits_without(switched_off(group, [channels]), 1)
            assert torch.allclose(together[variant], alone[0], rtol=0, atol=tolerance), group.name
        assert float((together[:2] - replay.logits).abs().max()) > 0, group.name


@pytest.mark.parametrize("make", TOYS.values(), ids=TOYS.keys())
def test_a_toy_network_without_channels(make: Callable[[], nn.Module]) -> None:
    check_groups(make(), toys.IMAGES[:1])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_without_channels(name: str) -> None:
    image = torch.randn(1, 3, 33, 45, generator=torch.Generator().manual_seed(0))
    check_groups(build_model(ModelSpec(name, 12)), image, count=3)


def test_only_what_differs_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    # In inference mode the counter of torch 2.4 sees nothing.
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    model = toys.settled(build_model(ModelSpec("unet_small", 12)))
    replay = IncrementalForward(model, torch.randn(1, 3, 48, 64))
    groups = {group.name: group for group in prunable(find_groups(model))}

    def multiply_adds(name: str, variants: int = 1) -> int:
        with FlopCounterMode(display=False) as counter:
            replay.logits_without(switched_off(groups[name], [[channel] for channel in range(variants)]), variants)
        return counter.get_total_flops() // 2

    # The last norm's channel is read by a 1x1 convolution alone, of which one input channel differs.
    assert multiply_adds("ups.5.conv.3") == 12 * 48 * 64
    assert multiply_adds("ups.5.conv.3", 3) == 3 * 3 * 12 * 48 * 64
    # Behind the last up-convolution: half of what its concatenation feeds, then all.
    first, second, head = (16 * 9 * 16, 16 * 9 * 16, 16 * 12)
    assert multiply_adds("ups.4.0") == (first // 16 + second + head) * 48 * 64
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.randn(1, 3, 48, 64))
    assert multiply_adds("downs.0.conv.0") < counter.get_total_flops() // 2


class InPlace(nn.Module):
    """The stem's result is changed after it was read, by a function and by a method."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.head = toys.conv(3, 8), toys.conv(8, 8), nn.Conv2d(8, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        trunk = self.stem(images)
        branch = self.inner(trunk)
        nn.functional.relu(trunk, inplace=True)
        branch.relu_()
        trunk += branch
        return self.head(trunk)


def test_what_a_network_changes_in_place_stays_changed() -> None:
    check_groups(InPlace(), toys.IMAGES[:1])


def test_the_network_is_left_as_it_was() -> None:
    model = toys.settled(toys.Auxiliary()).train()
    model.first.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (group, *_) = prunable(find_groups(model))
    replay = IncrementalForward(model, toys.IMAGES[:1])
    replay.logits_without(switched_off(group, [[0]]), 1)
    assert model.training
    assert not model.first.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(layer._forward_hooks for layer in model.modules())


class Mixing(toys.Chain):
    """Each image is compared with the mean over the batch."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images).relu()
        return self.head(self.second(features - features.mean(0)).relu())


class Writing(toys.Chain):
    """A part of the features is overwritten."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images).relu()
        features[:, :1] = 0
        return self.head(self.second(features).relu())


class WritingThroughAView(toys.Chain):
    """A part of the features is changed by a method."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images)
        features[:, :4].relu_()
        return self.head(self.second(features).relu() + features.sum(1, keepdim=True))


class Fickle(toys.Chain):
    """Every second forward pass has one step more."""

    passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        features = self.first(images).relu()
        return super().forward(images) if self.passes % 2 else self.head(self.second(features.abs()).relu())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Mixing, "mixes the images"),
        (Writing, "writes into parts"),
        (WritingThroughAView, "writes into parts"),
        (Fickle, "does not do the same"),
    ],
)
def test_a_network_that_cannot_be_followed_is_an_error(make: Callable[[], nn.Module], message: str) -> None:
    model = toys.settled(make())
    with pytest.raises(BenchError, match=message):
        replay = IncrementalForward(model, toys.IMAGES[:1])
        if make is not Fickle:
            replay.check()
        replay.logits_without({"first.1": [torch.tensor([0])] * 2}, 2)
