"""Losses without channels: analytic, as after a cut, batched as one by one, kept in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.channels.groups import find_groups, prunable
from bench.errors import BenchError
from bench.models import ModelSpec, build_model
from bench.oracle import ablation
from bench.oracle.ablation import Ablation, full_precision, loss_sums
from bench.system.files import read_json
from bench.torch_utils.batches import Batch

VOID = 4


def batches(images: int = 3, size: tuple[int, int] = (16, 24), outputs: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(2)
    pictures = torch.randn(images, 3, *size, generator=generator)
    labels = torch.randint(0, outputs, (images, *size), generator=generator)
    labels[0, :5] = VOID
    return list(zip(pictures.split(2), labels.split(2), strict=True))


def opened(model: nn.Module, path: Path, data: list[Batch], **changes: Any) -> Ablation:
    settings = {"ignore_index": VOID, "device": torch.device("cpu"), "identity": "a test"}
    return Ablation(model, data, path=path, **{**settings, **changes})


def plain_losses(model: nn.Module, data: list[Batch]) -> Tensor:
    """float64 [images], summed over the pixels that count."""
    pairs = [pair for images, labels in data for pair in zip(images, labels, strict=True)]
    with torch.inference_mode():
        return torch.stack([
            cross_entropy(model(image[None]).double(), label[None], ignore_index=VOID, reduction="sum")
            for image, label in pairs
        ])  # fmt: skip


def test_the_loss_change_of_a_linear_network_is_the_formula(tmp_path: Path) -> None:
    """Two outputs, one of them zero: the loss is log(1 + exp(-z)) with z = sum of weight * value for label 0."""
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 2, 1, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3)[:, :, None, None])
        model[1].weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]])[:, :, None, None])
    image = torch.tensor([0.3, -0.7, 2.0])[None, :, None, None].expand(1, 3, 2, 2).contiguous()
    measured = opened(model, tmp_path / "losses.json", [(image, torch.zeros(1, 2, 2, dtype=torch.int64))])
    (group,) = prunable(find_groups(model))
    losses = measured.losses([(group, (0,)), (group, (1,)), (group, (2,)), (group, (0, 2))])[:, 0]
    parts = torch.tensor([0.3, 1.4, 1.0], dtype=torch.float64)
    wanted = [parts.sum() - parts[0], parts.sum() - parts[1], parts.sum() - parts[2], parts[1]]
    assert torch.allclose(losses, 4 * torch.log1p(torch.exp(-torch.stack(wanted))), rtol=1e-6)
    assert torch.allclose(measured.whole, 4 * torch.log1p(torch.exp(-parts.sum())), rtol=1e-6)
    assert measured.pixels.tolist() == [4]


NETWORKS = {
    "chain": toys.Chain,
    "residual": toys.Residual,
    "unpooled": toys.Unpooled,
    "depthwise": lambda: toys.Between(nn.Conv2d(8, 8, 3, padding=1, groups=8)),
    "prelu": lambda: toys.Between(nn.PReLU(8)),
    "unet_small": lambda: build_model(ModelSpec("unet_small", 4)),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
def test_removed_is_what_a_cut_network_loses(make: Any, tmp_path: Path) -> None:
    model = toys.settled(make())
    data = batches()
    measured = opened(model, tmp_path / "losses.json", data)
    groups = find_groups(model)
    removals = [(group, channels) for group in prunable(groups) for channels in ((0,), (1, group.channels - 1))]
    losses = measured.losses(removals)
    assert torch.allclose(measured.whole, plain_losses(model, data), rtol=1e-6)
    for (group, channels), found in zip(removals, losses, strict=True):
        kept = [channel for channel in range(group.channels) if channel not in channels]
        cut = toys.cut_copy(model, groups, toys.plan_keeping(groups, {group.name: kept}))
        assert torch.allclose(found, plain_losses(cut, data), rtol=1e-5), group.name
        assert not torch.equal(found, measured.whole)


def test_several_at_once_are_as_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toys.settled(toys.Residual())
    removals = [(group, (channel,)) for group in prunable(find_groups(model)) for channel in range(group.channels)]
    together = opened(model, tmp_path / "together.json", batches()).losses(removals)
    monkeypatch.setattr(ablation, "PIXELS_AT_ONCE", 1)
    alone = opened(model, tmp_path / "alone.json", batches()).losses(removals)
    assert torch.allclose(together, alone, rtol=1e-5)
    assert together.unique().numel() > len(removals)


def test_a_dead_channel_changes_nothing(tmp_path: Path) -> None:
    model = toys.settled(toys.Chain())
    with torch.no_grad():
        model.first[1].weight[3] = model.first[1].bias[3] = 0
    (group, _) = prunable(find_groups(model))
    measured = opened(model, tmp_path / "losses.json", batches())
    dead, alive = measured.losses([(group, (3,)), (group, (4,))])
    assert torch.allclose(dead, measured.whole, rtol=1e-9)
    assert not torch.allclose(alive, measured.whole, rtol=1e-4)


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toys.settled(toys.Chain())
    (first, second) = prunable(find_groups(model))
    path = tmp_path / "new" / "losses.json"
    before = opened(model, path, batches()).losses([(first, (0,)), (second, (2, 1))])
    record = read_json(path)
    assert record["identity"] == "a test"
    assert [set(image) for image in record["images"]] == [{"", "first.0:0", "second.0:1,2"}] * 3

    asked = []
    plain_replay = ablation.IncrementalForward.logits_without
    monkeypatch.setattr(
        ablation.IncrementalForward,
        "logits_without",
        lambda self, closed, variants: asked.append(variants) or plain_replay(self, closed, variants),
    )
    again = opened(model, path, batches())
    assert torch.equal(again.losses([(second, (1, 2)), (first, (0,)), (first, (0,))]), before[[1, 0, 0]])
    assert asked == []
    again.losses([(first, (0,)), (first, (5,))])
    assert asked == [1, 1, 1]


def test_an_interrupted_measurement_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toys.settled(toys.Chain())
    (group, _) = prunable(find_groups(model))
    wanted = opened(model, tmp_path / "whole.json", batches()).losses([(group, (0,))])
    plain = ablation.IncrementalForward.__init__
    seen: list[int] = []

    def interrupted(self: Any, network: nn.Module, image: Tensor) -> None:
        seen.append(1)
        # The first finds out whether the channel has to be cut.
        if len(seen) == 4:
            raise KeyboardInterrupt
        plain(self, network, image)

    monkeypatch.setattr(ablation.IncrementalForward, "__init__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(model, tmp_path / "losses.json", batches()).losses([(group, (0,))])
    assert torch.equal(opened(model, tmp_path / "losses.json", batches()).losses([(group, (0,))]), wanted)
    assert len(seen) == 5


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    model = toys.settled(toys.Chain())
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    (group, _) = prunable(find_groups(model))
    with pytest.raises(BenchError, match="not finite"):
        opened(model, tmp_path / "losses.json", batches()).losses([(group, (0,))])
    assert not (tmp_path / "losses.json").exists()


def test_the_loss_is_cross_entropy_over_what_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 6, 7, generator=generator)
    label = torch.randint(0, 5, (6, 7), generator=generator)
    wanted = [cross_entropy(one[None].double(), label[None], ignore_index=VOID, reduction="sum") for one in logits]
    assert torch.allclose(loss_sums(logits, label, VOID), torch.stack(wanted), rtol=1e-6)
    assert loss_sums(logits, torch.full((6, 7), VOID), VOID).tolist() == [0, 0, 0]


def test_tf32_is_off_only_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with full_precision():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32


class ChannelNorm(nn.LayerNorm):
    """A norm over channels that gives [N, C, H, W]."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


