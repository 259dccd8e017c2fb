"""Training by turns with cutting: without a cut it is ordinary training, and a cut changes only what is cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_networks import plan_keeping
from toy_training import TOY, ToyData, new_network, toy_distillation

from bench.channels.groups import find_groups
from bench.errors import BenchError, UsageError
from bench.models import MODELS
from bench.models.checkpoint import SavedModel
from bench.recover.training_between_cuts import TrainingBetweenCuts
from bench.torch_utils.sparse_weights import SPARSE, set_to_zero
from bench.train_eval import fit
from bench.training.options import TrainOptions

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(MODELS, "toy", TOY)


def retraining(saved: SavedModel, steps: int = 6, seed: int = 0, **options) -> TrainingBetweenCuts:
    return TrainingBetweenCuts(
        saved, ToyData(), TrainOptions(**{"batch_size": 4, "lr": 0.1, **options}), steps, seed, CPU
    )


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten().float() for tensor in model.state_dict().values()])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adamw", "lr": 0.01, "aux_weight": 0.1},
        {"accumulate": 3, "schedule": "multistep", "compute_class_weights": True},
        {"grad_clip": 0.1, "crop_size": (8, 8), "weight_decay": 0.1, "momentum": 0.5},
        {"grad_clip": 0.1, "sparsity_lambda": 0.01},
    ],
)
def test_without_a_cut_it_is_what_fit_does(tmp_path, options):
    fitted, stepped = new_network(aux=True), new_network(aux=True)
    recipe = TrainOptions(**{"batch_size": 4, "lr": 0.1, "epochs": 2, **options})
    fit(fitted, ToyData(), recipe, 0, tmp_path, device=CPU)
    # Three batches an epoch; with three accumulated, a step an epoch.
    steps = 6 // recipe.accumulate
    training = retraining(stepped, steps, **options)
    loss = training.train(steps)
    assert torch.equal(weights(fitted.model), weights(stepped.model))
    assert training.steps_done == steps
    assert 0 < loss < 5
    assert not stepped.model.training


def test_a_teacher_is_followed_as_in_fit_and_not_cut(tmp_path):
    fitted, stepped, recipe = new_network(aux=True), new_network(aux=True), TrainOptions(batch_size=4, lr=0.1, epochs=2)
    taught = toy_distillation(2.0, 3.0)
    before = weights(taught.teacher)
    fit(fitted, ToyData(), recipe, 0, tmp_path, device=CPU, distillation=taught)
    training = TrainingBetweenCuts(stepped, ToyData(), recipe, 6, 0, CPU, taught)
    training.train(6)
    assert torch.equal(weights(fitted.model), weights(stepped.model))
    groups = find_groups(stepped.model)
    training.cut(groups, plan_keeping(groups, {"body.0": [0, 3]}))
    training.train(1)
    assert torch.equal(weights(taught.teacher), before)


def test_turns_do_not_change_the_run():
    whole, halves = new_network(dropout=0.5), new_network(dropout=0.5)
    retraining(whole).train(5)
    training = retraining(halves)
    training.train(2)
    torch.rand(7)  # what happens in between draws random numbers
    training.train(3)
    assert torch.equal(weights(whole.model), weights(halves.model))
    other = new_network(dropout=0.5)
    retraining(other, seed=1).train(5)
    assert not torch.equal(weights(whole.model), weights(other.model))


def test_momenta_and_average_are_cut_along():
    saved = new_network()
    training = retraining(saved, ema=0.9)
    training.train(2)
    live, averaged = training.networks
    assert live is saved.model and training.result is averaged
    buffer = training.optimizer.state[live.head.weight]["momentum_buffer"].clone()
    before = averaged.head.weight.clone()
    groups = find_groups(live)
    kept = [1, 2, 6]
    training.cut(groups, plan_keeping(groups, {"body.0": kept}))
    assert torch.equal(training.optimizer.state[live.head.weight]["momentum_buffer"], buffer[:, kept])
    assert torch.equal(averaged.head.weight, before[:, kept])
    head = live.head.weight.clone()
    training.train(2)
    assert live.head.weight.shape == averaged.head.weight.shape == (4, 3, 1, 1)
    assert not torch.equal(live.head.weight, head)
    assert not torch.equal(averaged.head.weight, before[:, kept])
    assert torch.equal(averaged.body[1].running_mean, live.body[1].running_mean)
    assert all(parameter.requires_grad for parameter in averaged.parameters())


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_zeros_of_sparse_tensors_stay_through_cuts_and_training(ema):
    saved = new_network()
    name, weight = "body.0.weight", saved.model.body[0].weight
    zeros = torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    set_to_zero(saved.model, {name: zeros})
    saved.meta[SPARSE] = [name]
    training = retraining(saved, ema=ema, weight_decay=0.1)
    groups, kept = find_groups(saved.model), [0, 3, 5]
    for model in training.networks:
        assert torch.equal(model.body[0].weight == 0, zeros)
    training.train(2)
    training.cut(groups, plan_keeping(groups, {"body.0": kept}))
    training.train(2)
    for model in training.networks:
        assert torch.equal(model.body[0].weight == 0, zeros[kept])


def test_momentum_outlives_a_cut():
    """A cut that takes nothing changes nothing, so the momentum goes on; a new optimizer would forget it."""
    plain, touched = new_network(), new_network()
    for saved, cuts in ((plain, False), (touched, True)):
        training = retraining(saved)
        training.train(3)
        if cuts:
            groups = find_groups(saved.model)
            training.cut(groups, plan_keeping(groups, {}))
        training.train(3)
    assert torch.equal(weights(plain.model), weights(touched.model))


def test_what_diverges_is_named():
    with pytest.raises(
        BenchError, match="the training between cuts diverged within 4 steps; try a lower `finetune_lr`"
    ):
        retraining(new_network(norm=False), lr=1e20).train(4)


def test_fp16_needs_a_gpu():
    with pytest.raises(UsageError, match="`amp=fp16` needs a CUDA device"):
        retraining(new_network(), amp="fp16")
