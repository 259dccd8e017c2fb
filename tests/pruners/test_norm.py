"""L1, L2 and random scores against hand-made numbers."""

from __future__ import annotations

import math

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import find_groups, prunable
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import Scores, make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration
from bench.pruners.filters import filter_norm, merge_normalised

SIZE = (16, 24)


def scores_of(method: str, model: nn.Module, seed: int = 0) -> Scores:
    return make_pruner(method).score(model, prunable(find_groups(model)), Calibration([], 3, seed))


def plan_of(model: nn.Module, scores: Scores, ratio: float, scope: str) -> dict[str, list[int]]:
    groups = find_groups(model)
    return make_plan(groups, scores, CostTable(model, groups, SIZE), Target(Goal("channels", ratio), scope)).kept


def test_norms_by_hand() -> None:
    filters = torch.tensor([[3.0, -4.0], [0.0, 0.0], [1.0, 1.0]])
    assert filter_norm(filters, 1).tolist() == [7, 0, 2]
    torch.testing.assert_close(filter_norm(filters, 2), torch.tensor([5.0, 0.0, math.sqrt(2)]))


def test_merging_by_hand() -> None:
    first, second = torch.tensor([1.0, 3.0]), torch.tensor([30.0, 10.0])
    # Over their means: [0.5, 1.5] and [1.5, 0.5].
    assert merge_normalised([first, second]).tolist() == [1, 1]
    assert merge_normalised([first]).tolist() == [0.5, 1.5]
    assert merge_normalised([first, torch.tensor([10.0, 10.0])]).tolist() == [0.75, 1.25]
    assert merge_normalised([torch.zeros(2)]).tolist() == [0, 0]


@pytest.mark.parametrize(("method", "order"), [("l1", 1), ("l2", 2)])
@pytest.mark.parametrize("kind", [toys.Chain, toys.Transposed])
def test_a_layer_is_scored_by_its_own_filters(kind: type[nn.Module], method: str, order: int) -> None:
    model = kind()
    for name, score in scores_of(method, model).items():
        layer = model.get_submodule(name)
        axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        norms = torch.stack(
            [filters.double().abs().pow(order).sum() ** (1 / order) for filters in layer.weight.unbind(axis)]
        )
        torch.testing.assert_close(score, norms / norms.mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", ["l1", "l2"])
def test_members_of_a_residual_group_count_equally(method: str) -> None:
    model = toys.Residual()
    order = int(method[1])
    members = [model.stem[0].weight, model.outer1[0].weight, model.outer2[0].weight]
    norms = [torch.linalg.vector_norm(weight.double().flatten(1), ord=order, dim=1) for weight in members]
    expected = sum(norm / norm.mean() for norm in norms) / 3
    torch.testing.assert_close(scores_of(method, model)["stem.0"], expected, check_dtype=False)
    assert list(scores_of(method, model)) == ["stem.0", "inner1.0", "inner2.0", "side.0", "fuse.0"]


@pytest.mark.parametrize("method", ["l1", "l2"])
def test_reordering_channels_reorders_scores(method: str) -> None:
    model = toys.Residual()
    before = scores_of(method, model)
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    for layer in (model.stem[0], model.outer1[0], model.outer2[0]):
        layer.weight.data = layer.weight.data[order]
    after = scores_of(method, model)
    assert torch.equal(after["stem.0"], before["stem.0"][order])
    assert torch.equal(after["fuse.0"], before["fuse.0"])


@pytest.mark.parametrize("method", ["l1", "l2"])
def test_norms_and_biases_do_not_count(method: str) -> None:
    model, same = toys.Residual(), toys.Residual()
    same.load_state_dict(model.state_dict())
    toys.settled(same)
    before, after = scores_of(method, model), scores_of(method, same)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("method", ["l1", "l2"])
def test_the_scale_of_a_layer_changes_no_ranking(method: str) -> None:
    model = toys.Residual()
    before = scores_of(method, model)
    raw = model.inner1[0].weight.abs().sum()
    model.inner1[0].weight.data *= 8
    assert model.inner1[0].weight.abs().sum() == 8 * raw
    after = scores_of(method, model)
    for scope in ("local", "global"):
        assert plan_of(model, after, 0.4, scope) == plan_of(model, before, 0.4, scope)


def test_removal_is_uniform_by_default() -> None:
    model = toys.Residual()
    kept = plan_of(model, scores_of("l1", model), 0.5, make_pruner("l1").scope)
    assert {name: len(channels) for name, channels in kept.items()} == {
        "stem.0": 4,
        "inner1.0": 3,
        "inner2.0": 3,
        "side.0": 2,
        "fuse.0": 3,
    }
    norms = model.fuse[0].weight.detach().abs().flatten(1).sum(1)
    assert kept["fuse.0"] == sorted(norms.argsort()[3:].tolist())


def test_random_scores_follow_the_seed() -> None:
    model = toys.Residual()
    once, again, other = (scores_of("random", model, seed) for seed in (3, 3, 4))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not any(torch.equal(once[name], other[name]) for name in once)
    values = torch.cat(list(once.values()))
    assert len(set(values.tolist())) == len(values) == 32
    assert values.min() >= 0 and values.max() < 1
    # No global state is read or left behind.
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(scores_of("random", model, 3)["stem.0"], once["stem.0"])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.6])
def test_random_removes_exactly_what_is_asked(ratio: float) -> None:
    model = toys.Residual()
    for seed in range(3):
        scores = scores_of("random", model, seed)
        kept = plan_of(model, scores, ratio, "local")
        gone = {name: len(score) - len(kept[name]) for name, score in scores.items()}
        assert gone == {name: int(ratio * len(score) + 0.5) for name, score in scores.items()}
        assert sum(map(len, plan_of(model, scores, ratio, "global").values())) == 32 - int(ratio * 32)


def test_scoring_needs_no_data_and_no_gradient() -> None:
    for method in ("l1", "l2", "random"):
        pruner = make_pruner(method)
        assert not pruner.needs_data
        scores: list[Tensor] = list(scores_of(method, toys.Chain()).values())
        assert not any(score.requires_grad for score in scores)
