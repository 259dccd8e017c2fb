"""Taylor importance: against gates put into networks, true removals, and hand-made numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.errors import BenchError
from bench.models import ModelSpec, build_model
from bench.plan.pruning_plan import Scores
from bench.pruners import make_pruner
from bench.pruners.base import Calibration
from bench.pruners.taylor.pruner import taylor_importance

VOID = 3
Batch = tuple[Tensor, Tensor]


def batches(count: int = 2, size: tuple[int, int] = (16, 24), seed: int = 0, classes: int = 4) -> list[Batch]:
    """Noise with the strongest colour as its label and one row of void."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(count):
        images = torch.randn(2, 3, *size, generator=generator)
        labels = images.argmax(1) % classes
        labels[:, 0] = VOID
        drawn.append((images, labels))
    return drawn


def scores_of(model: nn.Module, data: Sequence[Batch], **options: object) -> Scores:
    groups = prunable(find_groups(model))
    return make_pruner("taylor", options).score(model, groups, Calibration(data, VOID, 0))


def gate_effects(model: nn.Module, group: ChannelGroup, data: Sequence[Batch], gated: Callable[[str], bool]) -> Tensor:
    """gate * dL/dgate of a gate of ones, one a channel, behind each layer that is `gated`: [batches, channels]."""
    gate = torch.ones(group.channels, dtype=data[0][0].dtype, requires_grad=True)
    handles = [
        layer.register_forward_hook(lambda _module, _inputs, output: output * gate.view(-1, *[1] * (output.dim() - 2)))
        for name, layer in model.named_modules()
        if gated(name)
    ]
    effects = [
        torch.autograd.grad(cross_entropy(model(images), labels, ignore_index=VOID), gate)[0] for images, labels in data
    ]
    for handle in handles:
        handle.remove()
    return torch.stack(effects)


