"""Windows, scales and mirroring: exact where they can change nothing, by hand where they do."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_training import CLASSES

from bench.errors import UsageError
from bench.measure.evaluation import evaluate
from bench.measure.inference import PLAIN, Scoring, predict, window_starts
from bench.measure.options import ScoringOptions

IMAGES = torch.randn(2, 3, 13, 17, generator=torch.Generator().manual_seed(0))
SIZE = (26, 34)


def net(kernel: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, kernel, padding=kernel // 2), nn.Tanh(), nn.Conv2d(5, 4, 1)).eval()


class Watched:
    """A network that notes the sizes it sees."""

    def __init__(self, network):
        self.network, self.sizes = network, []

    def __call__(self, images: Tensor) -> Tensor:
        self.sizes.append(tuple(images.shape[-2:]))
        return self.network(images)


def upsampled(logits: Tensor) -> Tensor:
    return F.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False)


@torch.no_grad()
def test_one_pass_is_the_network_scaled_up():
    expected = upsampled(net()(IMAGES)).argmax(1)
    assert torch.equal(predict(net(), IMAGES, SIZE), expected)
    assert expected.unique().numel() > 1


@pytest.mark.parametrize(
    "scoring",
    [
        Scoring(scales=(1.0,)),
        Scoring(sliding_window=(13, 17)),
        Scoring(sliding_window=(50, 60), stride=(5, 5)),
        Scoring(sliding_window=(13, 99)),
    ],
)
@torch.no_grad()
def test_what_shows_the_whole_image_once_changes_nothing(scoring):
    network = Watched(net())
    assert torch.equal(predict(network, IMAGES, SIZE, scoring), predict(net(), IMAGES, SIZE))
    assert network.sizes == [(13, 17)]


@pytest.mark.parametrize(
    ("window", "stride"), [((5, 5), None), ((13, 4), (1, 3)), ((1, 17), (1, 1)), ((6, 7), (6, 7)), ((12, 16), (12, 16))]
)
@torch.no_grad()
def test_a_network_that_looks_at_single_pixels_sees_no_windows(window, stride):
    network = Watched(net(kernel=1))
    found = predict(network, IMAGES, SIZE, Scoring(sliding_window=window, stride=stride))
    assert torch.equal(found, predict(net(kernel=1), IMAGES, SIZE))
    assert set(network.sizes) == {window}
    assert len(network.sizes) > 1


@torch.no_grad()
def test_overlapping_windows_are_averaged():
    network, scoring = net(), Scoring(sliding_window=(13, 8), stride=(13, 6))
    total, passes = torch.zeros(2, 4, 13, 17), torch.zeros(17)
    for left in (0, 6, 9):
        total[..., left : left + 8] += network(IMAGES[..., left : left + 8])
        passes[left : left + 8] += 1
    assert passes.tolist() == [1] * 6 + [2] * 2 + [1] + [2] * 5 + [1] * 3
    expected = total / passes
    assert torch.equal(predict(network, IMAGES, (13, 17), scoring), expected.argmax(1))
    assert not torch.equal(expected.argmax(1), predict(network, IMAGES, (13, 17)))


@torch.no_grad()
def test_windows_of_a_network_with_coarse_logits():
    def coarse(images: Tensor) -> Tensor:
        return F.avg_pool2d(net(kernel=1)(images), 2)

    images = F.interpolate(IMAGES[..., :12, :16], scale_factor=2, mode="nearest")
    found = predict(coarse, images, (24, 32), Scoring(sliding_window=(8, 8), stride=(8, 8)))
    assert found.shape == (2, 24, 32)
    expected = F.interpolate(coarse(images[..., :8, :8]), size=(8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(found[:, :8, :8], expected.argmax(1))


@pytest.mark.parametrize(("side", "window", "stride"), [(17, 5, 4), (17, 17, 9), (16, 8, 8), (9, 4, 3), (10, 9, 9)])
def test_windows_cover_everything_and_stay_inside(side, window, stride):
    starts = window_starts(side, window, stride)
    seen = {pixel for start in starts for pixel in range(start, start + window)}
    assert seen == set(range(side))
    assert len(starts) == len(set(starts)) == 1 + -(-(side - window) // stride)


class Even(nn.Module):
    """Treats left and right alike: with the mirrored image it gives the mirrored logits."""

    def __init__(self):
        super().__init__()
        self.network = net()
        weight = self.network[0].weight
        weight.data = (weight.data + weight.data.flip(-1)) / 2

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


@torch.no_grad()
def test_mirroring_changes_nothing_where_left_and_right_are_alike():
    assert torch.equal(predict(Even(), IMAGES, SIZE, Scoring(flip=True)), predict(Even(), IMAGES, SIZE))


@torch.no_grad()
def test_mirroring_averages_with_the_mirrored_image():
    network = net()
    expected = upsampled(network(IMAGES) + network(IMAGES.flip(-1)).flip(-1)).argmax(1)
    assert torch.equal(predict(network, IMAGES, SIZE, Scoring(flip=True)), expected)
    assert not torch.equal(expected, predict(network, IMAGES, SIZE))
    # And so the mirrored image gives the mirrored prediction.
    assert torch.equal(predict(network, IMAGES.flip(-1), SIZE, Scoring(flip=True)), expected.flip(-1))


@torch.no_grad()
def test_scales_are_averaged_at_the_size_of_the_label():
    network = Watched(net())
    found = predict(network, IMAGES, SIZE, Scoring(scales=(0.5, 1.0, 1.5), flip=True))
    assert network.sizes == [(6, 8)] * 2 + [(13, 17)] * 2 + [(20, 26)] * 2
    total = torch.zeros(2, 4, *SIZE)
    for size in ((6, 8), (13, 17), (20, 26)):
        shown = F.interpolate(IMAGES, size=size, mode="bilinear", align_corners=False)
        total += upsampled(net()(shown)) + upsampled(net()(shown.flip(-1)).flip(-1))
    # Summed in another order, so a pixel on the edge may fall to the other side.
    assert (found == total.argmax(1)).double().mean() > 0.999
    network.sizes.clear()
    predict(network, IMAGES, SIZE, Scoring(sliding_window=(9, 9), scales=(0.5, 1.5)))
    assert set(network.sizes) == {(6, 8), (9, 9)}


def test_evaluation_uses_it():
    """Each half of the image is read wrong by a network that goes by what is at the left edge of what it sees."""

    class Left(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return F.pad(images[..., :1].expand_as(images), (0, 0, 0, 0, 0, 1))

    images = torch.zeros(1, 3, 4, 8)
    images[:, 0, :, :4] = images[:, 1, :, 4:] = 1.0
    labels = images.argmax(1)
    settings = {"device": torch.device("cpu")}
    assert evaluate(Left(), [(images, labels)], CLASSES, **settings).pixel_accuracy == 0.5
    windows = Scoring(sliding_window=(4, 4), stride=(4, 4))
    assert evaluate(Left(), [(images, labels)], CLASSES, scoring=windows, **settings).pixel_accuracy == 1.0


def test_options_become_scoring():
    assert Scoring.of(ScoringOptions()) == PLAIN
    options = ScoringOptions(sliding_window=(8, 9), stride=(8, 9), scales=[0.5], flip=True, boundary_width=3.0)
    assert Scoring.of(options) == Scoring((8, 9), (8, 9), (0.5,), True, 3.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stride": (8, 8)}, "`stride` is the step of `sliding_window`; pass that too"),
        ({"stride": (8, 9), "sliding_window": (8, 8)}, "`stride=8,9` leaves gaps between windows of 8,8"),
        ({"scales": [1.0, float("inf")]}, "`scales` must be finite"),
    ],
)
def test_contradictions_are_refused(changes, says):
    with pytest.raises(UsageError, match=says):
        Scoring.of(ScoringOptions(**changes))
