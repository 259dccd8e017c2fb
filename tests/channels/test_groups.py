"""Groups of coupled channels: who shrinks with whom, and what must not shrink at all."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, Member, find_groups, prunable
from bench.errors import BenchError, UsageError
from bench.models import ModelSpec, build_model


def groups_of(model: nn.Module, **options: object) -> dict[str, ChannelGroup]:
    return {group.name: group for group in find_groups(model, **options)}


def layers(members: Sequence[Member]) -> list[str]:
    return [member.layer for member in members]


def producers(group: ChannelGroup) -> list[tuple[str, str | None]]:
    return [(producer.layer.layer, producer.norm and producer.norm.layer) for producer in group.producers]


def positions(group: ChannelGroup, layer: str, side: str = "in") -> list[int]:
    """Where the group's channels are on one side of a layer, channel by channel."""
    member = next(member for member in group.members if (member.layer, member.side) == (layer, side))
    assert member.channels.tolist() == sorted(member.channels.tolist())
    return member.positions.tolist()


# --- coupling


def test_a_chain_has_a_group_a_layer() -> None:
    groups = groups_of(toys.Chain())
    assert {name: group.channels for name, group in groups.items()} == {"first.0": 8, "second.0": 6, "head": 4}
    first = groups["first.0"]
    assert producers(first) == [("first.0", "first.1")]
    assert (layers(first.norms), layers(first.depthwise), layers(first.consumers)) == (["first.1"], [], ["second.0"])
    assert {(member.layer, member.side) for member in first.members} == {
        ("first.0", "out"),
        ("first.1", "out"),
        ("second.0", "in"),
    }
    assert first.protected is None
    assert first.unit == 1


def test_a_residual_trunk_is_one_group() -> None:
    groups = groups_of(toys.Residual())
    trunk = groups["stem.0"]
    assert trunk.channels == 8
    assert producers(trunk) == [("stem.0", "stem.1"), ("outer1.0", "outer1.1"), ("outer2.0", "outer2.1")]
    assert layers(trunk.norms) == ["stem.1", "outer1.1", "outer2.1"]
    assert layers(trunk.consumers) == ["inner1.0", "inner2.0", "side.0", "fuse.0"]
    assert list(groups) == ["stem.0", "inner1.0", "inner2.0", "side.0", "fuse.0", "head"]


def test_concatenated_channels_keep_their_places() -> None:
    groups = groups_of(toys.Residual())
    assert positions(groups["side.0"], "fuse.0") == [0, 1, 2, 3, 4]
    assert positions(groups["stem.0"], "fuse.0") == [5, 6, 7, 8, 9, 10, 11, 12]


def test_a_concatenated_image_takes_its_place() -> None:
    assert positions(groups_of(toys.ImageAgain())["first.0"], "second.0") == [3, 4, 5, 6, 7, 8, 9, 10]


def test_unet_skips() -> None:
    groups = groups_of(build_model(ModelSpec("unet_small", 12)))
    assert producers(groups["downs.0.conv.3"]) == [("downs.0.conv.3", "downs.0.conv.4")]
    assert layers(groups["downs.0.conv.3"].consumers) == ["downs.1.conv.0", "ups.5.conv.0"]
    assert positions(groups["downs.0.conv.3"], "ups.5.conv.0") == list(range(16))
    assert positions(groups["ups.4.0"], "ups.5.conv.0") == list(range(16, 32))
    assert positions(groups["ups.4.0"], "ups.4.1", "out") == list(range(16))


def test_aspp_branches() -> None:
    groups = groups_of(build_model(ModelSpec("deeplabv3_resnet50", 12)))
    branches = ["0.0", "1.0", "2.0", "3.0", "4.1"]
    for number, branch in enumerate(branches):
        group = groups[f"classifier.0.convs.{branch}"]
        assert layers(group.consumers) == ["classifier.0.project.0"]
        assert positions(group, "classifier.0.project.0") == list(range(256 * number, 256 * (number + 1)))
    trunk = groups["backbone.layer4.0.conv3"]
    assert producers(trunk)[:2] == [
        ("backbone.layer4.0.conv3", "backbone.layer4.0.bn3"),
        ("backbone.layer4.0.downsample.0", "backbone.layer4.0.downsample.1"),
    ]
    assert layers(trunk.consumers)[-5:] == [f"classifier.0.convs.{branch}" for branch in branches]


