from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from bench.losses import segmentation_loss

IGNORE = 3


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator)
    labels = torch.randint(0, 4, (2, 5, 6), generator=generator)
    return logits, labels


def test_value_of_a_single_pixel():
    logits = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    loss = segmentation_loss(logits, torch.tensor([[[2]]]), IGNORE)
    assert loss.item() == pytest.approx(-math.log(math.e**3 / (math.e + math.e**2 + math.e**3)))


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 1.0, 7.0, 0.0])])
def test_equals_torch_where_pixels_count(batch, weight):
    logits, labels = batch
    expected = F.cross_entropy(logits, labels, weight=weight, ignore_index=IGNORE)
    torch.testing.assert_close(segmentation_loss(logits, labels, IGNORE, weight=weight), expected)


def test_ignored_pixels_do_not_count(batch):
    logits, labels = batch
    changed = torch.where((labels == IGNORE)[:, None], 100.0 * logits, logits)
    assert not torch.equal(changed, logits)
    assert torch.equal(segmentation_loss(changed, labels, IGNORE), segmentation_loss(logits, labels, IGNORE))


def test_class_weights_change_the_loss(batch):
    logits, labels = batch
    plain = segmentation_loss(logits, labels, IGNORE)
    weighted = segmentation_loss(logits, labels, IGNORE, weight=torch.tensor([9.0, 1.0, 1.0, 0.0]))
    per_pixel = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE)
    share = torch.tensor([9.0, 1.0, 1.0, 0.0])[labels]
    torch.testing.assert_close(weighted, (per_pixel * share).sum() / share.sum())
    assert abs(weighted - plain) > 1e-3


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 1.0, 1.0, 0.0])])
@pytest.mark.parametrize("deterministic", [False, True])
def test_all_ignored_gives_zero_and_zero_gradient(batch, weight, deterministic, determinism):
    logits, labels = batch
    determinism(deterministic)
    logits.requires_grad_(True)
    loss = segmentation_loss(logits, torch.full_like(labels, IGNORE), IGNORE, weight=weight)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_ignore_index_beyond_the_outputs():
    logits = torch.zeros(1, 4, 1, 2)
    weight = torch.ones(4)
    loss = segmentation_loss(logits, torch.tensor([[[0, 255]]]), 255, weight=weight)
    assert loss.item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 1.0, 7.0, 0.0])])
def test_deterministic_path_equals_the_ordinary_one(batch, weight, determinism):
    logits, labels = batch
    results = []
    for deterministic in (False, True):
        determinism(deterministic)
        leaf = logits.clone().requires_grad_(True)
        loss = segmentation_loss(leaf, labels, IGNORE, weight=weight)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_auxiliary_loss_is_added_with_its_weight(batch):
    logits, labels = batch
    main, aux = segmentation_loss(logits, labels, IGNORE), segmentation_loss(-logits, labels, IGNORE)
    both = segmentation_loss({"out": logits, "aux": -logits}, labels, IGNORE, aux_weight=0.25)
    torch.testing.assert_close(both, main + 0.25 * aux)


def test_half_precision_logits_give_a_float32_loss(batch):
    logits, labels = batch
    assert segmentation_loss(logits.bfloat16(), labels, IGNORE).dtype == torch.float32


@pytest.fixture
def determinism():
    before = torch.are_deterministic_algorithms_enabled()
    yield torch.use_deterministic_algorithms
    torch.use_deterministic_algorithms(before)
