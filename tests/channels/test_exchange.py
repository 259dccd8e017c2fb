"""Groups proven on the network: moves without weights, what only one mode does, widths written in code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn
from torch.nn import functional

from bench.channels import exchange
from bench.channels.exchange import faults
from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.errors import BenchError
from bench.models import ModelSpec, build_model
from bench.torch_utils.dry_run import blank_image
from bench.torch_utils.outputs import tensors_in

Between = Callable[[nn.Module, Tensor], Tensor]


class Moved(nn.Module):
    """Two layers and a head; something happens to the 8 channels between the two."""

    def __init__(self, between: Between) -> None:
        super().__init__()
        self.first, self.second, self.head = toys.conv(3, 8), toys.conv(8, 8), nn.Conv2d(8, 4, 1)
        self.between = between

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.second(self.between(self, self.first(images).relu())).relu())


def hidden(features: Tensor) -> Tensor:
    """The same values in a tensor that no tracer can follow."""
    return torch.from_numpy(features.detach().numpy().copy())


def moved(_: nn.Module, features: Tensor) -> Tensor:
    return hidden(features)[:, [1, 0, *range(2, features.shape[1])]]


def shuffled(_: nn.Module, features: Tensor) -> Tensor:
    images, channels, *size = features.shape
    return features.view(images, 2, channels // 2, *size).transpose(1, 2).reshape(images, channels, *size)


def moved_in_evaluation(model: nn.Module, features: Tensor) -> Tensor:
    return features if model.training else moved(model, features)


def in_evaluation(model: nn.Module, features: Tensor) -> Tensor:
    return features if model.training else features.flip(1)


def in_training(model: nn.Module, features: Tensor) -> Tensor:
    return features.roll(1, dims=1) if model.training else features


def constants_first(_: nn.Module, features: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(features[:, :1]), features[:, :-1]], dim=1)


def dropped(model: nn.Module, features: Tensor) -> Tensor:
    return functional.dropout(features, 0.5, training=model.training)


def sized(_: nn.Module, features: Tensor) -> Tensor:
    return features.reshape(-1, 8, *features.shape[2:])


def normed(_: nn.Module, features: Tensor) -> Tensor:
    return functional.normalize(features, dim=1)


def group_names(model: nn.Module) -> dict[str, str | None]:
    return {group.name: group.protected for group in find_groups(model)}


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (moved, "its channels cannot change places"),
        (moved_in_evaluation, "second.0 multiplies them with something of a fixed size"),
        (in_training, "the network passes them through roll"),
    ],
)
def test_channels_that_move_without_weights_stay(between: Between, reason: str) -> None:
    protected = group_names(toys.settled(Moved(between)))
    assert protected["first.0"] == reason
    assert protected["second.0"] is None


@pytest.mark.parametrize(
    ("between", "channels", "unit"), [(shuffled, 4, 2), (in_evaluation, 4, 2), (constants_first, 7, 1)]
)
def test_moves_that_are_followed_leave_channels_that_go_together(between: Between, channels: int, unit: int) -> None:
    group = find_groups(toys.settled(Moved(between)))[0]
    assert (group.protected, group.channels, group.unit) == (None, channels, unit)


@pytest.mark.parametrize("between", [dropped, normed, lambda _, features: features * 2])
def test_channels_that_do_not_move_are_free(between: Between) -> None:
    assert group_names(toys.settled(Moved(between)))["first.0"] is None


def test_a_width_written_in_the_code_is_told() -> None:
    reason = group_names(toys.settled(Moved(sized)))["first.0"]
    assert reason.startswith("a width is written in the network's code: ")
    assert "8" in reason


def test_a_layer_that_is_run_by_hand_is_seen() -> None:
    class ByHand(Moved):
        def forward(self, images: Tensor) -> Tensor:
            layer, norm = self.second
            features = functional.conv2d(self.first(images).relu(), layer.weight, padding=1)
            return self.head(norm(features).relu())

    group = prunable(find_groups(toys.settled(ByHand(sized))))[0]
    assert (group.name, [reader.layer for reader in group.consumers]) == ("first.0", ["second.0"])


def test_zeros_and_equal_weights_hide_nothing() -> None:
    model = Moved(moved).eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    assert group_names(model)["first.0"] is not None


def test_only_what_is_at_fault_stays() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([toys.conv(3, 8), *(toys.conv(8, 8) for _ in range(9))])
            self.head = nn.Conv2d(8, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            features = images
            for number, layer in enumerate(self.layers):
                features = layer(features).relu()
                if number in (2, 7):
                    features = moved(self, features)
            return self.head(features)

    protected = group_names(toys.settled(Long()))
    assert [name for name, reason in protected.items() if reason and name != "head"] == ["layers.2.0", "layers.7.0"]


def test_the_check_may_be_left_out() -> None:
    model = toys.settled(Moved(moved))
    assert [group.name for group in prunable(find_groups(model, check=False))] == ["first.0", "second.0"]


def test_the_network_is_left_as_it_was() -> None:
    model = toys.settled(toys.Residual())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    groups = prunable(find_groups(model, check=False))
    assert faults(model, groups, blank_image(model, (64, 64))) == {}
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_wrong_member_is_found_by_any_network() -> None:
    """The check asks the network, not the tracer: a group that was tampered with does not pass."""
    model = toys.settled(toys.Chain())
    groups = prunable(find_groups(model, check=False))
    (reader,) = groups[0].consumers
    wrong = type(reader)(reader.layer, reader.side, reader.positions.flip(0), reader.channels.roll(3))
    tampered = ChannelGroup("first.0", 8, groups[0].producers, groups[0].norms, (), (wrong,))
    found = faults(model, [tampered, *groups[1:]], blank_image(model, (64, 64)))
    assert found == {"first.0": "channels change places between first.0 and second.0"}


def test_a_network_of_one_precision_alone_is_checked_in_it() -> None:
    class Single(Moved):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.float())

    assert group_names(toys.settled(Single(moved)))["first.0"] is not None
    assert group_names(toys.settled(Single(normed)))["first.0"] is None


def test_what_was_found_is_kept_for_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    trial = exchange._Trial

    def counted(model: nn.Module, images: Tensor) -> exchange._Trial:
        tried.append(type(model).__name__)
        return trial(model, images)

    monkeypatch.setattr(exchange, "_Trial", counted)
    monkeypatch.setattr(exchange, "_known", {})
    for seed in range(2):
        torch.manual_seed(seed)
        find_groups(toys.settled(toys.Chain()))
    assert tried == ["Chain"]
    find_groups(toys.settled(toys.Chain(norm=False)))
    assert tried == ["Chain", "Chain"]
    # A function says nothing of itself: such a network is tried each time.
    for _ in range(2):
        find_groups(toys.settled(Moved(normed)))
    assert tried[2:] == ["Moved", "Moved"]


class Tied(nn.Module):
    """The code reads the width of one layer to shape what another gives; a third has its width written in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (toys.conv(3, 8) for _ in range(3))
        self.heads = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(3))

    def forward(self, images: Tensor) -> Tensor:
        first, second, third = (layer(images).relu() for layer in (self.first, self.second, self.third))
        second = second.flatten(2).reshape(len(images), first.shape[1], *first.shape[2:])
        third = third.reshape(-1, 8, *third.shape[2:])
        return sum(head(features) for head, features in zip(self.heads, (first, second, third), strict=True))


