"""How much each position counts in a repair."""

from __future__ import annotations

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import find_groups
from bench.recover.balance import Balance, class_balanced, token_grid
from bench.recover.options import RepairOptions
from bench.recover.patches import Places
from bench.recover.repair import repair

# Two images of 4x6 pixels: class 0 on 36 of them, 1 on 9, 2 on 3.
CLASSES = torch.tensor([0] * 36 + [1] * 9 + [2] * 3).reshape(2, 4, 6)


def everywhere(images: int, positions: int) -> Places:
    return Places(torch.arange(images).repeat_interleave(positions), torch.arange(positions).repeat(images))


def seen(power: float, classes: Tensor = CLASSES) -> Balance:
    balance = Balance(power)
    for image in nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).float().split(1):
        balance.see(image)
    return balance


def test_each_class_counts_as_much_as_any_other() -> None:
    weights = class_balanced(CLASSES, 1.0)
    assert [round(float(weights[label == CLASSES].sum()), 4) for label in range(3)] == [16, 16, 16]
    half = class_balanced(CLASSES, 0.5)
    sums = torch.stack([half[label == CLASSES].sum() for label in range(3)])
    torch.testing.assert_close(sums / sums[0], torch.tensor([36.0, 9.0, 3.0]).sqrt() / 6)
    assert half.mean() == pytest.approx(1)
    assert torch.equal(class_balanced(CLASSES, 0.0), torch.ones(2, 4, 6))


def test_a_few_pixels_do_not_stand_for_the_whole() -> None:
    classes = torch.zeros(1, 100, 100, dtype=torch.long)
    classes[0, 0, :5] = 1
    weights = class_balanced(classes, 1.0)
    effective = weights.sum().square() / weights.square().sum() / weights.numel()
    assert 0.1 <= effective < 0.13
    assert 10 < weights.max() / weights.min() < 1000


def test_a_position_weighs_as_its_pixels_do() -> None:
    balance, weights = seen(1.0), class_balanced(CLASSES, 1.0)
    assert torch.equal(balance.at(24, (4, 6), everywhere(2, 24)), weights.flatten())
    coarse = nn.functional.avg_pool2d(weights[:, None], 2).flatten()
    torch.testing.assert_close(balance.at(6, (2, 3), everywhere(2, 6)), coarse)
    # Tokens lie row by row in a grid of the image's shape.
    torch.testing.assert_close(balance.at(6, (), everywhere(2, 6)), coarse)
    torch.testing.assert_close(balance.at(6, (2, 3), everywhere(2, 6).part(slice(3, 8))), coarse[3:8])


@pytest.mark.parametrize(
    ("positions", "size", "images", "power"),
    [(7, (), 2, 1.0), (4, (4,), 2, 1.0), (24, (2, 3, 4), 2, 1.0), (6, (2, 3), 5, 1.0), (6, (2, 3), 2, 0.0)],
    ids=["no grid", "one axis", "three axes", "rows that are no images", "not asked for"],
)
def test_where_nothing_is_known_all_weigh_the_same(
    positions: int, size: tuple[int, ...], images: int, power: float
) -> None:
    places = everywhere(images, positions)
    assert torch.equal(seen(power).at(positions, size, places), torch.ones(len(places)))


def test_outputs_that_are_no_maps_are_passed_over() -> None:
    balance = Balance(1.0)
    balance.see({"boxes": torch.zeros(3, 4)})
    assert torch.equal(balance.at(6, (2, 3), everywhere(1, 6)), torch.ones(6))


def test_grids_of_tokens() -> None:
    assert token_grid(192, (96, 128)) == (12, 16)
    assert token_grid(23 * 30, (360, 480)) == (23, 30)
    assert token_grid(64, (64, 64)) == (8, 8)
    assert token_grid(193, (96, 128)) is None
    assert token_grid(2 * 96, (96, 96)) is None


class Striped(nn.Module):
    """Mostly one class; on bright stripes another, whose features are other ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.first(images).relu()).relu()
        rare = torch.stack([-images[:, 0], images[:, 0]], 1)
        return self.head(features) * 0.01 + rare


def test_a_rare_class_is_mended_better_where_it_counts_more() -> None:
    model = toys.settled(Striped())
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(8, 3, 24, 24, generator=generator) - 1
    images[:, :, :, 5] += 2
    groups = find_groups(model)
    plan = toys.plan_keeping(groups, {"first": [0, 3, 5, 8]})

    def left(power: float) -> Tensor:
        """The error of what the second layer gives, of either class."""
        network = toys.cut_copy(model, groups, plan)
        done = repair(model, network, groups, plan, images, RepairOptions(repair_balance=power))
        assert done.layers["second"].outcome == "repaired"
        with torch.no_grad():
            off, wanted = (one.second(one.first(images).relu()) for one in (network, model))
        error = (off - wanted).square().mean(1)
        is_rare = images[:, 0] > 0
        return torch.stack([error[~is_rare].mean(), error[is_rare].mean()])

    alike, balanced = left(0.0), left(1.0)
    assert balanced[1] < 0.9 * alike[1]
    assert balanced[0] > alike[0]