def test_unpooling_ties_decoder_to_encoder() -> None:
    groups = groups_of(toys.Unpooled())
    assert producers(groups["encoder.0"]) == [("encoder.0", "encoder.1"), ("middle.0", "middle.1")]
    assert layers(groups["encoder.0"].consumers) == ["middle.0", "decoder.0"]
    assert [group.name for group in groups.values()] == ["encoder.0", "decoder.0", "head"]


def test_segnet_widths_are_tied_stage_by_stage() -> None:
    groups = groups_of(build_model(ModelSpec("simple_segnet", 12)))
    # The last layer of an encoder stage, and the last of the decoder stage that is unpooled to its size.
    for stage, before in ((1, "dec2.3"), (2, "dec3.3"), (3, "dec4.3")):
        assert [name for name, _ in producers(groups[f"enc{stage}.3"])] == [f"enc{stage}.3", before]
    assert [name for name, _ in producers(groups["enc4.3"])] == ["enc4.3"]


def test_indices_are_followed_wherever_they_go() -> None:
    class Foreign(toys.Unpooled):
        def forward(self, images: Tensor) -> Tensor:
            features, indices = self.pool(self.encoder(images).relu())
            return self.head(self.decoder(self.unpool(features, indices.clone())))

    tied = find_groups(Foreign())[0]
    assert [one.layer.layer for one in tied.producers] == ["encoder.0"]
    assert layers(tied.consumers) == ["decoder.0"]


def test_transposed_convolution() -> None:
    groups = groups_of(toys.Transposed())
    assert producers(groups["down"]) == [("down", None)]
    assert (positions(groups["down"], "up"), groups["down"].channels) == ([0, 1, 2, 3, 4, 5], 6)
    assert producers(groups["up"]) == [("up", None)]
    assert (positions(groups["up"], "up", "out"), groups["up"].channels) == ([0, 1, 2, 3, 4], 5)


def test_a_depthwise_convolution_is_passed_through() -> None:
    group = groups_of(toys.Between(nn.Conv2d(8, 8, 3, padding=1, groups=8)))["first"]
    assert producers(group) == [("first", None)]
    assert (layers(group.depthwise), layers(group.consumers), layers(group.norms)) == (["layer"], ["head"], [])


def test_a_slope_a_channel_is_no_norm() -> None:
    group = groups_of(toys.Between(nn.PReLU(8)))["first"]
    assert group.protected is None
    assert layers(group.norms) == []
    assert layers(group.members) == ["first", "layer", "head"]
    assert layers(groups_of(toys.Between(nn.PReLU()))["first"].members) == ["first", "head"]


def test_a_linear_layer_reads_several_places_of_a_channel() -> None:
    groups = groups_of(toys.Flattened())
    linear = groups["first.0"].consumers[0]
    assert linear.layer == "linear"
    assert linear.positions.tolist() == list(range(30))
    assert linear.channels.tolist() == [place // 6 for place in range(30)]
    sums = linear.gather(torch.arange(30.0), 5)
    assert sums.tolist() == [15, 51, 87, 123, 159]
    assert producers(groups["linear"]) == [("linear", None)]


# --- protection


class Rolled(nn.Module):
    """Each channel takes the place of the next."""

    def forward(self, features: Tensor) -> Tensor:
        return features.roll(1, dims=1)


def test_outputs_are_protected() -> None:
    groups = groups_of(toys.Auxiliary())
    reasons = {name: group.protected for name, group in groups.items()}
    assert reasons == {
        "first.0": None,
        "second.0": None,
        "head": "network output",
        "aux.0.0": "not run at inference",
        "aux.2": "network output",
    }
    assert [group.name for group in prunable(groups.values())] == ["first.0", "second.0"]
    assert layers(groups["first.0"].consumers) == ["second.0", "aux.0.0"]


def test_an_output_that_is_read_again_is_protected() -> None:
    reasons = {name: group.protected for name, group in groups_of(toys.Refined()).items()}
    assert reasons == {"first.0": None, "coarse": "network output", "fine": "network output"}


@pytest.mark.parametrize(
    ("layer", "read", "reason"),
    [
        (nn.ConvTranspose2d(8, 8, 2, groups=2), 8, "layer is a grouped transposed convolution"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)), 8, "layer computes its weight in every pass"),
        (Rolled(), 8, "layer passes them through roll"),
        (nn.LocalResponseNorm(3), 8, "layer passes them through avg_pool3d"),
    ],
    ids=["grouped transposed", "weight norm", "rolled", "local response norm"],
)
def test_what_cannot_be_narrowed_is_protected(layer: nn.Module, read: int, reason: str) -> None:
    assert groups_of(toys.Between(layer, read))["first"].protected.startswith(reason)


