"""One layer solved for: every kind against torch.linalg.lstsq, and when it is left as it is."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bench.channels.layer_axes import IN, keep_channels
from bench.recover.layer_repair import LayerRepair, Sample, Task, held_out, repair_layer
from bench.recover.options import RepairOptions
from bench.recover.patches import draw_places, filters, outputs_at, patches_at, positions_of

KEPT = torch.tensor([0, 1, 3, 4, 6, 7])
LAYERS = {
    "plain": nn.Conv2d(8, 5, 3, padding=1),
    "strided": nn.Conv2d(8, 5, (3, 2), stride=(2, 3), padding=(1, 0)),
    "dilated": nn.Conv2d(8, 5, 3, padding=2, dilation=2),
    "pointwise": nn.Conv2d(8, 5, 1),
    "grouped": nn.Conv2d(8, 6, 3, padding=1, groups=2),
    "depthwise": nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "transposed": nn.ConvTranspose2d(8, 5, 2, stride=2),
    "overlapping": nn.ConvTranspose2d(8, 5, 3, stride=2, padding=1),
    "linear": nn.Linear(8, 5),
}
# What no cut makes narrower keeps its width and reads other values.
SAME_WIDTH = ("grouped", "depthwise")


def features(images: int = 8) -> Tensor:
    """Smooth, positive maps [N, 8, 12, 14] that depend on each other."""
    generator = torch.Generator().manual_seed(11)
    base = torch.rand(images, 8, 12, 14, generator=generator)
    return torch.einsum("oc,nchw->nohw", torch.rand(8, 8, generator=generator), base) + 0.3 * base


def sample_of(
    layer: nn.Module, inputs: Tensor, count: int = 400, shared: bool = False, kept_out: Tensor | None = None
) -> Sample:
    with torch.no_grad():
        output = layer(inputs)
    places = draw_places(len(inputs), positions_of(layer, output), count, 0, "layer")
    targets = outputs_at(layer, output, places)
    if kept_out is not None:
        targets = targets[:, kept_out]
    size = () if isinstance(layer, nn.Linear) else tuple(output.shape[2:])
    sample = Sample(len(inputs), size, places, targets, torch.ones(len(places)))
    if not shared:
        return sample
    read = draw_places(len(inputs), positions_of(layer, inputs), count, 0, "inputs")
    return replace(
        sample, input_places=read, inputs=outputs_at(layer, inputs, read), input_weights=torch.ones(len(read))
    )


def cut_of(name: str) -> tuple[nn.Module, nn.Module, Tensor, Tensor, Tensor | None]:
    """A layer before and after a cut, what each reads, and the inputs that stay."""
    before = copy.deepcopy(LAYERS[name])
    layer, whole = copy.deepcopy(before), features()
    if name in SAME_WIDTH:
        left = whole + 0.1 * whole.roll(1, 1).square()
        return before, layer, whole, left, None
    keep_channels(layer, IN, KEPT)
    left = whole[:, KEPT]
    if name == "linear":
        return before, layer, whole.movedim(1, -1), left.movedim(1, -1), KEPT
    return before, layer, whole, left, KEPT


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("is_weighed", [False, True])
def test_a_layer_is_lstsq_with_a_constant(name: str, is_weighed: bool) -> None:
    before, layer, whole, left, kept_in = cut_of(name)
    sample, sliced = sample_of(before, whole), copy.deepcopy(layer)
    weights = torch.rand(len(sample.places), generator=torch.Generator().manual_seed(2)).square() * 9
    if is_weighed:
        sample = replace(sample, weights=weights)
    task = Task("layer", layer, None, None, kept_in, filters(before))
    done = repair_layer(task, sample, left, RepairOptions(repair_lambda=1e-10))
    assert (done.outcome, done.form, done.positions) == ("repaired", "full", len(sample.places))
    read = patches_at(sliced, left, sample.size, sample.places).double()
    wanted = sample.targets.double().reshape(len(sample.places), len(read), -1).transpose(0, 1)
    ones = torch.cat([read, torch.ones_like(read[..., :1])], dim=-1)
    often = sample.weights.double().sqrt()[:, None]
    solution = torch.linalg.lstsq(often * ones, often * wanted, driver="gelsd").solution
    made = torch.cat([filters(layer).double(), layer.bias.detach().double().reshape(len(read), -1, 1)], dim=-1)
    torch.testing.assert_close(ones @ made.mT, ones @ solution, atol=1e-3, rtol=1e-3)
    # As the layer itself computes: closer to what was before than the slice.
    error, sliced_error = ((one(left) - before(whole)).square().mean() for one in (layer, sliced))
    assert error < 0.5 * sliced_error
    assert done.explained_repaired > done.explained_sliced


@pytest.mark.parametrize("name", ["plain", "dilated", "overlapping"])
def test_a_large_kernel_is_mended_over_its_channels(name: str) -> None:
    """W'[o, k] = sum_c W[o, c] B[c, k] with B the regression of the inputs before on those that are left."""
    before, layer, whole, left, _ = cut_of(name)
    sample, sliced = sample_of(before, whole, count=800, shared=True), copy.deepcopy(layer)
    task = Task("layer", layer, None, None, KEPT, filters(before))
    assert task.is_shared(20, 800) and not task.is_shared(54, 800) and task.is_shared(2500, 50)
    done = repair_layer(task, sample, left, RepairOptions(repair_lambda=1e-10))
    assert (done.outcome, done.form, done.unknowns) == ("repaired", "shared", 6)
    x = outputs_at(layer, left, sample.input_places).double()
    ones = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    matrix = torch.linalg.lstsq(ones, sample.inputs.double()).solution[:-1].T
    into = "oc...,ck->ok..." if name != "overlapping" else "co...,ck->ko..."
    wanted = torch.einsum(into, before.weight.detach().double(), matrix)
    torch.testing.assert_close(layer.weight.detach().double(), wanted, atol=1e-4, rtol=1e-4)
    error, sliced_error = ((one(left) - before(whole)).square().mean() for one in (layer, sliced))
    assert error < 0.5 * sliced_error


