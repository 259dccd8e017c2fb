"""Cutting: what is left is the dense network without some channels, bit for bit, and does what masking does."""

from __future__ import annotations

import copy

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.cut.network import cut
from bench.errors import BenchError
from bench.models import ModelSpec, build_model
from bench.plan.pruning_plan import PruningPlan
from bench.training.optimizer import Ema


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


# --- the optimizer goes along

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.01, amsgrad=True),
    "plain": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
}
COUPLINGS = {
    "residual": toys.Residual,
    "transposed": toys.Transposed,
    "flat": toys.Flattened,
    "depthwise": lambda: toys.Between(nn.Conv2d(8, 8, 3, padding=1, groups=8)),
    "slopes": lambda: toys.Between(nn.PReLU(8)),
}


def with_gradients(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Gives every parameter a random gradient, without a forward pass; returns them by name."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def as_network(like: nn.Module, values: dict[str, Tensor]) -> nn.Module:
    """A copy of a network whose parameters are the given values: cutting it cuts them."""
    carrier = copy.deepcopy(like)
    for name, parameter in carrier.named_parameters():
        parameter.data.copy_(values[name])
    return carrier


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_step_after_the_cut_is_the_dense_step_on_what_is_kept(coupling: str, optimizer: str) -> None:
    dense = toys.settled(COUPLINGS[coupling]())
    groups = find_groups(dense)
    plan = halved(groups, 3)
    optimizers = {"dense": OPTIMIZERS[optimizer](dense.parameters())}
    for seed in range(2):
        with_gradients(dense, seed)
        optimizers["dense"].step()
    small = copy.deepcopy(dense)
    optimizers["small"] = OPTIMIZERS[optimizer](small.parameters())
    # A copy, because loading does not copy the tensors.
    optimizers["small"].load_state_dict(copy.deepcopy(optimizers["dense"].state_dict()))

    cut(small, groups, plan, optimizers["small"])
    gradients = with_gradients(dense, 7)
    smaller_gradients = dict(toys.cut_copy(as_network(dense, gradients), groups, plan).named_parameters())
    assert all(parameter.grad is None or parameter.grad.shape == parameter.shape for parameter in small.parameters())
    for name, parameter in small.named_parameters():
        parameter.grad = smaller_gradients[name].detach().clone()
    for each in optimizers.values():
        each.step()
    expected = dict(toys.cut_copy(dense, groups, plan).named_parameters())
    for name, parameter in small.named_parameters():
        assert torch.equal(parameter, expected[name]), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_kept_momentum_is_the_one_it_was(optimizer: str) -> None:
    model = toys.settled(toys.Residual()).to(memory_format=torch.channels_last)
    groups = find_groups(model)
    trained = OPTIMIZERS[optimizer](model.parameters())
    with_gradients(model, 0)
    trained.step()
    names = {parameter: name for name, parameter in model.named_parameters()}
    states = {}
    for parameter, state in trained.state.items():
        for key, value in state.items():
            states.setdefault(key, {})[names[parameter]] = torch.as_tensor(value).clone()
    dense = copy.deepcopy(model)
    plan = toys.plan_keeping(groups, {"stem.0": [0, 3, 4, 7], "side.0": [1, 2], "inner1.0": [5]})
    cut(model, groups, plan, trained)

    kinds = {"sgd": {"momentum_buffer"}, "adamw": {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}}[optimizer]
    for key in kinds:
        values = states[key]
        carried = {name: trained.state[parameter][key] for name, parameter in model.named_parameters()}
        if key == "step":
            assert {int(value) for value in carried.values()} == {1}
            continue
        expected = dict(toys.cut_copy(as_network(dense, values), groups, plan).named_parameters())
        for name, value in carried.items():
            assert torch.equal(value, expected[name]), (key, name)
            assert value.dim() < 4 or value.is_contiguous(memory_format=torch.channels_last)
    # By hand, for one of them.
    main = "momentum_buffer" if optimizer == "sgd" else "exp_avg"
    kept = trained.state[model.inner1[0].weight][main]
    assert torch.equal(kept, states[main]["inner1.0.weight"][[5]][:, [0, 3, 4, 7]])


def test_groups_of_parameters_keep_their_order_and_settings() -> None:
    model, other = toys.settled(toys.Chain()), nn.Linear(2, 2)
    groups = find_groups(model)
    layers = [model.second, other, model.first, model.head]
    optimizer = torch.optim.SGD(
        [{"params": list(layer.parameters()), "lr": rate} for rate, layer in enumerate(layers, 1)], momentum=0.9
    )
    stale = set(map(id, model.parameters()))
    foreign = list(other.parameters())
    with_gradients(model, 0)
    with_gradients(other, 1)
    optimizer.step()
    rates = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    cut(model, groups, halved(groups), optimizer)
    assert [group["params"] for group in optimizer.param_groups] == [list(layer.parameters()) for layer in layers]
    assert [group["lr"] for group in optimizer.param_groups] == [1, 2, 3, 4]
    assert all(now is then for now, then in zip(optimizer.param_groups[1]["params"], foreign, strict=True))
    # The output's bias alone has lost nothing.
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held & stale == {id(model.head.bias)}
    assert {id(parameter) for parameter in optimizer.state} == held
    # A schedule made before the cut still sets the rates, and the state can be saved and read back.
    with_gradients(model, 2)
    optimizer.step()
    rates.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    again = torch.optim.SGD([{"params": list(layer.parameters())} for layer in layers], lr=1.0, momentum=0.9)
    again.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_after_a_cut_with_its_average(optimizer: str) -> None:
    model = toys.settled(toys.Auxiliary()).train()
    trained, ema = OPTIMIZERS[optimizer](model.parameters()), Ema(model, 0.5)
    for step in range(4):
        if step == 2:
            groups = find_groups(model)
            cut(model, groups, halved(groups), trained)
            cut(ema.model, groups, halved(groups))
            carried = ema.model.first[0].weight.clone()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        output = model(toys.IMAGES)
        trained.zero_grad()
        (output["out"].square().mean() + output["aux"].square().mean()).backward()
        trained.step()
        ema.update(model, step)
        for parameter, old in zip(model.parameters(), before, strict=True):
            assert not torch.equal(parameter, old)
    decay = min(0.5, 4 / 13)
    assert ema.model.first[0].weight.shape == model.first[0].weight.shape == (4, 3, 3, 3)
    assert not torch.equal(ema.model.first[0].weight, carried)
    assert decay < 0.5


def test_a_state_of_another_shape_is_refused_before_anything_changes() -> None:
    model = toys.settled(toys.Chain())
    groups = find_groups(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # A factored second moment, as Adafactor keeps.
    optimizer.state[model.second[0].weight]["row_var"] = torch.zeros(6, 1)
    with pytest.raises(BenchError, match=r"row_var of second.0.weight is \[6, 1\], the weight \[6, 8, 3, 3\]"):
        cut(model, groups, halved(groups), optimizer)
    assert model.first[0].out_channels == 8
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))
