from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bench.errors import UsageError
from bench.training.optimizer import (
    Ema,
    build_optimizer,
    learning_rate,
    leave_backbone,
    penalise_scales,
    set_learning_rate,
)
from bench.training.options import TrainOptions


def test_poly_values():
    options = TrainOptions(lr=0.01, poly_power=0.9)
    assert learning_rate(options, 0, 100) == 0.01
    assert learning_rate(options, 50, 100) == pytest.approx(0.01 * 0.5**0.9)
    assert learning_rate(options, 99, 100) == pytest.approx(0.01 * 0.01**0.9)


def test_multistep_divides_by_ten_at_each_milestone():
    options = TrainOptions(lr=1.0, schedule="multistep", milestones=[0.5, 0.8])
    rates = [learning_rate(options, step, 10) for step in range(10)]
    assert rates == pytest.approx([1.0] * 5 + [0.1] * 3 + [0.01] * 2)


def test_the_warmup_rises_to_the_schedule():
    options = TrainOptions(lr=1.0, poly_power=1.0, epochs=10, warmup_epochs=2)
    rates = [learning_rate(options, step, 20) for step in range(20)]
    share = [1 / 4, 2 / 4, 3 / 4, *[1] * 17]
    assert rates == pytest.approx([done * (1 - step / 20) for step, done in enumerate(share)])


def with_backbone() -> nn.Module:
    model = nn.Sequential()
    model.backbone, model.head = nn.Linear(2, 2), nn.Linear(2, 2)
    model.backbone_prefixes = ("backbone.",)
    return model


def test_the_backbone_learns_by_its_own_factor():
    model = with_backbone()
    optimizer = build_optimizer(model, TrainOptions(lr=0.1, momentum=0.0, weight_decay=0.0, backbone_lr_factor=0.25))
    before = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_learning_rate(optimizer, 0.08)
    optimizer.step()
    torch.testing.assert_close(before.backbone.weight - model.backbone.weight, torch.full((2, 2), 0.02))
    torch.testing.assert_close(before.head.bias - model.head.bias, torch.full((2,), 0.08))
    # Saved and read, it is the same one.
    again = build_optimizer(with_backbone(), TrainOptions(backbone_lr_factor=0.25))
    again.load_state_dict(optimizer.state_dict())
    set_learning_rate(again, 0.4)
    assert [group["lr"] for group in again.param_groups] == pytest.approx([0.4, 0.1])


def test_a_frozen_backbone_keeps_its_weights_and_its_momenta():
    model, options = with_backbone(), TrainOptions(epochs=4, freeze_backbone_epochs=1)
    optimizer, before = build_optimizer(model, options), copy.deepcopy(model)
    for step in range(8):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        leave_backbone(model, options, step, 8)
        optimizer.step()
        assert torch.equal(model.backbone.weight, before.backbone.weight) == (step < 2)
        assert bool(optimizer.state[model.backbone.weight]) == (step >= 2)
        assert not torch.equal(model.head.weight, before.head.weight)


@pytest.mark.parametrize("asked", [{"backbone_lr_factor": 0.1}, {"freeze_backbone_epochs": 1}])
def test_a_network_that_names_no_backbone_has_none_to_treat_otherwise(asked):
    with pytest.raises(UsageError, match="Linear does not say which of its layers are a backbone"):
        build_optimizer(nn.Linear(2, 2), TrainOptions(**asked))


def test_sgd_step_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = build_optimizer(model, TrainOptions(lr=0.1, momentum=0.5, weight_decay=0.01))
    velocity, weight = 0.0, 2.0
    for rate in (0.1, 0.05):
        set_learning_rate(optimizer, rate)
        optimizer.zero_grad()
        model(torch.tensor([[3.0]])).backward()
        optimizer.step()
        velocity = 0.5 * velocity + (3.0 + 0.01 * weight)
        weight -= rate * velocity
        assert model.weight.item() == pytest.approx(weight)


def test_adamw_decays_apart_from_the_gradient():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = build_optimizer(model, TrainOptions(optimizer="adamw", lr=0.1, weight_decay=0.01))
    model(torch.tensor([[3.0]])).backward()
    optimizer.step()
    # The first Adam step has length lr whatever the gradient.
    assert model.weight.item() == pytest.approx(2.0 * (1 - 0.1 * 0.01) - 0.1, abs=1e-6)


def test_the_penalty_on_scales_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False))
    model.append(nn.LayerNorm(2))
    model[4].weight.grad = torch.zeros(2)
    model[1].weight.data = torch.tensor([2.0, -0.5, 0.0])
    for parameter in model[:2].parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    penalise_scales(model, 0.1)
    assert model[1].weight.grad.tolist() == pytest.approx([0.35, 0.15, 0.25])
    assert model[4].weight.grad.tolist() == pytest.approx([0.1, 0.1])
    for parameter in (model[0].weight, model[0].bias, model[1].bias):
        assert torch.equal(parameter.grad, torch.full_like(parameter, 0.25))
    assert model[2].weight.grad is None


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert [group["params"] for group in build_optimizer(model, TrainOptions()).param_groups] == [[model.weight]]


def test_ema_follows_its_formula():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    ema, expected = Ema(model, decay=0.3), 1.0
    for step, weight in enumerate((2.0, 4.0, 8.0, 16.0)):
        nn.init.constant_(model.weight, weight)
        ema.update(model, step)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
        assert ema.model.weight.item() == pytest.approx(expected)
    assert (1 + 3) / (10 + 3) > 0.3  # both branches of the minimum were met
    assert model.weight.item() == 16.0


def test_ema_copies_running_statistics_and_does_not_learn():
    model = nn.BatchNorm2d(2)
    ema = Ema(model, decay=0.9)
    model(torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)))
    ema.copy_buffers(model)
    assert torch.equal(ema.model.running_mean, model.running_mean)
    assert ema.model.running_mean.abs().sum() > 0
    assert ema.model.num_batches_tracked == 1
    assert not ema.model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