def test_the_constant_goes_to_the_norm_behind_where_there_is_no_bias() -> None:
    before, whole = nn.Conv2d(8, 5, 1, bias=False), features() + 1
    norm = nn.BatchNorm2d(5).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    layer, mended = copy.deepcopy(before), copy.deepcopy(norm)
    keep_channels(layer, IN, KEPT)
    repair_layer(
        Task("layer", layer, mended, None, KEPT, filters(before)),
        sample_of(before, whole),
        whole[:, KEPT],
        RepairOptions(repair_lambda=1e-6),
    )
    assert torch.equal(mended.running_var, norm.running_var)
    assert not torch.equal(mended.running_mean, norm.running_mean)
    given, wanted = mended(layer(whole[:, KEPT])), norm(before(whole))
    assert (given.mean((0, 2, 3)) - wanted.mean((0, 2, 3))).abs().max() < 0.05


def test_without_a_place_for_a_constant_there_is_none() -> None:
    before, whole = nn.Conv2d(8, 5, 1, bias=False), features()
    layer, sample = copy.deepcopy(before), sample_of(before, whole)
    keep_channels(layer, IN, KEPT)
    task = Task("layer", layer, None, None, KEPT, filters(before))
    assert not task.takes_constant
    repair_layer(task, sample, whole[:, KEPT], RepairOptions(repair_lambda=1e-10))
    x = patches_at(layer, whole[:, KEPT], sample.size, sample.places)[0].double()
    wanted = torch.linalg.lstsq(x, sample.targets.double()).solution.T
    torch.testing.assert_close(layer.weight.detach()[:, :, 0, 0].double(), wanted, atol=1e-4, rtol=1e-4)


def test_what_the_cut_did_not_change_is_not_touched() -> None:
    before, whole = nn.Conv2d(8, 5, 3, padding=1), features()
    layer = copy.deepcopy(before)
    task = Task("layer", layer, None, None, None, filters(before))
    done = repair_layer(task, sample_of(before, whole), whole, RepairOptions())
    assert done == LayerRepair("unchanged", "full", 400, 72)
    assert torch.equal(layer.weight, before.weight) and torch.equal(layer.bias, before.bias)


