"""Cutting: what is left is the dense network without some channels, bit for bit, and does what masking does."""

from __future__ import annotations

import copy

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.groups import ChannelGroup, find_groups, prunable
from bench.models import ModelSpec, build_model
from bench.plan import PruningPlan


@torch.no_grad()
def mask(model: nn.Module, groups: list[ChannelGroup], plan: PruningPlan) -> nn.Module:
    """Silences the channels that go: scale and shift of every norm they pass become zero."""
    masked = copy.deepcopy(model)
    layers = dict(masked.named_modules())
    for group in prunable(groups):
        lost = torch.ones(group.channels, dtype=torch.bool)
        lost[plan.kept[group.name]] = False
        assert group.norms
        for member in group.norms:
            positions = member.positions[lost[member.channels]]
            for tensor in (layers[member.layer].weight, layers[member.layer].bias):
                tensor[positions] = 0
    return masked


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor = toys.IMAGES) -> Tensor:
    return model.eval()(images)


def halved(groups: list[ChannelGroup], seed: int = 0) -> PruningPlan:
    """A plan that keeps a random half of every group."""
    scores = toys.random_scores(groups, seed)
    return toys.plan_keeping(
        groups, {name: sorted(score.argsort()[len(score) // 2 :].tolist()) for name, score in scores.items()}
    )


# --- a cut is a mask


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [toys.Chain, toys.Residual, toys.Unpooled, toys.ImageAgain, toys.Auxiliary])
def test_masking_and_cutting_agree(kind: type[nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    model = toys.settled(kind())
    groups = find_groups(model)
    plan = toys.random_plan(groups, seed)
    smaller = toys.cut_copy(model, groups, plan)
    masked = logits_of(mask(model, groups, plan))
    torch.testing.assert_close(logits_of(smaller), masked, rtol=1e-5, atol=1e-5)
    assert (masked - logits_of(model)).abs().max() > 1e-3
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["unet_small", "simple_segnet", "resnet18_seg"])
def test_masking_and_cutting_agree_on_registered_networks(name: str) -> None:
    torch.manual_seed(0)
    model = toys.settled(build_model(ModelSpec(name, 12)))
    groups = find_groups(model)
    plan = halved(groups)
    images = torch.randn(1, 3, 37, 50, generator=torch.Generator().manual_seed(1))
    masked = logits_of(mask(model, groups, plan), images)
    smaller = logits_of(toys.cut_copy(model, groups, plan), images)
    assert masked.std() > 1e-4
    torch.testing.assert_close(smaller, masked, rtol=1e-5, atol=1e-5 * masked.abs().max().item())


@pytest.mark.parametrize(
    ("model", "silenced"),
    [
        (toys.Chain(norm=False), ["first.0", "second.0"]),
        (toys.Transposed(), ["down", "up"]),
        (toys.Between(nn.Conv2d(8, 8, 3, padding=1, groups=8)), ["first", "layer"]),
        (toys.Between(nn.PReLU(8)), ["first"]),
        (toys.Flattened(), ["first.1", "linear"]),
    ],
    ids=["plain", "transposed", "depthwise", "slopes", "flat"],
)
def test_without_norms_filters_and_shifts_are_what_is_silenced(model: nn.Module, silenced: list[str]) -> None:
    model = toys.settled(model)
    groups = find_groups(model)
    plan = halved(groups)
    smaller, masked = toys.cut_copy(model, groups, plan), copy.deepcopy(model)
    layers = dict(masked.named_modules())
    for group in prunable(groups):
        lost = [channel for channel in range(group.channels) if channel not in plan.kept[group.name]]
        for member in group.members:
            if member.layer in silenced and member.side == "out":
                layer = layers[member.layer]
                axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
                layer.weight.data.index_fill_(axis, torch.tensor(lost), 0)
                layer.bias.data[lost] = 0
    torch.testing.assert_close(logits_of(smaller), logits_of(masked), rtol=1e-5, atol=1e-5)


# --- what stays is what was


def test_kept_weights_are_the_dense_ones() -> None:
    dense = toys.settled(toys.Residual())
    groups = find_groups(dense)
    trunk, side, inner = [0, 3, 4, 7], [1, 2], [5]
    plan = toys.plan_keeping(groups, {"stem.0": trunk, "side.0": side, "inner1.0": inner})
    small = toys.cut_copy(dense, groups, plan)
    assert torch.equal(small.stem[0].weight, dense.stem[0].weight[trunk])
    for before, after in ((dense.stem[1], small.stem[1]), (dense.outer1[1], small.outer1[1])):
        for name in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(getattr(after, name), getattr(before, name)[trunk])
        assert after.num_features == 4
    assert torch.equal(small.inner1[0].weight, dense.inner1[0].weight[inner][:, trunk])
    assert torch.equal(small.outer1[0].weight, dense.outer1[0].weight[trunk][:, inner])
    assert torch.equal(small.inner2[0].weight, dense.inner2[0].weight[:, trunk])
    assert torch.equal(small.fuse[0].weight, dense.fuse[0].weight[:, [1, 2, 5, 8, 9, 12]])
    assert torch.equal(small.head.weight, dense.head.weight)
    assert (small.inner1[0].in_channels, small.inner1[0].out_channels) == (4, 1)


def test_transposed_and_linear_layers_are_sliced_on_the_right_axes() -> None:
    dense = toys.Transposed()
    small = toys.cut_copy(dense, groups := find_groups(dense), toys.plan_keeping(groups, {"down": [4], "up": [0, 3]}))
    assert torch.equal(small.up.weight, dense.up.weight[[4]][:, [0, 3]])
    assert torch.equal(small.up.bias, dense.up.bias[[0, 3]])

    dense = toys.Flattened()
    small = toys.cut_copy(dense, groups := find_groups(dense), toys.plan_keeping(groups, {"first.0": [1, 4]}))
    assert torch.equal(small.linear.weight, dense.linear.weight[:, [*range(6, 12), *range(24, 30)]])
    assert small.linear.in_features == 12


@pytest.mark.parametrize("kind", [toys.Residual, toys.Auxiliary, toys.Unpooled])
def test_keeping_everything_changes_nothing(kind: type[nn.Module]) -> None:
    model = toys.settled(kind())
    parameters = list(model.parameters())
    before = copy.deepcopy(model.state_dict())
    smaller = toys.cut_copy(model, groups := find_groups(model), toys.plan_keeping(groups, {}))
    after = smaller.state_dict()
    assert list(after) == list(before)
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
    )
    # The given network was never touched.
    assert all(now is then for now, then in zip(model.parameters(), parameters, strict=True))


def test_a_network_can_be_cut_again() -> None:
    model = toys.settled(toys.Residual())
    groups = find_groups(model)
    once = toys.cut_copy(model, groups, halved(groups, 1))
    fewer = find_groups(once)
    assert [(group.name, group.channels) for group in fewer] == [
        (group.name, group.channels - group.channels // 2 if group.protected is None else group.channels)
        for group in groups
    ]
    plan = halved(fewer, 2)
    twice = toys.cut_copy(once, fewer, plan)
    torch.testing.assert_close(logits_of(twice), logits_of(mask(once, fewer, plan)), rtol=1e-5, atol=1e-5)
    assert twice.stem[0].out_channels == 2


def test_one_channel_a_group_still_runs() -> None:
    for model in (toys.Residual(), toys.Unpooled(), toys.Between(nn.Conv2d(8, 8, 3, padding=1, groups=8))):
        groups = find_groups(model)
        smaller = toys.cut_copy(model, groups, toys.plan_keeping(groups, {g.name: [1] for g in prunable(groups)}))
        assert logits_of(smaller).shape == (2, 4, 16, 24)
        assert len(find_groups(smaller)) >= 2


def test_flags_buffers_and_memory_format_survive() -> None:
    model = toys.settled(toys.Residual()).to(memory_format=torch.channels_last)
    model.inner1[0].weight.requires_grad_(False)
    model.stem[1].bias.requires_grad_(False)
    model.stem[1].num_batches_tracked.fill_(17)
    model.stem[1].momentum = 0.03
    model.outer1.train()
    groups = find_groups(model)
    smaller = toys.cut_copy(model, groups, halved(groups))
    frozen = {name for name, parameter in smaller.named_parameters() if not parameter.requires_grad}
    assert frozen == {"inner1.0.weight", "stem.1.bias"}
    assert all(isinstance(parameter, nn.Parameter) for parameter in smaller.parameters())
    assert (smaller.stem[1].num_batches_tracked, smaller.stem[1].momentum) == (17, 0.03)
    assert (smaller.outer1.training, smaller.stem.training) == (True, False)
    for layer in (smaller.stem[0], smaller.inner1[0], smaller.outer2[0], smaller.fuse[0]):
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert not smaller.inner1[0].weight.is_contiguous()


def test_what_is_cut_trains() -> None:
    model = toys.Auxiliary()
    groups = find_groups(model)
    smaller = toys.cut_copy(model, groups, halved(groups)).train()
    output = smaller(toys.IMAGES)
    (output["out"].square().mean() + output["aux"].square().mean()).backward()
    for name, parameter in smaller.named_parameters():
        assert parameter.grad.shape == parameter.shape, name
        assert torch.isfinite(parameter.grad).all(), name
    assert smaller.aux[0][0].in_channels == 4
