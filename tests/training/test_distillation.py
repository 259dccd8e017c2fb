"""Learning from a teacher: it stays as it is, is part of the run's identity, and makes a difference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from toy_networks import plan_keeping
from toy_training import CLASSES, TOY, ToyData, new_network, toy_distillation

from bench.channels.groups import find_groups
from bench.cut.network import cut
from bench.errors import BenchError
from bench.models import MODELS
from bench.models.checkpoint import load_model
from bench.torch_utils.sparse_weights import SPARSE, set_to_zero
from bench.train_eval import fit
from bench.training.distillation import Distillation, distillation_of
from bench.training.losses import (
    channel_distillation_loss,
    distillation_loss,
    pixel_divergence,
    segmentation_loss,
)
from bench.training.options import DistillOptions, TrainOptions

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(MODELS, "toy", TOY)


def train(folder, saved, distillation=None, data=None, *, resume=False, **options):
    recipe = TrainOptions(**{"epochs": 2, "batch_size": 4, "lr": 0.1, **options})
    how = {"distillation": distillation, "resume": resume, "device": CPU}
    return fit(saved, data or ToyData(), recipe, 0, folder, **how)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in model.state_dict().items())


def test_no_weight_is_no_distillation():
    teacher = new_network().model
    assert distillation_of(DistillOptions(), teacher, "abc") is None
    assert distillation_of(DistillOptions(0.0, 4.0), teacher, "abc") is None
    taught = distillation_of(DistillOptions(0.5, 4.0), teacher, "abc")
    assert taught.teacher is teacher
    assert taught.as_record() == {"distill_weight": 0.5, "distill_temperature": 4.0, "teacher": "abc"}
    channelwise = distillation_of(DistillOptions(0.5, 4.0, "channel"), teacher, "abc")
    assert channelwise.as_record() == {**taught.as_record(), "distill_mode": "channel"}


def test_a_teacher_speaks_in_evaluation_mode():
    taught = toy_distillation(dropout=0.5, aux=True)
    images, _ = ToyData().train
    teacher = taught.teacher.train()
    teacher.aux.eval()
    logits = taught.logits(images)
    assert not logits.requires_grad
    assert teacher.training and teacher.body[3].training and not teacher.aux.training
    assert torch.equal(logits, teacher.eval()(images))


@pytest.mark.parametrize(("mode", "divergence"), [("pixel", distillation_loss), ("channel", channel_distillation_loss)])
def test_one_step_by_hand(mode, divergence, tmp_path):
    """Cross-entropy, the auxiliary head's, and the weighted divergence from the main head alone."""
    saved, by_hand, data = new_network(aux=True), new_network(aux=True).model.train(), ToyData()
    taught = toy_distillation(0.5, 2.0, mode)
    plain = {"batch_size": 12, "momentum": 0.0, "weight_decay": 0.0, "epochs": 1}
    result = train(tmp_path, saved, taught, data, **plain)
    ((images, labels),) = data.train_loader(12)
    output, void = by_hand(images), CLASSES.ignore_index
    loss = segmentation_loss(output, labels, void)
    wanted = taught.teacher.eval()(images).detach()
    loss = loss + 0.5 * divergence(output["out"], wanted, labels, void, 2.0)
    loss.backward()
    assert result.history[0]["train_loss"] == pytest.approx(loss.item())
    with torch.no_grad():
        for parameter in by_hand.parameters():
            parameter -= 0.1 * parameter.grad
    for a, b in zip(saved.model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b)


RECIPES = {
    "plain": {},
    "averaged": {"ema": 0.9},
    "accumulated": {"accumulate": 2, "grad_clip": 1.0, "compute_class_weights": True},
    "half": {"amp": "bf16", "channels_last": True},
}


@pytest.mark.parametrize("options", RECIPES.values(), ids=RECIPES)
def test_the_teacher_stays_as_it_is(tmp_path, options):
    taught = toy_distillation(2.0, 2.0, dropout=0.5, aux=True)
    before = state(taught.teacher)
    saved, plain = (new_network(dropout=0.2, aux=True) for _ in range(2))
    result = train(tmp_path / "taught", saved, taught, **options)
    alone = train(tmp_path / "alone", plain, **options)
    assert same(taught.teacher, before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in taught.teacher.parameters())
    assert {tensor.dtype for tensor in taught.teacher.state_dict().values()} == {torch.float32, torch.int64}
    assert all(module.training for module in taught.teacher.modules())
    # It was asked, and the student learned from labels too.
    assert not same(plain.model, state(saved.model))
    assert result.history[0]["train_loss"] > alone.history[0]["train_loss"]
    assert result.history[1]["train_loss"] < result.history[0]["train_loss"]


