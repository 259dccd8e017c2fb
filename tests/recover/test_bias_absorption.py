"""Bias absorption: a channel that does not vary leaves nothing behind when it is cut, where that can be so."""

from __future__ import annotations

import copy

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.models import ModelSpec, build_model
from bench.plan.pruning_plan import PruningPlan
from bench.recover.bias_absorption import absorb_bias


class Pointwise(nn.Module):
    """1x1 convolutions, one followed by a norm and one by nothing, with something between norm and consumer."""

    def __init__(self, between: nn.Module | None = None, activation: type[nn.Module] = nn.ReLU, bias: bool = True):
        super().__init__()
        self.first, self.norm1, self.act1 = nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), activation()
        self.between = between or nn.Identity()
        self.second, self.norm2, self.act2 = nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.head = nn.Conv2d(6, 4, 1, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        features = self.between(self.act1(self.norm1(self.first(images))))
        return self.head(self.act2(self.norm2(self.second(features))))


class Linear(nn.Module):
    """A linear layer that reads six pixels of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)), nn.AdaptiveAvgPool2d((2, 3))
        self.head = nn.Linear(30, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(self.pool(self.first(images).relu()).flatten(1))
        return logits[:, :, None, None].expand(-1, -1, *images.shape[-2:])


class Pooled(nn.Module):
    """A pointwise trunk of two producers, concatenated with a globally pooled branch of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.outer = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.context = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1), nn.BatchNorm2d(5), nn.ReLU())
        self.fuse = nn.Sequential(nn.Conv2d(13, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        trunk = self.stem(images).relu()
        trunk = (trunk + self.outer(trunk)).relu()
        context = nn.functional.interpolate(self.context(trunk), size=trunk.shape[-2:], mode="bilinear")
        return self.head(self.fuse(torch.cat([context, trunk], dim=1)).relu())


@torch.no_grad()
def silenced(model: nn.Module, share: float = 0.5) -> tuple[nn.Module, list[ChannelGroup], PruningPlan]:
    """A network, and a plan that removes channels whose norms have scale zero and a shift of either sign."""
    model = toys.settled(model)
    groups = find_groups(model)
    kept = {
        name: sorted(score.argsort()[int(share * len(score)) :].tolist())
        for name, score in toys.random_scores(groups).items()
    }
    plan, layers = toys.plan_keeping(groups, kept), dict(model.named_modules())
    for group in prunable(groups):
        lost = torch.ones(group.channels, dtype=torch.bool).index_fill_(0, torch.tensor(kept[group.name]), False)
        for norm in group.norms:
            positions = norm.positions[lost[norm.channels]]
            layers[norm.layer].weight[positions] = 0
            layers[norm.layer].bias[positions] = torch.linspace(-0.3, 0.9, len(positions))
    return model, groups, plan


@torch.no_grad()
def changes(
    model: nn.Module, groups: list[ChannelGroup], plan: PruningPlan, images: Tensor = toys.IMAGES
) -> tuple[Tensor, Tensor, dict]:
    """How much the output changes by a cut alone and by one after absorption, and the record."""
    whole, absorbed = copy.deepcopy(model), copy.deepcopy(model)
    record = absorb_bias(absorbed, groups, plan)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))
    bare = toys.cut_copy(model, groups, plan).eval()(images)
    full, mended = model.eval()(images), toys.cut_copy(absorbed, groups, plan).eval()(images)
    return (bare - full).abs(), (mended - full).abs(), record