def test_channels_that_gate_each_other_go_together() -> None:
    class Coupled(toys.Between):
        def forward(self, images: Tensor) -> Tensor:
            features = self.first(images)
            return self.head(features * self.layer(features).repeat(1, 2, 1, 1))

    # Channels i and i + 4 of the first layer depend on channel i of the second; the code says how often they repeat.
    first = groups_of(Coupled(nn.Conv2d(8, 4, 1)))["first"]
    assert (first.protected, first.channels, first.unit) == (None, 4, 2)
    assert positions(first, "head") == [0, 4, 1, 5, 2, 6, 3, 7]


def test_channels_added_to_the_image_are_protected() -> None:
    class Added(toys.Between):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(images + self.layer(self.first(images)))

    groups = groups_of(Added(nn.Conv2d(8, 3, 1), read=3))
    assert {name: group.protected for name, group in groups.items()} == {
        "first": None,
        "layer": "added to the image",
        "head": "network output",
    }


def test_ignored_layers() -> None:
    groups = groups_of(toys.Residual(), ignore=["inner*", "outer2.0"])
    assert {name: group.protected for name, group in groups.items()} == {
        "stem.0": "ignored by 'outer2.0'",
        "inner1.0": "ignored by 'inner*'",
        "inner2.0": "ignored by 'inner*'",
        "side.0": None,
        "fuse.0": None,
        "head": "network output",
    }


@pytest.mark.parametrize("pattern", ["inner9*", "stem", "stem.1"], ids=["nothing", "a container", "a norm"])
def test_a_pattern_that_protects_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_groups(toys.Residual(), ignore=["side*", pattern])
    assert str(caught.value) == (
        f"`ignore` pattern '{pattern}' matches no layer that makes channels; they are named stem.0 to head"
    )


def test_first_layer_protected() -> None:
    assert groups_of(toys.Chain(), protect_first=True)["first.0"].protected == "first layer"
    assert groups_of(toys.Chain())["first.0"].protected is None


# --- the network stays as it was


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_changed(training: bool) -> None:
    model = toys.Auxiliary().train(training)
    model.first.eval()
    model.head.bias.requires_grad_(False)
    model.second.register_forward_hook(lambda *_: None)
    state = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    hooks = [(list(module._forward_hooks), list(module._forward_pre_hooks)) for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    find_groups(model)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    now = [(list(module._forward_hooks), list(module._forward_pre_hooks)) for module in model.modules()]
    assert now == hooks
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_layers_have_groups_all_the_same() -> None:
    frozen = toys.Residual().requires_grad_(False)
    assert list(groups_of(frozen)) == list(groups_of(toys.Residual()))


def test_other_precisions_have_the_same_groups() -> None:
    assert list(groups_of(toys.Residual().double())) == list(groups_of(toys.Residual()))


def test_gradients_may_be_off() -> None:
    with torch.no_grad():
        assert list(groups_of(toys.Chain())) == ["first.0", "second.0", "head"]


class Broken(toys.Chain):
    def forward(self, images: Tensor) -> Tensor:
        super().forward(images)
        raise RuntimeError("two\nlines")


class Detached(toys.Chain):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


class Constant(toys.Chain):
    def forward(self, images: Tensor) -> Tensor:
        raise ValueError


def test_no_gradients_are_needed() -> None:
    assert list(groups_of(Detached())) == list(groups_of(toys.Chain()))


@pytest.mark.parametrize("kind", [Broken, Constant])
def test_a_network_that_cannot_be_traced_is_an_error_of_one_line(kind: type[nn.Module]) -> None:
    model = kind()
    with pytest.raises(BenchError, match=f"cannot trace {kind.__name__}") as caught:
        find_groups(model)
    assert "\n" not in str(caught.value)
    assert not any(module._forward_hooks for module in model.modules())
