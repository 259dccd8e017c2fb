"""Costs against hand formulas and thop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import toy_networks as toys
from torch import Tensor, nn

from bench.measure.cost import count_parameters, layer_macs, measure_cost, state_bytes
from bench.models import ModelSpec, build_model
from bench.models.segformer import Attention as ReducedAttention
from bench.torch_utils import torchvision_compat as vision_compat  # noqa: F401 - before torchvision
from bench.torch_utils.dry_run import stand_in

HEIGHT, WIDTH = 20, 30


class AllKinds(nn.Module):
    """Every kind of layer the networks here have, at known sizes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4, bias=False)
        self.depthwise = nn.Conv2d(12, 12, 5, padding=2, groups=12)
        self.back = nn.Conv2d(12, 8, 1)
        self.unpool = nn.MaxUnpool2d(2)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.head = nn.Conv2d(6, 5, 1)
        self.classify = nn.Linear(5, 7)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.norm(self.conv(images)))
        pooled, indices = self.pool(features)
        pooled = self.back(self.depthwise(self.grouped(pooled)))
        features = self.unpool(pooled, indices, output_size=features.shape)
        logits = F.interpolate(self.head(self.up(features)), images.shape[-2:], mode="bilinear")
        return self.classify(logits.permute(0, 2, 3, 1))


# 20x30 -> 10x15 by the first convolution -> 5x7 by pooling -> 10x15 by unpooling -> 20x30 by the transposed one.
MACS = {
    "conv": 10 * 15 * 8 * 3 * 9,
    "grouped": 5 * 7 * 12 * (8 // 4) * 9,
    "depthwise": 5 * 7 * 12 * 25,
    "back": 5 * 7 * 12 * 8,
    "up": 10 * 15 * 8 * (6 // 2) * 4,
    "head": 20 * 30 * 6 * 5,
    "classify": 20 * 30 * 5 * 7,
}


class Attention(nn.Module):
    """Attention as torch's own module, whose fused evaluation path counters do not see."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, stride=4)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        # Neither parameter nor buffer, and made on the default device.
        self.offset = torch.ones(1)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.offset
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


def state_of(model: nn.Module) -> dict:
    return {
        "pointers": {name: tensor.data_ptr() for name, tensor in model.state_dict().items()},
        "values": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "wanted": [parameter.requires_grad for parameter in model.parameters()],
    }


def macs_of(model: nn.Module, size: tuple[int, int] = (HEIGHT, WIDTH)) -> int:
    return measure_cost(model, size).macs


def test_macs_equal_the_formula():
    assert macs_of(AllKinds()) == sum(MACS.values())


def test_macs_of_each_layer():
    assert layer_macs(AllKinds(), (HEIGHT, WIDTH)) == MACS
    assert layer_macs(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()), (4, 5)) == {"0": 3 * 2 * 20}


def test_a_layer_that_is_not_run_has_no_macs_and_one_that_runs_twice_has_both():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.never = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.twice(self.twice(images)[..., ::2])

    assert layer_macs(Odd(), (4, 6)) == {"twice": 9 * 24 + 9 * 12}


def textbook_macs(model: nn.Module, size: tuple[int, int]) -> int:
    """The textbook formulas over the shapes that convolutions, linear layers and attention read and write."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features
            return
        if isinstance(layer, ReducedAttention):
            tokens, (height, width) = inputs
            step = 1 if layer.reduce is None else layer.reduce.stride[0]
            # Each token meets each of the fewer ones twice: how much it heeds it, and what it takes of it.
            total += 2 * tokens.numel() * (height // step) * (width // step)
            return
        _, channels, height, width = output.shape
        if isinstance(layer, nn.ConvTranspose2d):
            # Every input pixel is spread over a window of the output.
            height, width = inputs[0].shape[2:]
        window = layer.kernel_size[0] * layer.kernel_size[1]
        total += height * width * channels * (layer.in_channels // layer.groups) * window

    handles = [
        layer.register_forward_hook(count)
        for layer in model.modules()
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, ReducedAttention))
    ]
    model.eval()(torch.empty(1, 3, *size, device="meta"))
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("name", toys.KINDS)
def test_every_network_costs_what_textbooks_say_and_thop_agrees(name):
    size = (93, 125)
    with torch.device("meta"):
        model = build_model(ModelSpec(name, 12))
    expected = textbook_macs(model, size)
    # Costs do not depend on what the weights are.
    cost = measure_cost(model.to_empty(device="cpu"), size)
    assert cost.macs == expected
    assert cost.flops == 2 * expected
    # Of a depthwise convolution few operations come on each of its norm.
    assert 0 < cost.thop_percent < (7 if name == "efficientnet_lite0_seg" else 2)
    assert cost.thop_percent == pytest.approx(100 * (cost.thop_macs / expected - 1))
    assert cost.thop_note.startswith("thop also counts ") and "BatchNorm2d +" in cost.thop_note
    assert "other operators" not in cost.thop_note


def test_the_note_says_what_makes_thops_difference():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear")
    )
    cost = measure_cost(model, (10, 10))
    # By thop's rules a norm with weights takes 4 operations a value, bilinear upsampling 11 a value it makes.
    assert (cost.macs, cost.thop_macs) == (2400, 2400 + 4 * 800 + 11 * 3200)
    assert (
        cost.thop_note
        == f"thop also counts BatchNorm2d +{100 * 3200 / 2400:.2f} %, Upsample +{100 * 35200 / 2400:.2f} %"
    )
    assert measure_cost(model[0], (10, 10)).thop_note == "thop counts the same"
    assert measure_cost(model[0], (10, 10)).thop_percent == 0


def test_the_note_does_not_hide_what_no_module_explains():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 3, 1, 1))

        def forward(self, images: Tensor) -> Tensor:
            return F.conv2d(images, self.weight)

    assert measure_cost(Functional(), (5, 5)).thop_note == "thop also counts other operators -100.00 %"


