"""Costs against hand formulas and thop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import vision_compat  # noqa: F401 - before torchvision
from bench.cost import count_parameters, measure_cost, model_macs, stand_in, state_bytes, thop_macs

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


def test_macs_equal_the_formula():
    assert model_macs(AllKinds(), (HEIGHT, WIDTH)) == sum(MACS.values())


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
    return model_macs(model, (HEIGHT, WIDTH))


def test_batch_multiplies():
    assert model_macs(AllKinds(), (HEIGHT, WIDTH), batch=3) == 3 * sum(MACS.values())


def test_attention_is_counted_whole():
    tokens, width = 5 * 7, 16
    projections = 4 * tokens * width * width
    products = 2 * tokens * tokens * width
    assert model_macs(Attention(), (HEIGHT, WIDTH)) == tokens * width * 3 * 16 + projections + products
    assert torch.backends.mha.get_fastpath_enabled()


def test_counting_in_half_precision_counts_the_same():
    assert model_macs(AllKinds().to(torch.bfloat16), (HEIGHT, WIDTH)) == sum(MACS.values())


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
    assert model_macs(model, (4, 5)) == 2 * 9 * 20


@pytest.mark.parametrize("measure", [measure_cost, thop_macs])
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
    assert model_macs(model, (4, 4)) == 3 * 4 * 16
    assert not hasattr(model, "last")


def test_stand_in_takes_no_memory():
    model = nn.Conv2d(3, 8, 3)
    with stand_in(model) as shadow:
        # A real output of this size would take 32 TB.
        assert shadow(torch.empty(1, 3, 10**6 + 2, 10**6 + 2)).shape == (1, 8, 10**6, 10**6)


@pytest.mark.parametrize(
    ("family", "name", "size"),
    [
        ("segmentation", "deeplabv3_resnet50", (360, 480)),
        ("segmentation", "fcn_resnet50", (180, 241)),
        ("", "resnet18", (224, 224)),
    ],
)
def test_thop_agrees_within_two_percent(family, name, size):
    import torchvision

    zoo = torchvision.models.segmentation if family else torchvision.models
    with torch.device("meta"):
        model = getattr(zoo, name)(weights=None, **({"weights_backbone": None} if family else {}))
    assert thop_macs(model, size) == pytest.approx(model_macs(model, size), rel=0.02)


def test_resnet18_has_its_published_macs():
    import torchvision

    model = torchvision.models.resnet18(weights=None)
    cost = measure_cost(model, (224, 224))
    # Torchvision's table says 1.81 GFLOPS, meaning multiply-accumulates, and 11,689,512 parameters.
    assert cost.parameters == 11_689_512
    assert cost.macs == pytest.approx(1.814e9, rel=1e-3)