def assert_relative(actual: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    """Equal to `tolerance` of the largest value."""
    assert expected.abs().max() > 0
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def test_the_formula_by_hand() -> None:
    assert taylor_importance(torch.tensor([[1.0, -2.0, 0.0], [3.0, 2.0, 1.0]])).tolist() == [5, 4, 0.5]


# --- the gate identity


def test_gates_behind_norms_of_a_registered_network() -> None:
    torch.manual_seed(0)
    model = toys.settled(build_model(ModelSpec("unet_small", 12)).double())
    data = [(images.double(), labels) for images, labels in batches(size=(32, 40))]
    scores = scores_of(model, data)
    groups = prunable(find_groups(model))
    assert len(scores) == len(groups) == 17
    for group in groups:
        (producer,) = group.producers
        effects = gate_effects(model, group, data, lambda name, norm=producer.norm.layer: name == norm)
        assert_relative(scores[group.name], effects.square().mean(0))


def test_gates_of_a_residual_network_in_single_precision() -> None:
    torch.manual_seed(0)
    model = toys.settled(build_model(ModelSpec("resnet18_seg", 12)))
    data = batches(1, size=(48, 64))
    scores = scores_of(model, data)
    for group in prunable(find_groups(model))[:4]:
        norms = {producer.norm.layer for producer in group.producers}
        effects = gate_effects(model, group, data, norms.__contains__)
        # The gate's own gradient is a sum of float32 products in another order.
        assert_relative(scores[group.name], effects.double().square().mean(0), 1e-4)


@pytest.mark.parametrize("kind", [lambda: toys.Chain(norm=False), toys.Transposed, toys.Flattened])
def test_gates_behind_layers_without_a_norm(kind: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().double().eval()
    data = [(images.double(), labels) for images, labels in batches()]
    scores = scores_of(model, data)
    bare = [group for group in prunable(find_groups(model)) if group.producers[0].norm is None]
    assert bare
    for group in bare:
        effects = gate_effects(model, group, data, lambda name, layer=group.name: name == layer)
        assert_relative(scores[group.name], effects.square().mean(0))


def test_a_gate_behind_the_sum_is_the_sum_of_the_members_effects() -> None:
    class Summed(nn.Module):
        """Two normalised layers, one without a norm, and one gate behind their sum."""

        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.bare = toys.conv(3, 6), toys.conv(3, 6), nn.Conv2d(3, 6, 1)
            self.gate = nn.Identity()
            self.head = nn.Conv2d(6, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.gate(self.left(images) + self.right(images) + self.bare(images)).relu())

    torch.manual_seed(0)
    model = toys.settled(Summed().double())
    data = [(images.double(), labels) for images, labels in batches()]
    (group,) = prunable(find_groups(model))
    assert [producer.norm is not None for producer in group.producers] == [True, True, False]
    shared = gate_effects(model, group, data, "gate".__eq__)
    assert_relative(scores_of(model, data)[group.name], shared.square().mean(0))
    apart = sum(
        gate_effects(model, group, data, name.__eq__).square().mean(0) for name in ("left.1", "right.1", "bare")
    )
    assert not torch.allclose(apart, shared.square().mean(0), rtol=0.01)


# --- what the score depends on


@pytest.fixture
def chain() -> nn.Module:
    torch.manual_seed(0)
    return toys.settled(toys.Chain())


def test_a_rescaled_channel_scores_the_same(chain: nn.Module) -> None:
    data = batches()
    before, norms_before = scores_of(chain, data), chain.first[1].weight.abs().clone()
    factors = torch.tensor([0.2, 1, 3, 0.5, 10, 1, 2, 0.1])
    chain.first[1].weight.data *= factors
    chain.first[1].bias.data *= factors
    chain.second[0].weight.data /= factors[:, None, None]
    after = scores_of(chain, data)
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-9 * before[name].max().item())
    assert not torch.allclose(chain.first[1].weight.abs(), norms_before)


def test_a_channel_nobody_reads_scores_zero(chain: nn.Module) -> None:
    chain.second[0].weight.data[:, [2, 5]] = 0
    scores = scores_of(chain, batches())["first.0"]
    assert scores[[2, 5]].tolist() == [0, 0]
    assert (scores[[0, 1, 3, 4, 6, 7]] > 0).all()


def test_a_group_behind_the_loss_scores_zero() -> None:
    torch.manual_seed(1)
    model = toys.settled(toys.Auxiliary())
    groups = {group.name: group for group in find_groups(model)}
    pruner = make_pruner("taylor")
    scores = pruner.score(model, [groups["aux.0.0"], groups["second.0"]], Calibration(batches(), VOID, 0))
    assert scores["aux.0.0"].tolist() == [0] * 5
    assert (scores["second.0"] > 0).any()


def test_a_scaled_loss_squares_into_the_scores(chain: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.pruners.taylor import pruner

    before = scores_of(chain, batches())
    true_loss = pruner.segmentation_loss
    monkeypatch.setattr(pruner, "segmentation_loss", lambda *args: 5 * true_loss(*args))
    for name, score in scores_of(chain, batches()).items():
        torch.testing.assert_close(score, 25 * before[name], rtol=1e-4, atol=0)


def test_batches_are_squared_one_by_one(chain: nn.Module) -> None:
    first, second = batches(2)
    alone = [scores_of(chain, [batch])["first.0"] for batch in (first, second)]
    both = scores_of(chain, [first, second])["first.0"]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)
    joined = scores_of(chain, [tuple(torch.cat(parts) for parts in zip(first, second, strict=True))])["first.0"]
    assert not torch.allclose(joined, both, rtol=0.01)


def test_one_batch_by_hand(chain: nn.Module) -> None:
    (images, labels) = batches(1)[0]
    norm = chain.first[1]
    loss = cross_entropy(chain(images), labels, ignore_index=VOID)
    scale, shift = torch.autograd.grad(loss, [norm.weight, norm.bias])
    gate = scores_of(chain, [(images, labels)])["first.0"]
    gamma = scores_of(chain, [(images, labels)], term="gamma")["first.0"]
    torch.testing.assert_close(
        gate, (norm.weight * scale + norm.bias * shift).double().square().detach(), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(gamma, (norm.weight * scale).double().square().detach(), rtol=1e-5, atol=0)
    assert gate.argsort().tolist() != gamma.argsort().tolist()


def test_images_and_labels_matter_and_void_does_not(chain: nn.Module) -> None:
    data = batches()
    before = scores_of(chain, data)
    again = scores_of(chain, batches())
    assert all(torch.equal(before[name], again[name]) for name in before)

    other_images = [(images.flip(-1), labels) for images, labels in data]
    other_labels = [(images, labels.flip(-1)) for images, labels in data]
    for changed in (scores_of(chain, other_images), scores_of(chain, other_labels)):
        assert not any(torch.allclose(before[name], changed[name], rtol=1e-3) for name in before)

    # One more row without a label changes the loss's average only through the labelled pixels.
    hidden = [(images, labels.clone()) for images, labels in data]
    for _, labels in hidden:
        labels[:, 8:] = VOID
    half = scores_of(chain, hidden)
    direct = []
    for images, labels in hidden:
        kept = labels != VOID
        loss = cross_entropy(chain(images).permute(0, 2, 3, 1)[kept], labels[kept])
        scale, shift = torch.autograd.grad(loss, [chain.first[1].weight, chain.first[1].bias])
        direct.append(chain.first[1].weight * scale + chain.first[1].bias * shift)
    torch.testing.assert_close(
        half["first.0"], torch.stack(direct).double().square().mean(0).detach(), rtol=1e-4, atol=1e-12
    )
    unlabelled = [(images, torch.full_like(labels, VOID)) for images, labels in data]
    assert all((score == 0).all() for score in scores_of(chain, unlabelled).values())


def test_the_network_is_left_as_it_was(chain: nn.Module) -> None:
    chain.head.train()
    before = {name: tensor.clone() for name, tensor in chain.state_dict().items()}
    flags = [module.training for module in chain.modules()]
    with torch.no_grad():
        scores = scores_of(chain, batches())
    assert all(torch.equal(tensor, before[name]) for name, tensor in chain.state_dict().items())
    assert [module.training for module in chain.modules()] == flags
    assert all(parameter.grad is None and parameter.requires_grad for parameter in chain.parameters())
    assert not any(score.requires_grad for score in scores.values())
    assert not any(module._forward_hooks for module in chain.modules())


def test_a_loss_that_is_not_finite_is_an_error(chain: nn.Module) -> None:
    chain.head.weight.data[0, 0] = math.nan
    with pytest.raises(BenchError, match="the loss on the calibration images is not finite"):
        scores_of(chain, batches())


# --- what the score is for


@pytest.mark.parametrize("seed", range(2))
def test_scores_agree_with_true_removals_on_a_network_in_training(seed: int) -> None:
    # Five steps: at a minimum of the loss the first order vanishes and says little about whole removals.
    torch.manual_seed(seed)
    model = toys.Chain()
    images, labels = (torch.cat(parts) for parts in zip(*batches(8), strict=True))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = cross_entropy(model(images), labels, ignore_index=VOID)
    for _ in range(5):
        optimizer.zero_grad()
        cross_entropy(model(images), labels, ignore_index=VOID).backward()
        optimizer.step()
    model.eval().zero_grad(set_to_none=True)

    @torch.no_grad()
    def loss_with(norm: nn.BatchNorm2d, channel: int, gate: float) -> float:
        kept = norm.weight[channel].clone(), norm.bias[channel].clone()
        norm.weight[channel] *= gate
        norm.bias[channel] *= gate
        loss = cross_entropy(model(images), labels, ignore_index=VOID).item()
        norm.weight[channel], norm.bias[channel] = kept
        return loss

    groups = prunable(find_groups(model))
    norms = [model.get_submodule(group.producers[0].norm.layer) for group in groups]
    places = [(norm, channel) for norm in norms for channel in range(norm.num_features)]
    whole = loss_with(*places[0], 1.0)
    assert whole < first.item() - 0.1
    scores = torch.cat(list(scores_of(model, [(images, labels)]).values()))
    true = torch.tensor([loss_with(*place, 0.0) - whole for place in places], dtype=torch.float64)
    nearly = torch.tensor([(loss_with(*place, 0.99) - whole) / 0.01 for place in places], dtype=torch.float64)

    torch.testing.assert_close(scores.sqrt(), nearly.abs(), rtol=0.05, atol=2e-3)
    assert 0.5 < (scores.sqrt() / true.abs()).median() < 2
    ranks = [values.argsort().argsort().double() for values in (true.abs(), scores)]
    assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.9
    signed = torch.cat(
        [
            -gate_effects(model, group, [(images, labels)], group.producers[0].norm.layer.__eq__)[0].double()
            for group in groups
        ]
    )
    assert_relative(signed.square(), scores, 1e-4)
    assert (signed.sign() == true.sign()).double().mean() > 0.9