def test_independent_features_leave_a_layer_as_it_was_sliced() -> None:
    """What stays says nothing of what went, so nothing holds on other images."""
    whole = torch.randn(8, 8, 20, 20, generator=torch.Generator().manual_seed(4))
    before = nn.Conv2d(8, 5, 3, padding=1)
    layer = copy.deepcopy(before)
    keep_channels(layer, IN, KEPT)
    sliced = copy.deepcopy(layer)
    task = Task("layer", layer, None, None, KEPT, filters(before))
    done = repair_layer(task, sample_of(before, whole, 1600), whole[:, KEPT], RepairOptions())
    assert (done.outcome, done.ridge) == ("sliced", None)
    assert done.explained_repaired == done.explained_sliced
    assert torch.equal(layer.weight, sliced.weight) and torch.equal(layer.bias, sliced.bias)


def test_a_constant_alone_where_only_that_is_missing() -> None:
    whole = torch.randn(8, 8, 20, 20, generator=torch.Generator().manual_seed(4))
    whole[:, [2, 5]] += 3
    before = nn.Conv2d(8, 5, 1)
    layer = copy.deepcopy(before)
    keep_channels(layer, IN, KEPT)
    sliced = copy.deepcopy(layer)
    task = Task("layer", layer, None, None, KEPT, filters(before))
    done = repair_layer(task, sample_of(before, whole, 3200), whole[:, KEPT], RepairOptions())
    assert done.outcome == "constant"
    assert torch.equal(layer.weight, sliced.weight)
    lost = before.weight.detach()[:, [2, 5], 0, 0].sum(1) * 3
    torch.testing.assert_close(layer.bias.detach() - sliced.bias.detach(), lost, atol=0.06, rtol=0)


def test_the_ridge_is_what_serves_held_out_images_best() -> None:
    """An exact relation asks for none; fewer positions than weights and noise ask for much."""
    exact = features()
    exact[:, 2], exact[:, 5] = exact[:, 0] + exact[:, 1], exact[:, 3] - exact[:, 7]
    noisy = torch.rand(8, 8, 20, 20, generator=torch.Generator().manual_seed(4))
    noisy[:, 2] += 0.8 * noisy[:, 0]
    ridges = []
    for whole, size, count in ((exact, 1, 400), (noisy, 3, 64)):
        before = nn.Conv2d(8, 5, size)
        layer = copy.deepcopy(before)
        keep_channels(layer, IN, KEPT)
        task = Task("layer", layer, None, None, KEPT, filters(before))
        done = repair_layer(task, sample_of(before, whole, count), whole[:, KEPT], RepairOptions())
        assert done.outcome == "repaired" or size == 3
        ridges.append(done.ridge or 1)
        if size == 1:
            assert (layer(whole[:, KEPT]) - before(whole)).abs().max() < 1e-4
    assert ridges[0] == 1e-8
    assert ridges[1] >= 1e-3


def test_too_few_positions_change_nothing() -> None:
    before, whole = nn.Conv2d(8, 5, 1), features(images=1)[:, :, :1, :1]
    layer = copy.deepcopy(before)
    keep_channels(layer, IN, KEPT)
    task = Task("layer", layer, None, None, KEPT, filters(before))
    done = repair_layer(task, sample_of(before, whole), whole[:, KEPT], RepairOptions())
    assert (done.outcome, done.form) == ("sliced", "none")
    assert torch.equal(layer.weight, before.weight[:, KEPT])


def test_whole_images_are_held_out() -> None:
    image = torch.arange(8).repeat_interleave(3)
    assert image[held_out(image, 8)].unique().tolist() == [6, 7]
    few = torch.zeros(12, dtype=torch.long)
    assert held_out(few, 1).nonzero().flatten().tolist() == [3, 7, 11]


def test_what_a_norm_takes_away_makes_up_for_nothing() -> None:
    norm = nn.BatchNorm2d(2).eval()
    norm.weight.data = torch.tensor([0.0, 2.0])
    norm.running_var.fill_(4.0)
    task = Task("layer", nn.Conv2d(3, 2, 1, bias=False), norm, None, None, torch.empty(0))
    given = task.before_norm(torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(given, torch.tensor([[0.0, 1.0]]), atol=1e-4, rtol=0)
