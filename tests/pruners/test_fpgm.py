"""FPGM against hand-made numbers, the properties of distances, and torch's own implementation."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import pairwise

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn
from torch.ao.pruning._experimental.pruner.FPGM_pruner import FPGMPruner

from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.errors import UsageError
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import Scores, make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration
from bench.pruners.fpgm import pruner
from bench.pruners.fpgm.pruner import distance_sums, fpgm_importance

FILTERS = torch.randn(12, 27, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def scores_of(model: nn.Module, **settings: object) -> Scores:
    return make_pruner("fpgm", settings).score(model, prunable(find_groups(model)), Calibration([], 3, 0))


def assert_near(found: Tensor, expected: Tensor | list[float]) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-7)


def test_sums_by_hand() -> None:
    assert_near(distance_sums(torch.tensor([[0.0], [1.0], [2.0], [10.0]])), [13, 11, 11, 27])
    signs = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    near, far = 2 + 2 * 5**0.5, 4 + 2 * 5**0.5
    assert_near(distance_sums(signs), [near, near, far, far])
    assert near == pytest.approx(6.4721, abs=1e-4)
    assert far == pytest.approx(8.4721, abs=1e-4)
    assert distance_sums(torch.ones(1, 5)).tolist() == [0]


@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (40, 8, 1, 1), (64, 16, 3, 3)])
def test_the_same_as_torch(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    known = FPGMPruner(0.5, dist=2)._compute_distance(weight.double())
    torch.testing.assert_close(distance_sums(weight.flatten(1)), known, rtol=1e-8, atol=0)


def test_invariances() -> None:
    known = distance_sums(FILTERS)
    assert_near(distance_sums(FILTERS + 100 * FILTERS[:1]), known)
    rotation = torch.linalg.qr(torch.randn(27, 27, dtype=torch.float64)).Q
    assert_near(distance_sums(FILTERS @ rotation), known)
    assert_near(distance_sums(-3 * FILTERS), 3 * known)
    order = torch.randperm(12)
    assert_near(distance_sums(FILTERS[order]), known[order])
    twice = distance_sums(torch.cat([FILTERS, FILTERS[:1]]))
    assert_near(twice[:1], twice[-1:])


def test_filters_far_from_the_origin_lose_no_digits() -> None:
    near = torch.randn(40, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(distance_sums(near + 2.0**20), distance_sums(near), rtol=1e-6, atol=0)


def test_rows_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    known = distance_sums(FILTERS)
    monkeypatch.setattr(pruner, "_ROWS", 5)
    assert_near(distance_sums(FILTERS), known)


def test_many_filters_fit() -> None:
    filters = torch.randn(2048, 16)
    sums = distance_sums(filters)
    for channel in (0, 255, 256, 2047):
        expected = (filters.double() - filters[channel].double()).norm(dim=1).sum()
        assert sums[channel].item() == pytest.approx(expected.item(), rel=1e-6)


def test_filters_of_small_norm_go_first() -> None:
    filters = torch.tensor([[9.0], [0.5], [10.0], [-0.2], [13.0], [-14.0], [0.3], [11.0], [12.0], [-9.5]])
    # The three smallest norms by rank, then the distances of the others to each other.
    scores = fpgm_importance(filters, norm_keep=0.7)
    assert_near(scores[[3, 6, 1]], [0, 1 / 3, 2 / 3])
    rest = torch.tensor([0, 2, 4, 5, 7, 8, 9])
    sums = distance_sums(filters[rest])
    assert_near(scores[rest], 1 + sums / sums.mean())
    assert scores[rest].min() > 1
    # 10 * (1 - 0.9) is a little less than 1 in binary.
    assert (fpgm_importance(filters, norm_keep=0.9) < 1).sum() == 1
    assert_near(fpgm_importance(filters, norm_keep=0.95), distance_sums(filters))
    assert_near(fpgm_importance(torch.tensor([[1.0], [2.0]]), norm_keep=0.5), [0, 1])


WIDTHS = (16, 32, 64)


@cache
def ready() -> tuple[list[ChannelGroup], Scores, CostTable]:
    """All that plans for a network of these widths are made from."""
    model = nn.Sequential(*(toys.conv(*pair) for pair in pairwise((3, *WIDTHS))), nn.Conv2d(64, 4, 1))
    groups = find_groups(model)
    return groups, scores_of(model), CostTable(model, groups, (8, 8))


def removed_by_plan(ratio: float) -> tuple[int, ...]:
    """How many channels the plan takes of each layer."""
    target = Target(Goal("channels", ratio), scope=make_pruner("fpgm").scope)
    kept = make_plan(*ready(), target).kept
    return tuple(width - len(kept[f"{layer}.0"]) for layer, width in enumerate(WIDTHS))


@pytest.mark.parametrize(
    ("rate", "ours", "reference"),
    [
        (0.1, (2, 3, 6), (1, 3, 6)),
        (0.3, (5, 10, 19), (4, 9, 19)),
        (0.4, (6, 13, 26), (6, 12, 25)),
        (0.5, (8, 16, 32), (8, 16, 32)),
        (0.6, (10, 19, 38), (9, 19, 38)),
        # Half-way one more goes: 16 * 0.03125 is 0.5.
        (0.03125, (1, 1, 2), (0, 1, 2)),
    ],
)
def test_the_reference_truncates_what_is_rounded_here(
    rate: float, ours: tuple[int, ...], reference: tuple[int, ...]
) -> None:
    assert tuple(int(width * rate) for width in WIDTHS) == reference
    assert removed_by_plan(rate) == ours


def test_a_plan_is_never_more_than_one_channel_of_a_layer_ahead_of_the_reference() -> None:
    for percent in range(1, 96):
        for width, here in zip(WIDTHS, removed_by_plan(percent / 100), strict=True):
            exact = Fraction(percent * width, 100)
            assert here - int(width * percent / 100) == (exact % 1 >= Fraction(1, 2))


@pytest.mark.parametrize("kind", [toys.Chain, toys.Transposed])
def test_a_layer_is_scored_by_its_own_filters(kind: type[nn.Module]) -> None:
    model = kind()
    scores = scores_of(model)
    assert scores
    for name, score in scores.items():
        layer = model.get_submodule(name)
        filters = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
        sums = torch.stack([sum((a - b).norm() for b in filters.double()) for a in filters.double()]).detach()
        assert_near(score, sums / sums.mean())


def test_members_of_a_residual_group_count_equally() -> None:
    model = toys.Residual()
    model.outer1[0].weight.data *= 100
    members = [distance_sums(layer[0].weight.detach().flatten(1)) for layer in (model.stem, model.outer1, model.outer2)]
    expected = sum(sums / sums.mean() for sums in members) / 3
    assert_near(scores_of(model)["stem.0"], expected)


def test_a_common_part_of_all_filters_changes_nothing() -> None:
    model = toys.Residual()
    before, norms_before = scores_of(model), make_pruner("l1").score(model, prunable(find_groups(model)), None)
    for layer in (model.stem[0], model.inner1[0], model.fuse[0]):
        layer.weight.data += 0.1 * torch.randn(layer.weight.shape[1:])
    after, norms_after = scores_of(model), make_pruner("l1").score(model, prunable(find_groups(model)), None)
    for name in ("stem.0", "inner1.0", "fuse.0"):
        torch.testing.assert_close(after[name], before[name], rtol=1e-5, atol=0)
        assert not torch.allclose(norms_after[name], norms_before[name], rtol=1e-3)


def test_the_option_reaches_the_score() -> None:
    model = toys.Chain()
    norms = model.first[0].weight.detach().flatten(1).norm(dim=1)
    scores = scores_of(model, norm_keep=0.5)["first.0"]
    assert scores.argsort()[:4].tolist() == norms.argsort()[:4].tolist()
    assert scores_of(model)["first.0"].argsort().tolist() != scores.argsort().tolist()
    for value in (0, 1.5, -1):
        with pytest.raises(UsageError, match=r"norm_keep of fpgm must be in \(0, 1\]"):
            make_pruner("fpgm", {"norm_keep": value})