GATES = {
    "sigmoid": (nn.Sequential(nn.BatchNorm2d(8), nn.Sigmoid()), {"first"}),
    "hardsigmoid": (nn.Sequential(nn.BatchNorm2d(8), nn.Hardsigmoid()), {"first"}),
    "a norm over channels": (ChannelNorm(8), {"first"}),
    "a norm over all": (nn.GroupNorm(1, 8), {"first"}),
    # What runs together mixes in a norm behind a change.
    "no statistics": (nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)), {"first"}),
    "a softmax": (nn.Softmax(dim=1), {"first"}),
    "nothing": (nn.Identity(), set()),
}


@pytest.mark.parametrize("between", GATES)
def test_what_is_not_switched_off_by_a_zero_is_cut(between: str, tmp_path: Path) -> None:
    layers, cut_ones = GATES[between]
    torch.manual_seed(0)
    model = nn.Sequential()
    model.first, model.between = nn.Conv2d(3, 8, 3, padding=1), layers
    model.second, model.head = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
    model = model.eval() if between == "no statistics" else toys.settled(model)
    data, groups = batches(2), find_groups(model)
    assert {group.name for group in prunable(groups)} >= {"first", "second"}
    measured = opened(model, tmp_path / "losses.json", data)
    removals = [(group, (channel,)) for group in prunable(groups) for channel in range(3)]
    losses = measured.losses(removals)
    for (group, (gone,)), found in zip(removals, losses, strict=True):
        kept = [channel for channel in range(group.channels) if channel != gone]
        cut = toys.cut_copy(model, groups, toys.plan_keeping(groups, {group.name: kept}))
        assert torch.allclose(found, plain_losses(cut, data), rtol=1e-5), group.name
    judged = read_json(tmp_path / "losses.json")["cut"]
    assert {name for name, is_cut in judged.items() if is_cut} == cut_ones
