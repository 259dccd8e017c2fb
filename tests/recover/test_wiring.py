"""Which norm reads a layer, and what a residual branch is added to."""

from __future__ import annotations

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.models import ModelSpec, build_model
from bench.recover.wiring import Call, TensorsKept, Wiring, read_wiring
from bench.torch_utils.hooks import calls_seen


class Branches(nn.Module):
    """A block whose shortcut runs after the branch, a sum without a norm, and sums that are none of a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu = toys.conv(3, 8), nn.ReLU(inplace=True)
        self.branch, self.shortcut = toys.conv(8, 6), toys.conv(8, 6)
        self.bare = nn.Conv2d(6, 6, 1)
        self.changed = nn.Conv2d(6, 6, 1)
        self.drop = nn.Dropout()
        self.late = toys.conv(6, 6)

    def forward(self, images: Tensor) -> Tensor:
        trunk = self.relu(self.stem(images))
        features = self.branch(trunk)
        features += self.shortcut(trunk)
        features = features + self.bare(features)
        features = features + self.changed(features).relu()
        return torch.add(features, self.drop(self.late(features)))


def test_norms_and_sums_of_a_residual_network() -> None:
    wiring = read_wiring(toys.Residual())
    assert set(wiring.calls.values()) == {1}
    blocks = ("stem", "inner1", "outer1", "inner2", "outer2", "side", "fuse")
    assert wiring.norms == {f"{name}.0": f"{name}.1" for name in blocks}
    # The trunk is what the first layer of each branch reads.
    assert wiring.trunks == {
        "outer1.0": Call("inner1.0", 0, is_input=True),
        "outer2.0": Call("inner2.0", 0, is_input=True),
    }


def test_only_sums_whose_other_side_is_there_before() -> None:
    network = Branches()
    wiring = read_wiring(network)
    assert wiring.trunks == {
        "shortcut.0": Call("branch.1", 0),
        "bare": Call("bare", 0, is_input=True),
        "late.0": Call("late.0", 0, is_input=True),
    }
    assert "bare" not in wiring.norms and "changed" not in wiring.norms
    assert network.training and not any(module._forward_hooks for module in network.modules())


def test_what_runs_twice_or_never_is_counted() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.twice, self.never = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.twice(self.twice(self.first(images)))

    assert read_wiring(Shared()) == Wiring({"first": 1, "twice": 2}, {}, {})


@pytest.mark.parametrize(("name", "blocks"), [("resnet18_seg", 8), ("fcn_resnet50", 16)])
def test_every_block_of_a_resnet_ends_in_a_sum(name: str, blocks: int) -> None:
    model = build_model(ModelSpec(name, 12))
    wiring = read_wiring(model)
    assert len(wiring.trunks) == blocks
    # Torchvision runs a block's downsampling behind its branch.
    downsampled = {layer: call for layer, call in wiring.trunks.items() if "downsample" in layer}
    assert len(downsampled) == 3 + (name == "fcn_resnet50")
    assert all(call.module.rpartition(".")[2] in ("bn2", "bn3") for call in downsampled.values())
    assert all(isinstance(model.get_submodule(norm), nn.BatchNorm2d) for norm in wiring.norms.values())


def test_tensors_are_kept_until_they_are_taken() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Tanh())
    wanted = [Call("0", 0), Call("1", 0, is_input=True), Call("1", 1)]
    kept = TensorsKept(wanted)
    images = torch.randn(1, 2, 3, 3)
    with calls_seen(model, kept.modules, kept.see):
        model(images)
        model(images)
    assert torch.equal(kept.take(wanted[0]), images.relu())
    assert torch.equal(kept.take(wanted[1]), images.relu())
    assert torch.equal(kept.take(wanted[2]), images.relu().tanh())
    with pytest.raises(KeyError):
        kept.take(wanted[0])
