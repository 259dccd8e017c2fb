"""Predictions are what is counted: products without a weight, functions on weights, shared tensors, odd networks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.cut.network import cut
from bench.errors import BenchError
from bench.measure.cost import layer_macs, measure_cost
from bench.plan.cost_model import exact_cost
from bench.plan.cost_table import CostTable, Prediction
from bench.plan.narrower_runs import NarrowerRuns
from bench.plan.pruning_plan import make_plan
from bench.plan.target import Goal, Target

SIZE = (16, 24)


class Net(nn.Module):
    """A stem of 10 channels, something in the middle, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 10, 3, stride=2, padding=1), nn.Conv2d(10, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(images).relu()))


class Scores(Net):
    """Attention between places: queries and keys of 6 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Conv2d(10, 6, 1), nn.Conv2d(10, 6, 1), nn.Conv2d(10, 10, 1)

    def middle(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        return x + (value @ (query.transpose(1, 2) @ key).softmax(-1).transpose(1, 2)).view_as(x)


class Fused(Scores):
    """The same in torch's own fused operator."""

    def middle(self, x: Tensor) -> Tensor:
        parts = (layer(x).flatten(2).transpose(1, 2)[:, None] for layer in (self.query, self.key, self.value))
        return x + F.scaled_dot_product_attention(*parts)[:, 0].transpose(1, 2).reshape(x.shape)