@pytest.mark.parametrize(
    "between",
    [
        nn.Identity(),
        nn.MaxPool2d(3, 2, padding=1),
        nn.AvgPool2d(2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Dropout2d(),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_without_padding_nothing_changes(between: nn.Module, activation: type[nn.Module]) -> None:
    model, groups, plan = silenced(Pointwise(between, activation))
    bare, mended, record = changes(model, groups, plan)
    assert bare.max() > 1e-2
    assert mended.max() < 1e-5
    assert record == {"absorbed": {"first": ["second"], "second": ["head"]}, "skipped": {}}


@pytest.mark.parametrize("kind", [Pooled, Linear])
def test_sums_concatenations_and_linear_layers(kind: type[nn.Module]) -> None:
    model, groups, plan = silenced(kind())
    bare, mended, record = changes(model, groups, plan)
    assert bare.max() > 1e-2
    assert mended.max() < 1e-5
    assert record["skipped"] == {}
    assert record["absorbed"].keys() == {group.name for group in prunable(groups)}


def test_the_constant_by_hand() -> None:
    model, groups, _ = silenced(Pointwise())
    beta = torch.tensor([0.5, -0.25])
    model.norm1.weight.data[[1, 6]], model.norm1.bias.data[[1, 6]] = 0.0, beta
    before = copy.deepcopy(model)
    absorb_bias(model, groups, toys.plan_keeping(groups, {"first": [0, 2, 3, 4, 5, 7]}))
    # relu(0.5) and relu(-0.25) through the filters of the next layer, whose norm subtracts its mean.
    added = before.second.weight[:, 1, 0, 0] * 0.5
    torch.testing.assert_close(model.norm2.running_mean, before.norm2.running_mean - added)
    assert torch.equal(model.head.bias, before.head.bias)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


def test_a_scale_that_is_not_zero_changes_nothing_of_the_constant() -> None:
    """What is absorbed is what is left without the channel's input, not its mean over some images."""
    model, groups, plan = silenced(Pointwise())
    loud = copy.deepcopy(model)
    loud.norm1.weight.data.fill_(1.5)
    absorb_bias(model, groups, plan)
    absorb_bias(loud, groups, plan)
    assert torch.equal(model.norm2.running_mean, loud.norm2.running_mean)


def test_with_padding_the_inside_does_not_change() -> None:
    model, groups, plan = silenced(toys.Chain())
    bare, mended, record = changes(model, groups, plan)
    assert record["absorbed"] == {"first.0": ["second.0"], "second.0": ["head"]}
    assert bare[..., 1:-1, 1:-1].max() > 1e-2
    assert mended[..., 1:-1, 1:-1].max() < 1e-5
    assert mended.max() > 1e-3, "the border reads zeros beside the constant"


@pytest.mark.parametrize("name", ["unet_small", "resnet18_seg", "simple_segnet"])
def test_registered_networks_are_mended_where_they_can_be(name: str) -> None:
    torch.manual_seed(0)
    model, groups, plan = silenced(build_model(ModelSpec(name, 12)), share=0.25)
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    bare, mended, record = changes(model, groups, plan, images)
    assert mended.mean() < 0.7 * bare.mean()
    reasons = {reason for skipped in record["skipped"].values() for reason in skipped.values()}
    assert (
        reasons
        == {
            "unet_small": {"a transposed convolution spreads a constant unevenly"},
            "resnet18_seg": set(),
            "simple_segnet": {"does not read a constant"},
        }[name]
    )


def test_what_cannot_be_absorbed_is_left_as_it_was_and_named() -> None:
    # Max-unpooling scatters what it is given, so what the decoder reads varies.
    model, groups, plan = silenced(toys.Unpooled())
    before = copy.deepcopy(model.decoder.state_dict())
    record = absorb_bias(model, groups, plan)
    assert record["skipped"] == {"encoder.0": {"decoder.0": "does not read a constant"}}
    assert record["absorbed"] == {"encoder.0": ["middle.0"], "decoder.0": ["head"]}
    assert all(torch.equal(before[key], tensor) for key, tensor in model.decoder.state_dict().items())

    # No norm to silence, no bias to add to, no run at inference.
    model = toys.Chain(norm=False)
    groups = find_groups(model)
    record = absorb_bias(model, groups, toys.plan_keeping(groups, {"first.0": [0]}))
    assert record == {"absorbed": {}, "skipped": {"first.0": {"second.0": "does not read a constant"}}}

    model, groups, plan = silenced(Pointwise(bias=False))
    assert absorb_bias(model, groups, plan)["skipped"] == {
        "second": {"head": "neither a bias nor statistics behind it"}
    }  # fmt: skip

    model, groups, plan = silenced(toys.Auxiliary())
    assert absorb_bias(model, groups, plan)["skipped"] == {"first.0": {"aux.0.0": "not run at inference"}}


def test_a_plan_that_removes_nothing_absorbs_nothing() -> None:
    model, groups, _ = silenced(Pointwise())
    before = copy.deepcopy(model.state_dict())
    assert absorb_bias(model, groups, toys.plan_keeping(groups, {})) == {"absorbed": {}, "skipped": {}}
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