def test_widths_that_code_ties_go_together_and_only_so() -> None:
    """Where both lose a channel each all is well: only other numbers show that neither may go alone."""
    groups = find_groups(toys.settled(Tied()))
    assert [(group.name, len(group.producers)) for group in prunable(groups)] == [("first.0", 2)]
    reasons = {group.name: group.protected for group in groups}
    assert reasons["third.0"].startswith("a width is written in the network's code: ")


@pytest.mark.parametrize("name", ["unet_small", "resnet18_seg"])
def test_registered_networks_have_no_faults(name: str) -> None:
    model = build_model(ModelSpec(name, 5)).eval()
    groups = prunable(find_groups(model, check=False))
    assert faults(model, groups, blank_image(model, (64, 64))) == {}


def test_tensors_of_any_output() -> None:
    one, two, three = (torch.full((1,), float(value)) for value in range(3))
    assert tensors_in(one) == [one]
    assert tensors_in({"out": one, "more": [two, None, (three,)], "name": "x"}) == [one, two, three]
    assert tensors_in(None) == []


def test_a_network_that_cannot_be_shaken_is_tried_with_its_own_weights() -> None:
    class Rooted(Moved):
        def __init__(self, between: Between) -> None:
            super().__init__(between)
            self.offsets = nn.Parameter(torch.cat([torch.full((9,), 1e-3), torch.ones(1)]), requires_grad=False)

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * self.offsets.sqrt().sum()

    assert group_names(toys.settled(Rooted(normed)))["first.0"] is None
    assert group_names(toys.settled(Rooted(moved)))["first.0"] is not None


def test_a_network_that_gives_no_numbers_is_refused() -> None:
    class Empty(Moved):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) / 0

    with pytest.raises(BenchError, match=r"channels of Empty can go \(its outputs are not finite\)"):
        find_groups(toys.settled(Empty(normed)))
