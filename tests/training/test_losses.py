from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from bench.training.losses import (
    channel_distillation_loss,
    distillation_loss,
    pixel_divergence,
    segmentation_loss,
)

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


# ---- distillation -------------------------------------------------------------------------------------

# One pixel of two classes: the teacher says 1/2 and 1/2, the network 1/4 and 3/4.
HALVES = torch.tensor([0.5, 0.5]).log().reshape(1, 2, 1, 1)
QUARTERS = torch.tensor([0.25, 0.75]).log().reshape(1, 2, 1, 1)
# 1/2 log(1/2 / 1/4) + 1/2 log(1/2 / 3/4); the other way round it is 0.130812.
APART = 0.143841


def test_divergence_by_hand():
    for shift in (0.0, 3.0):
        assert pixel_divergence(QUARTERS + shift, HALVES).tolist() == [[[pytest.approx(APART, abs=1e-6)]]]
    assert pixel_divergence(HALVES, HALVES).tolist() == [[[0.0]]]


def test_divergence_is_summed_over_classes_alone(batch):
    logits, _ = batch
    p, q = logits.flip(0).softmax(1), logits.softmax(1)
    torch.testing.assert_close(pixel_divergence(logits, logits.flip(0)), (p * (p / q).log()).sum(1))


def test_distillation_by_hand():
    labels = torch.zeros(1, 1, 1, dtype=torch.int64)
    assert distillation_loss(QUARTERS, HALVES, labels, IGNORE, 1.0).item() == pytest.approx(APART, abs=1e-6)
    # Halved logits: 1/4 : 3/4 becomes 1 : sqrt(3).
    share = 1 / (1 + math.sqrt(3))
    softened = 0.5 * math.log(0.5 / share) + 0.5 * math.log(0.5 / (1 - share))
    assert distillation_loss(QUARTERS, HALVES, labels, IGNORE, 2.0).item() == pytest.approx(4 * softened, abs=1e-6)


@pytest.mark.parametrize("taught_by", [distillation_loss, channel_distillation_loss])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_network_like_its_teacher_has_nothing_to_learn(taught_by, batch, temperature):
    logits, labels = batch
    leaf = logits.clone().requires_grad_(True)
    # Other logits of the same probabilities are as good.
    loss = taught_by(leaf, logits + 5.0, labels, IGNORE, temperature)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert leaf.grad.abs().max() < 1e-7


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_gradient_pulls_towards_the_teacher(batch, temperature):
    logits, labels = batch
    teacher = logits.flip(0)
    leaf = logits.clone().requires_grad_(True)
    distillation_loss(leaf, teacher, labels, IGNORE, temperature).backward()
    # By hand: T (q - p) at each pixel that counts, over their number.
    counted = (labels != IGNORE)[:, None]
    apart = (logits / temperature).softmax(1) - (teacher / temperature).softmax(1)
    torch.testing.assert_close(leaf.grad, temperature * apart * counted / counted.sum())
    nearer = logits - leaf.grad
    before, after = (distillation_loss(x, teacher, labels, IGNORE, temperature) for x in (logits, nearer))
    assert after < before


