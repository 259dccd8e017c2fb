"""Memory of a forward pass, against networks whose answer is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.measure.activation_memory import LiveBytes
from bench.measure.cost import measure_cost
from bench.models import ModelSpec, build_model
from bench.torch_utils.dry_run import blank_image

HEIGHT, WIDTH = 6, 10
PIXELS = HEIGHT * WIDTH


class Function(nn.Module):
    """A network that is a function of an image and has a weight nobody reads."""

    def __init__(self, function):
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.ones(5)), function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def held(images: Tensor) -> Tensor:
    skip = images * 2
    return skip + ((images + 1) + 1)


def dropped(images: Tensor) -> Tensor:
    for _ in range(5):
        images = images + 1
    return images


CASES = {
    # Channels alive at the worst moment, the image's 3 among them.
    "conv, relu": (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)), 3 + 8 + 8),
    "relu in place": (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(True), nn.Conv2d(8, 4, 1)), 3 + 8 + 4),
    "norm": (nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2)), 3 + 2 + 2),
    "a skip is held": (Function(held), 4 * 3),
    "what is done with goes": (Function(dropped), 3 * 3),
    "a view takes nothing": (Function(lambda images: images.permute(0, 2, 3, 1)[..., :2]), 3),
    "concatenation": (Function(lambda images: torch.cat([images, images + 1], dim=1)), 3 + 3 + 6),
    # Half of the pixels each way: a quarter of the values, and an index of 8 bytes for each.
    "pooling makes indices": (Function(lambda images: F.max_pool2d(images, 2)), 3 + 3 / 4 + 2 * 3 / 4),
    "linear reads its weight as a view": (
        nn.Sequential(nn.Flatten(), nn.Linear(3 * PIXELS, 2 * PIXELS, bias=False)),
        3 + 2,
    ),
}


@torch.no_grad()
def passed(model: nn.Module, size: tuple[int, int] = (HEIGHT, WIDTH)) -> tuple[LiveBytes, Tensor]:
    """What a real pass of one image takes, and what it gives."""
    with LiveBytes(model.eval()) as memory:
        output = model(blank_image(model, size))
    return memory, output


@pytest.mark.parametrize("name", CASES)
def test_peak_of_a_known_network(name):
    model, channels = CASES[name]
    memory, output = passed(model)
    assert memory.peak == 4 * PIXELS * channels
    assert memory.live == output.untyped_storage().nbytes()
    del output
    assert memory.live == 0


def test_half_precision_takes_half():
    model, channels = CASES["conv, relu"]
    model = nn.Sequential(*model).to(torch.bfloat16)
    assert measure_cost(model, (HEIGHT, WIDTH)).peak_activation_bytes == 2 * PIXELS * channels


def test_training_flags_do_not_matter_and_buffers_do_not_count():
    model = CASES["norm"][0].train()
    before = model[1].running_mean.clone()
    assert measure_cost(model, (HEIGHT, WIDTH)).peak_activation_bytes == 4 * PIXELS * 7
    assert torch.equal(model[1].running_mean, before)


@pytest.mark.parametrize("name", ["unet_small", "resnet18_seg"])
def test_shapes_alone_say_what_a_real_pass_takes(name):
    model, size = build_model(ModelSpec(name, 12)), (37, 50)
    assert measure_cost(model, size).peak_activation_bytes == passed(model, size)[0].peak > 0
