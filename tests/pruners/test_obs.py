"""OBS: losses against those of the whole set, hand-made duplicates, and what readers share."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import find_groups, prunable
from bench.errors import BenchError, UsageError
from bench.plan.pruning_plan import Scores
from bench.pruners import make_pruner
from bench.pruners.base import Calibration
from bench.pruners.obs.input_moments import input_moments
from bench.pruners.obs.selection import Reader, removal_losses

Batches = list[tuple[Tensor, Tensor]]


def batches(seed: int = 1, size: tuple[int, int] = (16, 24)) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(2, 3, *size, generator=generator), torch.zeros(2, *size, dtype=torch.int64))] * 2


def scores_of(model: nn.Module, data: Batches | None = None, **settings: object) -> Scores:
    groups = prunable(find_groups(model))
    return make_pruner("obs", settings).score(model, groups, Calibration(data or batches(), 255, 0))


def random_reader(inputs: int = 7) -> tuple[Tensor, Tensor]:
    """A covariance and weights [4, inputs]; inputs 1 and 3 are nearly the same."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(inputs, 500, generator=generator, dtype=torch.float64)
    samples[3] = samples[1] + 0.1 * samples[3]
    return torch.cov(samples, correction=0), torch.randn(4, inputs, generator=generator, dtype=torch.float64)


def loss_without(gone: Sequence[int], covariance: Tensor, weight: Tensor) -> float:
    """The variance that is lost when the others predict the output of the whole as well as they can."""
    gone, stay = list(gone), [place for place in range(len(covariance)) if place not in gone]
    across = covariance[stay][:, gone]
    residual = covariance[gone][:, gone] - across.T @ torch.linalg.solve(covariance[stay][:, stay], across)
    return torch.trace(weight[:, gone] @ residual @ weight[:, gone].T).item()


# --- the selection by itself


@pytest.mark.parametrize(
    ("positions", "channels", "order"),
    [([1, 2, 3, 5], [0, 1, 2, 3], [2, 0, 3, 1]), ([5, 3, 2, 1, 6], [1, 0, 0, 1, 2], [1, 2, 0])],
    ids=["one position a channel", "several, not equally many"],
)
def test_losses_are_those_of_the_whole_set(positions: list[int], channels: list[int], order: list[int]) -> None:
    covariance, weight = random_reader()
    count = len(order)
    reader = Reader(
        torch.linalg.inv(covariance), weight.T @ weight, torch.tensor(positions), torch.tensor(channels), count
    )
    of_channel = [[p for p, c in zip(positions, channels, strict=True) if c == channel] for channel in range(count)]
    gone: list[int] = []
    for channel in order:
        before = loss_without(gone, covariance, weight) if gone else 0.0
        still = [c for c in range(count) if not set(of_channel[c]) & set(gone)]
        expected = [loss_without(gone + of_channel[c], covariance, weight) - before for c in still]
        assert reader.losses()[still].tolist() == pytest.approx(expected, rel=1e-9)
        reader.remove(channel)
        gone += of_channel[channel]


def test_channels_go_by_their_losses() -> None:
    covariance, weight = random_reader()
    reader = Reader(torch.linalg.inv(covariance), weight.T @ weight, torch.arange(7), torch.arange(7), 7)
    scores = removal_losses([reader], 7)
    gone: list[int] = []
    for channel in scores.argsort().tolist():
        losses = {c: loss_without([*gone, c], covariance, weight) for c in range(7) if c not in gone}
        assert min(losses, key=losses.get) == channel
        gone.append(channel)
    assert gone[0] in (1, 3)
    assert sorted(scores.tolist()) == scores[gone].tolist()
    assert len(set(scores.tolist())) == 7


def test_readers_are_summed() -> None:
    covariance, weight = random_reader()
    products = [weight[:1].T @ weight[:1], weight[1:].T @ weight[1:]]
    inverse, each = torch.linalg.inv(covariance), torch.arange(7)
    apart = removal_losses([Reader(inverse, part, each, each, 7) for part in products], 7)
    together = removal_losses([Reader(inverse, sum(products), each, each, 7)], 7)
    torch.testing.assert_close(apart, together)


# --- on networks