def test_accumulation_equals_the_larger_batch(tmp_path):
    small, large, data = new_network(norm=False), new_network(norm=False), ToyData(void=False)
    train(tmp_path / "small", small, toy_distillation(), data, batch_size=2, accumulate=2)
    train(tmp_path / "large", large, toy_distillation(), data, batch_size=4)
    for a, b in zip(small.model.parameters(), large.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_zeros_stay(tmp_path):
    saved, name = new_network(), "body.0.weight"
    zeros = torch.rand(saved.model.body[0].weight.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    set_to_zero(saved.model, {name: zeros})
    saved.meta[SPARSE] = [name]
    train(tmp_path, saved, toy_distillation())
    assert torch.equal(load_model(tmp_path / "best.pt").model.body[0].weight == 0, zeros)


# ---- that it matters ----------------------------------------------------------------------------------


def pruned(teacher):
    """What a cut to three of eight channels leaves of the teacher."""
    saved = new_network()
    saved.model.load_state_dict(teacher.state_dict())
    groups = find_groups(saved.model)
    cut(saved.model, groups, plan_keeping(groups, {"body.0": [0, 2, 5]}))
    return saved


def test_a_taught_network_ends_closer_to_its_teacher_on_images_it_never_saw(tmp_path):
    # Trained for a short time only, so that it is less sure of itself than the labels are.
    teacher, data = new_network(), ToyData(images=24, val_images=16)
    train(tmp_path / "teacher", teacher, data=data, epochs=3)
    images, _ = data.val
    with torch.no_grad():
        wanted = teacher.model(images)
    apart, far = {}, {}
    for weight in (0.0, 5.0):
        saved = pruned(teacher.model)
        taught = distillation_of(DistillOptions(weight), teacher.model, "teacher")
        train(tmp_path / str(weight), saved, taught, data, epochs=8, lr=0.05)
        with torch.no_grad():
            found = saved.model(images)
        apart[weight] = pixel_divergence(found, wanted).mean().item()
        # Logits are only known up to a shift of a pixel's.
        far[weight] = F.mse_loss(found - found.mean(1, keepdim=True), wanted - wanted.mean(1, keepdim=True)).item()
    assert apart[5.0] < 0.2 * apart[0.0]
    assert far[5.0] < 0.2 * far[0.0]


# ---- resuming -----------------------------------------------------------------------------------------


def test_stopped_and_resumed_equals_uninterrupted(tmp_path):
    options = {"epochs": 3, "ema": 0.5}
    whole, again = new_network(dropout=0.5), new_network(dropout=0.5)
    train(tmp_path / "whole", whole, toy_distillation(), **options)

    def interrupt(epoch, batch):
        if (epoch, batch) == (1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", new_network(dropout=0.5), toy_distillation(), ToyData(watch=interrupt), **options)
    train(tmp_path / "stopped", again, toy_distillation(), resume=True, **options)
    assert same(again.model, state(whole.model))
    best = [load_model(tmp_path / name / "best.pt").model for name in ("whole", "stopped")]
    assert same(best[0], state(best[1]))


@pytest.mark.parametrize(
    ("started", "resumed", "named"),
    [
        ((1.0, 2.0), (3.0, 2.0), r"`distill_weight` is 3\.0, the run was started with 1\.0"),
        ((1.0, 2.0), (1.0, 1.0), r"`distill_temperature` is 1\.0, the run was started with 2\.0"),
        ((1.0, 2.0), (1.0, 2.0, "channel"), "`distill_mode` is channel, the run was started with not given"),
        ((1.0, 2.0), (1.0, 2.0, "pixel", 7), "`baseline` is toy 7, the run was started with toy 1"),
        ((1.0, 2.0), None, r"`distill_weight` is not given, the run was started with 1\.0"),
        (None, (1.0, 2.0), r"`distill_weight` is 1\.0, the run was started with not given"),
    ],
)
def test_another_distillation_does_not_go_on(tmp_path, started, resumed, named):
    def taught(how) -> Distillation | None:
        return how and toy_distillation(*how)

    train(tmp_path, new_network(), taught(started))
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(BenchError, match=named) as error:
        train(tmp_path, new_network(), taught(resumed), resume=True)
    assert "\n" not in str(error.value)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_teacher_is_named_by_its_content(tmp_path):
    """The same file elsewhere is the same teacher."""
    taught = toy_distillation()
    train(tmp_path, new_network(), taught)
    moved = replace(taught, teacher=toy_distillation().teacher)
    assert train(tmp_path, new_network(), moved, resume=True).epochs == 2
    assert load_model(tmp_path / "best.pt").meta["options"].items() >= taught.as_record().items()