class ChannelScores(Net):
    """Attention between channels: quadratic in one width."""

    def middle(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return x + ((flat @ flat.transpose(1, 2)).softmax(-1) @ flat).view_as(x)


class Functions(Net):
    """A layer's weight as a module and as a function, and a strip of one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.strip = nn.Conv2d(10, 8, 3, padding=1), nn.Conv1d(8, 10, 3, padding=1)

    def middle(self, x: Tensor) -> Tensor:
        features = self.conv(x) + F.conv2d(x, self.conv.weight, padding=2, dilation=2)
        return x * self.strip(features.relu().mean(3)).sigmoid()[..., None]


class ByChannel(Net):
    """A convolution that takes channels for images: as many places as there are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Conv2d(1, 1, 3, padding=1)

    def middle(self, x: Tensor) -> Tensor:
        return self.each(x.reshape(-1, 1, *x.shape[2:])).reshape(x.shape)


class Tied(Net):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(10, 10, 3, padding=1), nn.Conv2d(10, 10, 3, padding=1)
        self.second.weight = self.first.weight

    def middle(self, x: Tensor) -> Tensor:
        return x + self.second(x + self.first(x).relu())


class Mixed(Net):
    """A learned matrix that `einsum` applies to channels, and a product of learned ones."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.thin = nn.Parameter(torch.rand(10, 10)), nn.Parameter(torch.rand(8, 3))

    def middle(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,cd->ndhw", x, self.mix) * (self.thin @ self.thin.T).mean()


class Branching(Net):
    """One that runs a layer twice unless it is narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(10, 10, 3, padding=1)

    def middle(self, x: Tensor) -> Tensor:
        x = x + self.again(x).relu()
        return x + self.again(x).relu() if x.shape[1] > 8 else x


EXACT = (Scores, Fused, ChannelScores, Functions, ByChannel, Tied, Mixed)


def counted(model: nn.Module) -> Prediction:
    cost = measure_cost(model, SIZE)
    return Prediction(cost.parameters, cost.macs, cost.state_bytes)


def halved(groups: list[ChannelGroup]) -> np.ndarray:
    return np.array([group.channels // 2 if group.protected is None else group.channels for group in groups])


@pytest.mark.parametrize("kind", [*EXACT, Branching])
def test_what_is_predicted_is_counted(kind: type[Net]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    groups = find_groups(model)
    assert len(prunable(groups)) >= 1
    table = CostTable(model, groups, SIZE)
    assert table.is_counted == (kind is Branching)
    assert table.dense() == counted(model)
    scores = {group.name: torch.rand(group.channels) for group in prunable(groups)}
    for share in (0.1, 0.3, 0.6):
        plan = make_plan(groups, scores, table, Target(Goal("channels", share), "local"))
        smaller = copy.deepcopy(model)
        cut(smaller, groups, plan)
        assert plan.predicted == counted(smaller)
        assert plan.is_counted == (kind is Branching)


@pytest.mark.parametrize("kind", EXACT)
def test_what_a_step_saves_and_the_mean_cost_are_those_of_the_table(kind: type[Net]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    groups = find_groups(model)
    table, kept = CostTable(model, groups, SIZE), halved(groups)
    cost, macs = exact_cost(table, "macs"), table.predict(kept).macs
    assert cost.cost(kept) == pytest.approx(macs)
    assert float(table.expected_macs(torch.from_numpy(kept).double())) == pytest.approx(macs)
    every = np.arange(len(groups))
    saved = cost.savings(table.channels, every, kept)
    for group in every:
        one = table.channels.copy()
        one[group] = kept[group]
        assert saved[group] == pytest.approx(table.dense().macs - table.predict(one).macs)


def test_what_a_table_counts_it_counts_on_the_network_that_it_was_read_off() -> None:
    model = Branching().eval()
    groups = find_groups(model)
    table = CostTable(model, groups, SIZE)
    kept = halved(groups)
    before = table.predict(kept)
    with torch.no_grad():
        model.again = nn.Conv2d(10, 10, 1)
    assert table.predict(kept) == before


def test_a_layer_has_what_functions_do_with_its_weight() -> None:
    dense, narrow = (layer_macs(kind().eval(), SIZE) for kind in (Branching, Functions))
    assert dense["again"] == 2 * 8 * 12 * 10 * 10 * 9
    # As a module and as a function.
    assert narrow["conv"] == 2 * 8 * 12 * 10 * 8 * 9


def test_products_are_counted_by_hand() -> None:
    places = 8 * 12
    scores = 2 * places * places
    by_layers = places * (3 * 10 * 9 + 10 * 4)
    assert measure_cost(ChannelScores().eval(), SIZE).macs == by_layers + 2 * 10 * 10 * places
    assert measure_cost(Scores().eval(), SIZE).macs == by_layers + places * 10 * (6 + 6 + 10) + scores // 2 * (6 + 10)
    assert measure_cost(Fused().eval(), SIZE).macs == measure_cost(Scores().eval(), SIZE).macs


@pytest.mark.parametrize("kind", [Mixed, Scores])
def test_a_single_channel_costs_what_it_is_counted_as(kind: type[Net]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    groups = find_groups(model)
    table, left = CostTable(model, groups, SIZE), np.array([1 if g.protected is None else g.channels for g in groups])
    kept = {group.name: [0] for group in prunable(groups)}
    assert table.predict(left) == counted(toys.cut_copy(model, groups, toys.plan_keeping(groups, kept)))
    # What the table knew before is still known from it.
    assert table.dense() == counted(model) and not table.is_counted


def test_a_network_that_asks_for_values_is_told_so() -> None:
    class Guarded(Net):
        def middle(self, x: Tensor) -> Tensor:
            return x.nan_to_num() if x.isnan().any() else x

    model = Guarded().eval()
    groups = find_groups(model)
    with pytest.raises(BenchError, match="Guarded asks for values of its features"):
        CostTable(model, groups, SIZE)


def test_a_size_that_a_network_does_not_run_at_is_told_in_a_line() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(16), nn.Conv2d(8, 4, 1))
    groups = find_groups(model)
    with pytest.raises(BenchError, match=r"^Sequential does not run at 16x24, the size its cost is asked for at"):
        CostTable(model, groups, SIZE)


class Two(Net):
    """Products that several groups have a say in beside those that one has."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.query, self.key = (nn.Conv2d(10, n, 1) for n in (6, 7, 13, 5))
        self.more = nn.Conv2d(10, 5, 1)

    def middle(self, features: Tensor) -> Tensor:
        both = torch.cat([self.left(features), self.right(features)], 1).flatten(2)
        wide = torch.einsum("ncp,ncq->npq", both, self.query(features).flatten(2)).softmax(-1)
        narrow = torch.einsum("ncp,ncq->npq", self.key(features).flatten(2), self.more(features).flatten(2)).softmax(-1)
        return (features.flatten(2) @ wide @ narrow).view_as(features)


def test_few_runs_tell_which_groups_a_product_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    monkeypatch.setattr(
        NarrowerRuns, "calls", lambda self, kept, calls=NarrowerRuns.calls: runs.append(kept) or calls(self, kept)
    )
    model = Two()
    groups = find_groups(model, check=False)
    table = CostTable(model, groups, SIZE)
    assert len(runs) <= 12 and not table.is_counted
    for seed in range(3):
        draw = np.random.default_rng(seed)
        kept = np.array([g.channels if g.protected else draw.integers(1, g.channels + 1) for g in groups])
        assert table.predict(kept).macs == sum(call.macs for call in NarrowerRuns(model, groups, SIZE).calls(kept))