def test_of_two_equal_channels_one_goes_and_the_other_stays() -> None:
    torch.manual_seed(0)
    model = toys.settled(toys.Chain())
    convolution, norm = model.first
    for tensor in (convolution.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.data[5] = tensor.data[2]
    (scores, _) = scores_of(model, ridge=1e-6).values()
    low, high = sorted((scores[2].item(), scores[5].item()))
    assert scores.argmin().item() in (2, 5)
    assert 1000 * low < high


def test_a_combination_of_others_costs_nothing() -> None:
    """The last of three colours is the sum of the other two, and nothing behind it is but linear."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 4, 3, padding=1)).eval()
    model[0].weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]])[:, :, None, None]
    scores = scores_of(model, ridge=1e-9)["0"]
    first = int(scores.argmin())
    assert scores[first] < 1e-6
    assert all(scores[other] > 1e-3 for other in range(3) if other != first)


def test_the_hand_made_numbers() -> None:
    """Independent inputs: the loss is the variance of the part of each, over that of all."""
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0] = torch.tensor([[1.0, 1], [-1, -1]])
    images[0, 1] = torch.tensor([[2.0, -2], [2, -2]])
    images[0, 2] = torch.tensor([[1.0, -1], [-1, 1]])
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 1, 1)).eval()
    model[0].weight.data = torch.eye(3)[:, :, None, None]
    model[1].weight.data = torch.tensor([3.0, 1, 2])[None, :, None, None]
    scores = scores_of(model, [(images, torch.zeros(1, 2, 2, dtype=torch.int64))], ridge=1e-12)["0"]
    # Variances 1, 4 and 1 by weights squared 9, 1 and 4: 9, 4 and 4 of 17.
    assert scores.tolist() == pytest.approx([9 / 17, 4 / 17, 4 / 17], rel=1e-5)


class Fork(nn.Module):
    """Two layers that read the same, and one that reads it after a change in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right, self.late = nn.Conv2d(3, 6, 3), *(nn.Conv2d(6, 2, 1) for _ in range(3))
        self.unused = nn.Conv2d(6, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images).relu()
        both = self.left(features) * self.right(features)
        return both + self.late(features.add_(1))


@pytest.fixture
def fork() -> nn.Module:
    torch.manual_seed(0)
    return Fork().eval()


@torch.no_grad()
def test_a_tensor_that_several_layers_read_is_looked_at_once(fork: nn.Module) -> None:
    names = ["stem", "left", "right", "late", "unused"]
    stem, shared, late = input_moments(fork, names, batches(), positions=4096, seed=0)
    assert [moments.layers for moments in (stem, shared, late)] == [["stem"], ["left", "right"], ["late"]]
    images = batches()[0][0].transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(stem.covariance, torch.cov(images, correction=0))
    torch.testing.assert_close(shared.covariance, late.covariance)


def test_every_reader_that_runs_has_a_say(fork: nn.Module) -> None:
    scores = scores_of(fork)["stem"]
    for name in ("left", "right", "late"):
        layer = fork.get_submodule(name)
        layer.weight.data[:, 4] *= 10
        assert scores_of(fork)["stem"][4] > scores[4] + 0.1
        layer.weight.data[:, 4] /= 10
    fork.unused.weight.data[:, 4] *= 10
    assert torch.equal(scores_of(fork)["stem"], scores)


def test_positions_are_drawn_by_the_seed() -> None:
    torch.manual_seed(0)
    model = toys.settled(toys.Chain())
    few, again = (scores_of(model, positions=20)["first.0"] for _ in range(2))
    assert torch.equal(few, again)
    assert not torch.allclose(few, scores_of(model)["first.0"])


def test_the_labels_do_not_matter_and_the_images_do() -> None:
    torch.manual_seed(0)
    model = toys.settled(toys.Chain())
    images = batches()[0][0]
    same = scores_of(model, [(images, torch.full((2, 16, 24), 3))] * 2)
    assert torch.equal(scores_of(model)["first.0"], same["first.0"])
    assert not torch.equal(scores_of(model, batches(seed=7))["first.0"], same["first.0"])


def test_wrong_options_and_features_are_refused() -> None:
    for settings, message in ({"ridge": 0.0}, "ridge of obs must be above 0"), ({"positions": 0}, "at least 1, not 0"):
        with pytest.raises(UsageError, match=message):
            make_pruner("obs", settings)
    model = toys.settled(toys.Chain())
    model.first[0].weight.data[0] = float("inf")
    with pytest.raises(BenchError, match=r"what second\.0 reads is not finite"):
        scores_of(model)
