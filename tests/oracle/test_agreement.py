"""Overlap, rank correlation, ceiling and gain, against hand-made numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bench.oracle.agreement import (
    above_chance,
    agreement,
    bottom,
    ceiling,
    gain,
    kendall,
    overlap,
    overlap_error,
    ranks,
    spearman,
)
from bench.rounding import share_up


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def noise(channels: int, seed: int) -> Tensor:
    return torch.rand(channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_share_of_channels_is_rounded_up() -> None:
    assert [share_up(0.07, 100), share_up(0.1, 8), share_up(0.5, 7), share_up(0.3, 10)] == [7, 1, 4, 3]


def test_the_smallest_are_marked() -> None:
    marked = bottom(torch.stack([values(3, 1, 2, 0), values(0, 1, 2, 3)]), 2, seed=0)
    assert marked.tolist() == [[False, True, False, True], [True, True, False, False]]


def test_equal_values_take_turns() -> None:
    chosen = torch.stack([bottom(torch.zeros(6), 2, seed) for seed in range(200)]).double().mean(0)
    assert torch.allclose(chosen, torch.full((6,), 1 / 3, dtype=torch.float64), atol=0.12)
    assert torch.equal(bottom(torch.zeros(6), 2, 3), bottom(torch.zeros(6), 2, 3))


def test_overlap_of_known_sets() -> None:
    truth = values(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    assert overlap(truth, truth, 0.3) == 1
    assert overlap(-truth, truth, 0.3) == 0
    # The scores' smallest three are the truth's first, fourth and second.
    scores = values(0, 2, 9, 1, 8, 7, 6, 5, 4, 3)
    assert overlap(scores, truth, 0.3) == pytest.approx(2 / 3)
    both = overlap(scores, torch.stack([truth, -truth]), 0.3)
    assert both.tolist() == pytest.approx([2 / 3, 0])


def test_overlap_with_ties_is_that_of_the_mean_order() -> None:
    # Four dead channels of eight: which two are the smallest is a matter of taste, and the same on both sides.
    dead = values(0, 0, 0, 0, 5, 6, 7, 8)
    assert overlap(dead, dead, 0.25) == 1
    truth = values(1, 2, 3, 4, 5, 6, 7, 8)
    found = float(overlap(dead, truth, 0.25))
    orders = [bottom(dead, 2, seed) for seed in range(5)]
    assert found == pytest.approx(sum(float(order[:2].sum()) for order in orders) / 10)
    assert 0 < found < 1


def test_random_scores_overlap_as_chance_has_it() -> None:
    truth = noise(24, 999)
    for ratio in (0.1, 0.3, 0.5):
        count = share_up(ratio, 24)
        found = torch.stack([overlap(noise(24, seed), truth, ratio) for seed in range(200)])
        # Hypergeometric: of `count` drawn from 24, how many are among `count` marked.
        share = count / 24
        deviation = math.sqrt(count * share * (1 - share) * (24 - count) / 23) / count
        assert abs(float(found.mean()) - share) < 3 * deviation / math.sqrt(200)
        corrected = sum(above_chance(float(value), share) for value in found) / 200
        assert abs(corrected) < 3 * deviation / math.sqrt(200) / (1 - share)


def test_above_chance() -> None:
    assert above_chance(0.3, 0.3) == 0
    assert above_chance(1.0, 0.3) == pytest.approx(1)
    assert above_chance(0.65, 0.3) == pytest.approx(0.5)
    assert math.isnan(above_chance(1.0, 1.0))


def test_ranks_of_equal_values_are_their_mean() -> None:
    assert ranks(values(10, 30, 20, 20, 20)).tolist() == [0, 4, 2, 2, 2]


@pytest.mark.parametrize(
    ("one", "other", "rho", "tau"),
    [
        ((1, 2, 3, 4, 5), (5, 6, 7, 8, 7), 0.8207826816681233, 0.7378647873726218),
        ((1, 2, 3, 4), (1, 4, 9, 16), 1.0, 1.0),
        ((1, 2, 3, 4), (-1, -4, -9, -16), -1.0, -1.0),
        ((1, 2, 3), (2, 1, 3), 0.5, 1 / 3),
        # Ranks 0.5, 0.5, 2, 3 and 0.5, 2.5, 2.5, 0.5; one pair more disagrees than agrees.
        ((1, 1, 2, 3), (1, 2, 2, 1), -1 / 18**0.5, -1 / 20**0.5),
    ],
)
def test_rank_correlations(one: tuple, other: tuple, rho: float, tau: float) -> None:
    assert spearman(values(*one), values(*other)) == pytest.approx(rho)
    assert kendall(values(*one), values(*other)) == pytest.approx(tau)


def test_a_constant_has_no_rank_correlation() -> None:
    assert math.isnan(spearman(values(1, 1, 1), values(1, 2, 3)))
    assert math.isnan(kendall(values(1, 2, 3), values(1, 1, 1)))


def test_the_truth_agrees_with_itself() -> None:
    truth = {"a": noise(8, 0), "b": 100 + noise(12, 1)}
    found = agreement(truth, truth, [0.1, 0.5])
    assert found["groups"] == 2
    assert found["overlap"][0.1] == {"mean": 1, "chance": (1 / 8 + 2 / 12) / 2, "above_chance": pytest.approx(1)}
    for key in ("spearman", "kendall", "spearman_pooled", "kendall_pooled"):
        assert found[key] == pytest.approx(1)


def test_groups_weigh_alike_and_pooling_compares_across_them() -> None:
    truth = {"a": values(1, 2, 3, 4), "b": values(11, 12, 13, 14), "unscored": values(1, 2)}
    scores = {"a": values(11, 12, 13, 14), "b": values(4, 3, 2, 1)}
    found = agreement(scores, truth, [0.5])
    assert found["groups"] == 2
    assert found["overlap"][0.5]["mean"] == 0.5
    assert found["spearman"] == pytest.approx(0)
    assert found["spearman_pooled"] == pytest.approx(
        spearman(torch.cat([scores["a"], scores["b"]]), torch.cat([truth["a"], truth["b"]]))
    )
    assert found["spearman_pooled"] < -0.5


def test_a_group_without_differences_does_not_count_for_the_correlation() -> None:
    truth = {"a": values(1, 2, 3), "dead": values(0, 0, 0)}
    assert agreement(truth, truth, [0.5])["spearman"] == pytest.approx(1)
    assert math.isnan(agreement({"dead": truth["dead"]}, truth, [0.5])["spearman"])


def test_the_ceiling_is_the_agreement_of_halves() -> None:
    changes = torch.stack([noise(10, seed) for seed in range(6)])
    asked = []

    def truth_of(images: Tensor) -> dict[str, Tensor]:
        asked.append(images.tolist())
        return {"a": changes[images].mean(0)}

    found = ceiling(truth_of, 6, [0.3], splits=4)
    halves = list(zip(asked[::2], asked[1::2], strict=True))
    assert len(halves) == 4
    assert all(sorted(one + other) == list(range(6)) and len(one) == 3 for one, other in halves)
    assert len({tuple(one) for one, _ in halves}) > 1
    mutual = [agreement(truth_of(torch.tensor(one)), truth_of(torch.tensor(other)), [0.3]) for one, other in halves]
    assert found["overlap"][0.3]["mean"] == pytest.approx(sum(one["overlap"][0.3]["mean"] for one in mutual) / 4)
    assert found["spearman"] == pytest.approx(sum(one["spearman"] for one in mutual) / 4)
    assert found["groups"] == 1
    # Without noise between the images nothing is in the way.
    assert ceiling(lambda images: {"a": changes[0]}, 6, [0.3], splits=2)["spearman"] == pytest.approx(1)


def test_the_error_of_an_overlap_is_its_spread_over_resamples() -> None:
    scores = {"a": values(1, 2, 3, 4), "b": values(1, 2, 3, 4)}
    same, turned = values(1, 2, 3, 4), values(4, 3, 2, 1)
    resampled = {"a": torch.stack([same, turned]), "b": torch.stack([same, same])}
    assert overlap_error(scores, resampled, 0.5) == pytest.approx(float(values(1.0, 0.5).std()))


def test_gain() -> None:
    assert gain(random=3, method=3, oracle=1) == 0
    assert gain(random=3, method=1, oracle=1) == 1
    assert gain(random=3, method=2, oracle=1) == 0.5
    assert gain(random=3, method=4, oracle=1) == -0.5
    assert math.isnan(gain(random=1, method=1, oracle=1))