@pytest.mark.parametrize("taught_by", [distillation_loss, channel_distillation_loss])
def test_hot_gradients_keep_their_size(taught_by, batch):
    """Without the factor T^2 they would fall by 100 from T = 10 to T = 100."""
    logits, labels = batch
    sizes = []
    for temperature in (10.0, 100.0):
        leaf = logits.clone().requires_grad_(True)
        taught_by(leaf, logits.flip(0), labels, IGNORE, temperature).backward()
        sizes.append(leaf.grad.norm().item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def test_channelwise_distillation_by_hand():
    """Two positions, two classes: of the first the teacher says 1/2 and 1/2, the network 1/4 and 3/4; of the second
    both say the same."""
    labels = torch.zeros(1, 1, 2, dtype=torch.int64)
    other = torch.tensor([0.3, 2.0]).reshape(1, 1, 1, 2)
    network, teacher = (torch.cat([side.reshape(1, 1, 1, 2), other], 1) for side in (QUARTERS, HALVES))
    # The sum over the classes goes by their number.
    assert channel_distillation_loss(network, teacher, labels, IGNORE, 1.0).item() == pytest.approx(APART / 2, abs=1e-6)
    share = 1 / (1 + math.sqrt(3))
    softened = 0.5 * math.log(0.5 / share) + 0.5 * math.log(0.5 / (1 - share))
    hot = channel_distillation_loss(network, teacher, labels, IGNORE, 2.0)
    assert hot.item() == pytest.approx(4 * softened / 2, abs=1e-6)
    # A class may be surer everywhere: where it is stays the same.
    surer = network + torch.tensor([5.0, -3.0]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(channel_distillation_loss(surer, teacher, labels, IGNORE, 2.0), hot)


def test_the_channelwise_gradient_is_that_of_the_softmax_over_positions(batch):
    logits, labels = batch
    teacher, temperature = logits.flip(0), 4.0
    images, classes = logits.shape[:2]
    everywhere = torch.zeros_like(labels)
    leaf = logits.clone().requires_grad_(True)
    channel_distillation_loss(leaf, teacher, everywhere, IGNORE, temperature).backward()
    # By hand: T (q - p) at each position, over classes and images.
    apart = [(side / temperature).flatten(2).softmax(2).view_as(side) for side in (logits, teacher)]
    torch.testing.assert_close(leaf.grad, temperature * (apart[0] - apart[1]) / (classes * images))


def test_void_positions_are_not_taught_channelwise(batch):
    logits, labels = batch
    labels = labels.clone()
    labels[0] = IGNORE
    teacher, void = logits.flip(0), labels == IGNORE
    leaf = logits.clone().requires_grad_(True)
    loss = channel_distillation_loss(leaf, teacher, labels, IGNORE, 2.0)
    loss.backward()
    assert not leaf.grad.permute(0, 2, 3, 1)[void].any() and leaf.grad.isfinite().all()
    # As if each image consisted of its other pixels alone; one that has none does not count.
    expected = []
    for image in range(1, len(logits)):
        p, q = ((side[image][:, ~void[image]] / 2.0).softmax(1) for side in (teacher, logits))
        expected.append(4.0 * (p * (p / q).log()).sum(1).mean())
    torch.testing.assert_close(loss.detach(), torch.stack(expected).mean())
    other = torch.where(void[:, None], 100.0 * teacher, teacher)
    assert torch.equal(channel_distillation_loss(logits, other, labels, IGNORE, 2.0), loss.detach())


def test_void_pixels_are_not_taught(batch):
    logits, labels = batch
    teacher, void = logits.flip(0), labels == IGNORE
    assert 0 < void.sum() < void.numel()
    leaf = logits.clone().requires_grad_(True)
    loss = distillation_loss(leaf, teacher, labels, IGNORE, 2.0)
    loss.backward()
    assert not leaf.grad.permute(0, 2, 3, 1)[void].any()
    counted = 4.0 * pixel_divergence(logits / 2.0, teacher / 2.0)[~void]
    torch.testing.assert_close(loss.detach(), counted.mean())
    other = torch.where(void[:, None], 100.0 * teacher, teacher)
    assert torch.equal(distillation_loss(logits, other, labels, IGNORE, 2.0), loss.detach())


@pytest.mark.parametrize("taught_by", [distillation_loss, channel_distillation_loss])
def test_nothing_but_void_teaches_nothing(taught_by, batch):
    logits, labels = batch
    leaf = logits.clone().requires_grad_(True)
    loss = taught_by(leaf, logits.flip(0), torch.full_like(labels, IGNORE), IGNORE, 1.0)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(leaf.grad, torch.zeros_like(leaf))


@pytest.mark.parametrize("taught_by", [distillation_loss, channel_distillation_loss])
def test_the_auxiliary_head_is_not_taught(taught_by, batch):
    logits, labels = batch
    aux = logits.clone().requires_grad_(True)
    leaf = logits.clone().requires_grad_(True)
    loss = taught_by({"out": leaf, "aux": aux}, logits.flip(0), labels, IGNORE, 1.0)
    loss.backward()
    assert torch.equal(loss, taught_by(logits, logits.flip(0), labels, IGNORE, 1.0))
    assert aux.grad is None


@pytest.mark.parametrize("taught_by", [distillation_loss, channel_distillation_loss])
def test_distillation_in_any_memory_format_and_precision(taught_by, batch):
    logits, labels = batch
    teacher = logits.flip(0)
    plain = taught_by(logits, teacher, labels, IGNORE, 2.0)
    layout = {"memory_format": torch.channels_last}
    torch.testing.assert_close(
        taught_by(logits.contiguous(**layout), teacher.contiguous(**layout), labels, IGNORE, 2.0), plain
    )
    half = [side.bfloat16() for side in (logits, teacher)]
    rounded = taught_by(*(side.float() for side in half), labels, IGNORE, 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = taught_by(*half, labels, IGNORE, 2.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, rounded)


@pytest.fixture
def determinism():
    before = torch.are_deterministic_algorithms_enabled()
    yield torch.use_deterministic_algorithms
    torch.use_deterministic_algorithms(before)
