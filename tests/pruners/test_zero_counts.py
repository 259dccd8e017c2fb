"""Zeros are counted where a ReLU is, whatever its form, and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import find_groups, prunable
from bench.errors import BenchError
from bench.models import ModelSpec, build_model
from bench.pruners.apoz.zero_counts import ZeroShares, zero_shares
from bench.torch_utils.hooks import inputs_seen


def batches(count: int = 2, size: tuple[int, int] = (16, 24)) -> list[tuple[Tensor, None]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(2, 3, *size, generator=generator), None) for _ in range(count)]


def measured(model: nn.Module, data: list | None = None) -> ZeroShares:
    return zero_shares(model, prunable(find_groups(model)), data or batches())


def share(maps: list[Tensor], wanted: list[Tensor | None] | None = None) -> Tensor:
    """The share of zeros in each channel of some maps [N, C, h, w], at the places wanted [N, h, w]."""
    rows = [
        values.movedim(1, 0)[:, torch.ones_like(values[:, 0], dtype=torch.bool) if where is None else where]
        for values, where in zip(maps, wanted or [None] * len(maps), strict=True)
    ]
    return (torch.cat(rows, dim=1) <= 0).double().mean(dim=1)


@torch.no_grad()
def at(model: nn.Module, name: str, data: list, of: Callable[[Tensor], Tensor] = torch.relu) -> list[Tensor]:
    """What a module puts out for each batch, or a function of that."""
    found: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_hook(lambda *call: found.append(of(call[2]).clone()))
    for images, _ in data:
        model(images)
    hook.remove()
    return found


class Activated(nn.Module):
    """A layer with a norm, a given activation, and what may follow it before the head reads."""

    def __init__(self, activation: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor] = lambda x: x):
        super().__init__()
        self.first = toys.conv(3, 8)
        self.activation, self.after = activation, after
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.after(self.activation(self.first(images))))


RELUS = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "function": F.relu,
    "function in place": lambda x: F.relu(x, inplace=True),
    "method": Tensor.relu,
    "method in place": Tensor.relu_,
    "relu6": nn.ReLU6(),
    "relu6 in place": nn.ReLU6(inplace=True),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "behind dropout": lambda x: F.relu(F.dropout(x, 0.5, training=False)),
    "behind a scale": lambda x: F.relu(2 * x),
}


@pytest.mark.parametrize("activation", RELUS.values(), ids=RELUS)
def test_every_spelling_of_a_relu_is_found(activation: Callable[[Tensor], Tensor]) -> None:
    model = toys.settled(Activated(activation))
    found = measured(model)
    assert found.without_relu == []
    # A ReLU in place changes what a hook behind the norm would see, so the same network without one is asked.
    plain = toys.settled(Activated(F.relu))
    plain.load_state_dict(model.state_dict())
    expected = share(at(plain, "first.1", batches()))
    assert found.shares["first.0"].tolist() == expected.tolist()
    assert expected.min() > 0.05 and expected.max() < 0.95


@pytest.mark.parametrize(
    "activation",
    [F.gelu, F.silu, nn.LeakyReLU(0.1), nn.Hardtanh(), lambda x: x.clamp(max=0.5), lambda x: x, lambda x: x.clamp(0.1)],
)
def test_without_a_relu_values_of_at_most_zero_count(activation: Callable[[Tensor], Tensor]) -> None:
    model = toys.settled(Activated(activation))
    found = measured(model)
    assert found.without_relu == ["first.0"]
    assert found.shares["first.0"].tolist() == share(at(model, "first.1", batches())).tolist()


def test_without_a_norm_the_layer_counts() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)).eval()
    found = measured(model)
    assert found.without_relu == ["0"]
    assert found.shares["0"].tolist() == share(at(model, "0", batches(), of=lambda x: x)).tolist()


@pytest.mark.parametrize(
    "after",
    [
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x: F.pad(x, (3, 3, 3, 3)),
        lambda x: F.relu(x + 0.5),
        lambda x: F.max_pool2d(x, 3, 1, 1).relu(),
    ],
)
def test_what_follows_the_relu_does_not_matter(after: Callable[[Tensor], Tensor]) -> None:
    bare, more = toys.settled(Activated(nn.ReLU(True))), toys.settled(Activated(nn.ReLU(True), after))
    more.load_state_dict(bare.state_dict())
    assert measured(more).shares["first.0"].tolist() == measured(bare).shares["first.0"].tolist()


@pytest.mark.parametrize("before", [lambda x: F.max_pool2d(x, 2), lambda x: F.interpolate(x, scale_factor=2)])
def test_a_relu_behind_pooling_or_upsampling_is_the_one(before: Callable[[Tensor], Tensor]) -> None:
    model = toys.settled(Activated(lambda x: F.relu(before(x))))
    found = measured(model)
    assert found.without_relu == []
    maps = at(model, "first.1", batches(), of=lambda x: F.relu(before(x)))
    assert found.shares["first.0"].tolist() == share(maps).tolist()


def test_a_concatenation_behind_the_relus_does_not_matter() -> None:
    model = toys.settled(toys.Residual())
    found = measured(model)
    assert found.shares["side.0"].tolist() == share(at(model, "side.1", batches())).tolist()
    assert found.shares["inner2.0"].tolist() == share(at(model, "inner2.1", batches())).tolist()


class ResidualInPlace(toys.Residual):
    """The same trunk with ReLUs in place."""

    def forward(self, images: Tensor) -> Tensor:
        trunk = F.relu_(self.stem(images))
        branch = self.outer1(F.relu_(self.inner1(trunk)))
        branch += trunk
        trunk = F.relu_(branch)
        trunk += self.outer2(F.relu_(self.inner2(trunk)))
        F.relu_(trunk)
        side = F.relu_(self.side(trunk))
        return self.head(F.relu_(self.fuse(torch.cat([side, trunk], dim=1))))


def test_a_trunk_has_the_mean_of_the_relus_behind_its_additions() -> None:
    model = toys.settled(toys.Residual())
    first = at(model, "stem.1", batches())
    # What reads the trunk has it as its input.
    trunk1, trunk2 = [], []
    seen = {"inner2": trunk1, "side": trunk2}
    with torch.no_grad(), inputs_seen(model, seen, lambda name, inputs: seen[name].append(inputs[0])):
        for images, _ in batches():
            model(images)
    expected = (share(first) + share(trunk1) + share(trunk2)) / 3
    assert measured(model).shares["stem.0"].tolist() == expected.tolist()
    alone = share(at(model, "outer1.1", batches()))
    assert not torch.allclose(share(trunk1), alone, atol=0.01)

    in_place = toys.settled(ResidualInPlace())
    in_place.load_state_dict(model.state_dict())
    assert measured(in_place).shares["stem.0"].tolist() == expected.tolist()


def test_a_norm_in_front_of_the_layers_is_followed_for_each_of_its_groups() -> None:
    class Before(nn.Module):
        """Norm and ReLU behind a concatenation of two layers' outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(11)
            self.head = nn.Conv2d(11, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.norm(torch.cat([self.left(images), self.right(images)], dim=1)).relu())

    model = toys.settled(Before())
    found = measured(model)
    assert found.without_relu == []
    both = share(at(model, "norm", batches()))
    assert found.shares["left"].tolist() == both[:5].tolist()
    assert found.shares["right"].tolist() == both[5:].tolist()