@pytest.mark.parametrize("name", MACS)
def test_macs_of_each_kind(name):
    model = AllKinds()
    with torch.no_grad():
        counted = _macs_without(model, name)
    assert sum(MACS.values()) - counted == MACS[name]


def _macs_without(model: AllKinds, name: str) -> int:
    """Replaces a layer by one that gives the same shape for nothing."""
    layer = getattr(model, name)
    shapes: list[torch.Size] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    model.eval()(torch.rand(1, 3, HEIGHT, WIDTH))
    handle.remove()

    class Free(nn.Module):
        def forward(self, features: Tensor, **kwargs) -> Tensor:
            return features.new_zeros(shapes[0])

    setattr(model, name, Free())
    return macs_of(model)


def test_attention_is_counted_whole():
    tokens, width = 5 * 7, 16
    projections = 4 * tokens * width * width
    products = 2 * tokens * tokens * width
    assert macs_of(Attention()) == tokens * width * 3 * 16 + projections + products
    assert torch.backends.mha.get_fastpath_enabled()


def test_counting_in_half_precision_counts_the_same():
    assert macs_of(AllKinds().to(torch.bfloat16)) == sum(MACS.values())


def test_measure_cost():
    model = AllKinds()
    cost = measure_cost(model, (HEIGHT, WIDTH))
    parameters = 8 * 27 + 8 + 16 + 12 * 2 * 9 + 12 * 25 + 12 + 12 * 8 + 8 + 8 * 3 * 4 + 6 + 30 + 5 + 35 + 7
    assert cost.parameters == count_parameters(model) == parameters
    assert cost.macs == sum(MACS.values())
    assert cost.flops == 2 * cost.macs
    # Besides the parameters: running mean and variance, and BatchNorm's int64 counter of batches.
    assert cost.state_bytes == 4 * (parameters + 16) + 8
    assert cost.input_size == (HEIGHT, WIDTH)
    assert cost.counter == "torch.utils.flop_counter"


def test_a_computed_weight_costs_what_one_pass_spends_on_it():
    layer = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 1)).eval()
    # Sigma is u^T W v: a product of a matrix and a vector, and one of two vectors.
    assert measure_cost(layer, (8, 8)).macs == 8 * 8 * 4 * 3 + 4 * 3 + 4


def test_parameters_that_are_zero_do_not_count_as_nonzero():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    model[0].weight.data.fill_(1.0)
    model[0].weight.data[0, 1] = 0.0
    # The convolution's bias is drawn, the norm's is zero.
    assert measure_cost(model, (4, 4)).nonzero_parameters == 5 + 2 + 2 + 0
    model[0].bias = model[1].weight
    assert measure_cost(model, (4, 4)).nonzero_parameters == 5 + 2


def test_shared_weights_count_once():
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False))
    model[1].weight = model[0].weight
    assert count_parameters(model) == 9
    assert state_bytes(model) == 36
    assert macs_of(model, (4, 5)) == 2 * 9 * 20


@pytest.mark.parametrize("measure", [measure_cost, layer_macs])
def test_the_model_is_left_as_it_was(measure):
    model = AllKinds().train()
    model.norm.eval()
    model.head.weight.requires_grad_(False)
    before = state_of(model)
    measure(model, (HEIGHT, WIDTH))
    after = state_of(model)
    assert all(torch.equal(value, after["values"][name]) for name, value in before.pop("values").items())
    after.pop("values")
    assert after == before


def test_what_a_pass_leaves_in_the_modules_stays_in_the_copy():
    class Remembering(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            self.last = super().forward(images)
            return self.last

    model = Remembering(3, 4, 1)
    assert macs_of(model, (4, 4)) == 3 * 4 * 16
    assert not hasattr(model, "last")


def test_stand_in_takes_no_memory():
    model = nn.Conv2d(3, 8, 3)
    with stand_in(model) as shadow:
        # A real output of this size would take 32 TB.
        assert shadow(torch.empty(1, 3, 10**6 + 2, 10**6 + 2)).shape == (1, 8, 10**6, 10**6)


def test_resnet18_has_its_published_macs():
    import torchvision

    model = torchvision.models.resnet18(weights=None)
    cost = measure_cost(model, (224, 224))
    # Torchvision's table says 1.81 GFLOPS, meaning multiply-accumulates, and 11,689,512 parameters.
    assert cost.parameters == 11_689_512
    assert cost.macs == pytest.approx(1.814e9, rel=1e-3)
