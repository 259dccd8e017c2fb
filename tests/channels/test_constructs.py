"""What can go of each construct, what stays, and that the cut network is the one that is meant."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn
from toy_constructs import CUT, STAYS, WIDTH, AlongAxes, Around, Does, FixedHeads, Scale, lucky

from bench.channels.exchange import faults
from bench.channels.groups import ChannelGroup, find_groups
from bench.channels.layer_axes import IN, adopt_shapes, adopt_sizes, axes_of, sizes_without_tensors
from bench.measure.cost import count_parameters
from bench.plan.cost_table import CostTable


def built(construct: Callable[[], nn.Module], read: int) -> nn.Module:
    torch.manual_seed(0)
    return toys.settled(Around(construct(), read)).double()


def kept_of(groups: list[ChannelGroup]) -> dict[str, list[int]]:
    """Two thirds of each group, not the first."""
    free = [group for group in groups if group.protected is None]
    return {group.name: list(range(group.channels))[group.channels // 3 :] for group in free}


def without_reading(dense: nn.Module, groups: list[ChannelGroup], kept: dict[str, list[int]]) -> nn.Module:
    """The network whose layers do not read what is gone."""
    silent = copy.deepcopy(dense)
    for group in groups:
        gone = ~torch.isin(torch.arange(group.channels), torch.tensor(kept.get(group.name, range(group.channels))))
        for reader in group.consumers:
            assert reader.side == IN
            layer = silent.get_submodule(reader.layer)
            axis = axes_of(layer)["weight"].index(IN)
            layer.weight.data.index_fill_(axis, reader.positions[gone[reader.channels]], 0)
    return silent


@pytest.mark.parametrize("name", CUT)
def test_what_can_go(name: str) -> None:
    construct, read, channels, unit, is_silence = CUT[name]
    dense = built(construct, read)
    groups = find_groups(dense)
    first = next(group for group in groups if group.name == "first.0")
    assert (first.protected, first.channels, first.unit) == (None, channels, unit)
    kept = kept_of(groups)
    small = toys.cut_copy(dense, groups, toys.plan_keeping(groups, kept))
    images = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    with torch.no_grad():
        outputs = small(images)
        if is_silence:
            torch.testing.assert_close(outputs, without_reading(dense, groups, kept)(images), rtol=1e-9, atol=1e-12)
    left = np.array([len(kept.get(group.name, range(group.channels))) for group in groups])
    assert CostTable(dense, groups, (32, 32)).predict(left).parameters == count_parameters(small)
    # What a file holds is enough to open it.
    opened = built(construct, read)
    adopt_sizes(opened, sizes_without_tensors(small))
    adopt_shapes(opened, {key: tuple(tensor.shape) for key, tensor in small.state_dict().items()})
    opened.load_state_dict(small.state_dict())
    with torch.no_grad():
        assert torch.equal(opened(images), outputs)


@pytest.mark.parametrize("name", STAYS)
def test_what_stays(name: str) -> None:
    construct, reason = STAYS[name]
    groups = {group.name: group.protected for group in find_groups(built(construct, WIDTH))}
    assert groups["first.0"].startswith(reason)
    # What comes behind it may go.
    assert groups["second.0"] is None


@pytest.mark.parametrize("axes", [1, 3])
def test_convolutions_along_other_numbers_of_axes_make_channels(axes: int) -> None:
    groups = {group.name: group for group in find_groups(built(lambda: AlongAxes(axes), WIDTH))}
    inner, raised = groups["construct.make"], groups["construct.raise_"]
    assert (inner.protected, inner.channels, raised.protected, raised.channels) == (None, 12, None, 10)
    assert inner.producers[0].norm.layer == "construct.norm"
    assert [member.layer for member in inner.depthwise] == ["construct.filter"]
    assert [member.layer for member in raised.consumers] == ["construct.mix"]


def test_heads_whose_number_the_code_has_stay_whole() -> None:
    groups = find_groups(built(FixedHeads, WIDTH))
    inner = next(group for group in groups if group.name == "construct.qkv")
    # Not whole heads: what is left of them would be other heads.
    assert (inner.protected, inner.channels, inner.unit) == (None, 4, 12)
    assert sorted(inner.members[0].positions[:12].tolist()) == list(range(0, 3 * WIDTH, 4))


def test_chance_is_the_same_each_time() -> None:
    dense = built(lambda: Does(lucky), WIDTH)
    random.seed(1)
    wanted = random.random()
    random.seed(1)
    assert all(group.protected is None for group in find_groups(dense)[:-1])
    # What the network draws is not drawn from others' numbers.
    assert random.random() == wanted


def test_a_constant_in_front_moves_no_channel() -> None:
    def framed(features: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(features[:, :1]).cumsum(2), features], 1)

    dense = built(lambda: Does(framed), WIDTH + 1)
    groups = find_groups(dense)
    reader = next(group for group in groups if group.name == "first.0").consumers[0]
    assert reader.positions.tolist() == list(range(1, WIDTH + 1))


def test_what_is_not_followed_in_time_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.channels.budget.MOST_SECONDS", 0.0)
    groups = find_groups(built(Scale, WIDTH))
    assert [group.name for group in groups] == ["first.0", "second.0", "head"]
    assert all("is not followed within 0 s" in group.protected for group in groups)


def test_what_is_not_tried_in_time_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = built(Scale, WIDTH)
    groups = [group for group in find_groups(dense) if group.protected is None]
    monkeypatch.setattr("bench.channels.budget.MOST_SECONDS", 0.0)
    monkeypatch.setattr("bench.channels.exchange._known", {})
    found = faults(dense, groups, torch.zeros(1, 3, 64, 64, dtype=torch.float64))
    assert found == {group.name: "not tried out within 0 s" for group in groups} != {}


@pytest.mark.parametrize(
    ("limit", "most", "reason"),
    [
        ("axis_labels.MOST_POSITIONS", 8 * WIDTH, "its channels are part of more positions than can be followed"),
        ("axis_labels.MOST_LABELS", 8 * WIDTH, "its channels are part of more positions than can be followed"),
        ("axis_flow.MOST_POSITIONS", 8, "first.0 has more than 8 of them side by side"),
        ("axis_labels.MOST_SPLITS", 0, "its channels are taken apart in several ways"),
    ],
)
def test_what_takes_too_much_memory_or_time_stays(
    limit: str, most: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flat(features: Tensor) -> Tensor:
        return features.flatten(1).sigmoid().view_as(features)

    dense = built(lambda: Does(flat), WIDTH)
    assert find_groups(dense)[0].protected is None
    monkeypatch.setattr(f"bench.channels.{limit}", most)
    assert find_groups(dense)[0].protected == reason