def test_vectors_and_tokens_count_along_their_last_axis() -> None:
    model = toys.settled(toys.Flattened())
    found = measured(model)
    vectors = [torch.relu(values)[:, :, None, None] for values in at(model, "linear", batches(), of=lambda x: x)]
    assert found.shares["linear"].tolist() == share(vectors).tolist()
    assert found.without_relu == []

    class Tokens(nn.Module):
        """Linear layers on tokens [N, L, C]."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.hidden, self.head = nn.Conv2d(3, 5, 1), nn.Linear(5, 7), nn.Linear(7, 4)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.first(images).flatten(2).transpose(1, 2)
            logits = self.head(self.hidden(tokens).relu())
            return logits.transpose(1, 2).reshape(len(images), 4, *images.shape[-2:])

    model = Tokens().eval()
    tokens = [values.transpose(1, 2)[..., None] for values in at(model, "hidden", batches())]
    assert measured(model).shares["hidden"].tolist() == share(tokens).tolist()


@pytest.mark.parametrize("name", ["resnet18_seg", "unet_small", "simple_segnet"])
def test_all_groups_of_the_networks_meet_a_relu(name: str) -> None:
    model = toys.settled(build_model(ModelSpec(name, 12)))
    found = measured(model, batches(1, (48, 64)))
    assert found.without_relu == []
    assert found.shares.keys() == {group.name for group in prunable(find_groups(model))}
    assert all(((shares >= 0) & (shares <= 1)).all() for shares in found.shares.values())


def test_batches_count_by_their_images() -> None:
    model = toys.settled(toys.Chain())
    data = batches(2)
    joined = [(torch.cat([images for images, _ in data]), None)]
    halves = [(part, None) for images, _ in data for part in images.split(1)]
    uneven = [(joined[0][0][:3], None), (joined[0][0][3:], None)]
    known = measured(model, data)
    for other in (joined, halves, uneven):
        assert measured(model, other).shares["first.0"].tolist() == known.shares["first.0"].tolist()


def test_only_the_places_asked_for_count() -> None:
    model = toys.settled(toys.Chain())
    generator = torch.Generator().manual_seed(3)
    where = [torch.rand(2, 16, 24, generator=generator) < 0.3 for _ in range(2)]
    data = [(images, mask) for (images, _), mask in zip(batches(), where, strict=True)]
    found = zero_shares(model, prunable(find_groups(model)), data)
    expected = share(at(model, "first.1", batches()), where)
    assert found.shares["first.0"].tolist() == expected.tolist()
    assert not torch.allclose(expected, share(at(model, "first.1", batches())))


def test_maps_that_are_no_images_count_whole() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = toys.conv(3, 6), nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            halves = torch.cat(self.first(images).relu().chunk(2, 3))
            return self.head(torch.cat(self.second(halves).relu().chunk(2), 3))

    model, images = toys.settled(Windows()), torch.randn(2, 3, 16, 24)
    second = next(group for group in find_groups(model) if group.name == "second")
    where = torch.zeros(2, 16, 24, dtype=torch.bool)
    where[:, :4] = True
    counted = [zero_shares(model, [second], [(images, at)]).shares["second"] for at in (where, None)]
    assert torch.equal(*counted) and counted[0].any()


def test_a_thin_object_counts_on_a_coarse_map() -> None:
    class Coarse(toys.Chain):
        """The second layer works at an eighth of the size."""

        def forward(self, images: Tensor) -> Tensor:
            features = F.max_pool2d(self.first(images).relu(), 8)
            return F.interpolate(self.head(self.second(features).relu()), scale_factor=8)

    model = toys.settled(Coarse())
    where = torch.zeros(2, 16, 24, dtype=torch.bool)
    # One pixel in the cell at row 1, column 2 of the 2x3 map, and three in that at row 0, column 0.
    where[0, 13, 21] = where[1, 0:3, 5] = True
    cells = torch.zeros(2, 2, 3, dtype=torch.bool)
    cells[0, 1, 2] = cells[1, 0, 0] = True
    ((images, _),) = batches(1)
    found = zero_shares(model, prunable(find_groups(model)), [(images, where)])
    assert found.shares["first.0"].tolist() == share(at(model, "first.1", [(images, None)]), [where]).tolist()
    assert found.shares["second.0"].tolist() == share(at(model, "second.1", [(images, None)]), [cells]).tolist()


def test_the_network_is_left_as_it_was() -> None:
    model = toys.settled(toys.Residual())
    model.fuse.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    shares = measured(model).shares
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(tensor.requires_grad for tensor in shares.values())
    model.head.weight.data[0, 0] = math.nan
    with pytest.raises(BenchError, match="output on the calibration images is not finite"):
        measured(model)
    assert not any(module._forward_hooks for module in model.modules())
