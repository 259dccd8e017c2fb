"""The repair of whole networks: what can be mended is, what needs no mending is not touched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, save_model
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import PruningPlan, make_plan
from bench.plan.target import Goal, Target
from bench.recover.options import RepairOptions
from bench.recover.repair import Repair, repair

# Every position counts the same: errors are compared over all of them.
QUICK = RepairOptions(repair_limit=200, repair_positions=1, repair_balance=0)


def smooth(images: int, size: tuple[int, int] = (32, 48), seed: int = 1) -> Tensor:
    """Images whose neighbouring pixels are alike, as those of a camera are."""
    coarse = torch.randn(images, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=size, mode="bilinear")


IMAGES = smooth(8)


class Dependent(nn.Module):
    """A trunk with one channel that is the sum of others, read by every kind of layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        # Zeros around the image would not be sums of others where there is a constant among them.
        self.second = nn.Sequential(nn.ReplicationPad2d(1), nn.Conv2d(8, 6, 3, bias=False), nn.BatchNorm2d(6))
        self.down = nn.Conv2d(6, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 6, 2, stride=2)
        self.head = nn.Conv2d(14, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        # Without an activation sums of channels stay sums.
        trunk = self.stem(images)
        features = self.up(self.down(self.second(trunk).relu()))
        return self.head(torch.cat([features, trunk], dim=1))


@torch.no_grad()
def made_dependent(model: Dependent) -> Dependent:
    """Channel 5 of the trunk becomes 2 * channel 0 - channel 3 + 0.5."""
    conv, norm = model.stem
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = scale[:, None, None, None] * conv.weight
    bias = norm.bias + scale * (conv.bias - norm.running_mean)
    conv.weight[5] = (2 * weight[0] - weight[3]) / scale[5]
    wanted = 2 * bias[0] - bias[3] + 0.5
    conv.bias[5] = (wanted - norm.bias[5]) / scale[5] + norm.running_mean[5]
    return model


@torch.no_grad()
def repaired(
    model: nn.Module, plan: PruningPlan, groups: list[ChannelGroup], options: RepairOptions = QUICK, seed: int = 0
) -> tuple[nn.Module, Repair]:
    network = toys.cut_copy(model, groups, plan)
    return network, repair(model, network, groups, plan, IMAGES, options, seed)


def random_half(groups: list[ChannelGroup], seed: int = 0) -> PruningPlan:
    half = {
        name: sorted(score.argsort()[: max(1, len(score) // 2)].tolist())
        for name, score in toys.random_scores(groups, seed).items()
    }
    return toys.plan_keeping(groups, half)


def states(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("options", [RepairOptions(), RepairOptions(repair_limit=20)], ids=["full", "shared"])
def test_a_channel_that_others_make_up_leaves_nothing_behind(options: RepairOptions) -> None:
    model = made_dependent(toys.settled(Dependent()))
    groups = find_groups(model)
    plan = toys.plan_keeping(groups, {"stem.0": [0, 1, 2, 3, 4, 6, 7]})
    with torch.no_grad():
        wanted = model(IMAGES)
    sliced = toys.cut_copy(model, groups, plan)
    network, done = repaired(model, plan, groups, options)
    with torch.no_grad():
        off, sliced_off = ((one(IMAGES) - wanted).abs().max() for one in (network, sliced))
    spread = wanted.max() - wanted.min()
    assert sliced_off > 0.01 * spread
    assert off < 1e-4 * spread
    assert {name: one.outcome for name, one in done.layers.items()} == {
        "stem.0": "unchanged", "second.1": "repaired", "down": "unchanged", "up": "unchanged", "head": "repaired",
    }  # fmt: skip
    assert done.left_alone == {}


def test_a_plan_that_removes_nothing_changes_no_byte() -> None:
    model = toys.settled(toys.Residual())
    groups = find_groups(model)
    network, done = repaired(model, toys.plan_keeping(groups, {}), groups)
    assert done.layers == {} and done.seconds == 0
    before = states(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_what_lies_before_the_cut_changes_no_byte() -> None:
    model = toys.settled(toys.Chain())
    groups = find_groups(model)
    plan = toys.plan_keeping(groups, {"second.0": [0, 1, 2]})
    network, done = repaired(model, plan, groups)
    before = states(toys.cut_copy(model, groups, plan))
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}
    assert [one.outcome for one in done.layers.values()] == ["unchanged", "unchanged", "repaired"]


def test_orthogonal_features_stay_as_sliced() -> None:
    """The network reads noise by filters that look at places of their own: no channel says anything of another."""

    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 9, 3, padding=1, bias=False)
            self.head = nn.Conv2d(9, 4, 1)
            self.first.weight.data.zero_()
            for channel in range(9):
                self.first.weight.data[channel, channel % 3, channel // 3, 1] = 1.0

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.first(images))

    model = Apart().eval()
    noise = torch.randn(8, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    groups = find_groups(model)
    # Of each column of three places one goes, so that what stays and what goes read other pixels.
    plan = toys.plan_keeping(groups, {"first": [0, 2, 4, 5, 7]})
    network = toys.cut_copy(model, groups, plan)
    done = repair(model, network, groups, plan, noise, RepairOptions(repair_balance=0))
    before = states(toys.cut_copy(model, groups, plan))
    assert done.layers["head"].outcome == "sliced"
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("kind", [toys.Chain, toys.Residual, toys.Unpooled, toys.Transposed, toys.ImageAgain])
def test_the_output_comes_closer(kind: Callable[[], nn.Module]) -> None:
    model = toys.settled(kind())
    groups = find_groups(model)
    plan = random_half(groups)
    network, _ = repaired(model, plan, groups)
    sliced = toys.cut_copy(model, groups, plan)
    fresh = smooth(4, seed=9)
    with torch.no_grad():
        wanted = model(fresh)
        off, sliced_off = ((one(fresh) - wanted).square().mean() for one in (network, sliced))
    assert off < 0.8 * sliced_off


def test_a_branch_makes_up_for_its_shortcut() -> None:
    model = toys.settled(toys.Residual())
    groups = find_groups(model)
    plan = toys.plan_keeping(groups, {"stem.0": [0, 1, 2, 4, 5]})
    errors = {}
    with torch.no_grad():
        wanted = model(IMAGES)
        for trunk in (False, True):
            network, _ = repaired(model, plan, groups, RepairOptions(repair_trunk=trunk, repair_balance=0))
            errors[trunk] = float((network(IMAGES) - wanted).square().mean())
    assert errors[True] < errors[False]


def test_the_sum_is_what_a_branch_aims_at() -> None:
    """With a shortcut that is off by what the branch can tell, the sum is exact behind the branch."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 12, 1)
            self.outer, self.norm = nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6)
            self.act, self.head = nn.Identity(), nn.Conv2d(6, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            trunk = self.stem(images)
            return self.head(self.act(trunk + self.norm(self.outer(self.inner(trunk)))))

    model = toys.settled(Sum())
    groups = find_groups(model)
    plan = toys.plan_keeping(groups, {"inner": list(range(9))})
    network = toys.cut_copy(model, groups, plan)
    # The trunk is off, as after a cut; what lies before it cannot be solved for here.
    with torch.no_grad():
        network.stem.weight += 0.05 * torch.randn(6, 3, 1, 1, generator=torch.Generator().manual_seed(3))
    sums: dict[str, Tensor] = {}
    with torch.no_grad():
        done = repair(model, network, groups, plan, IMAGES, RepairOptions(), 0, spared={"stem"})
        for name, one in (("before", model), ("after", network)):
            trunk = one.stem(IMAGES)
            sums[name] = trunk + one.norm(one.outer(one.inner(trunk)))
    assert done.layers["outer"].outcome == "repaired"
    # All is linear in the image and the trunk has six channels, of which the branch sees each.
    assert (sums["after"] - sums["before"]).abs().max() < 1e-3


def test_hooks_flags_and_the_network_before_are_as_they_were() -> None:
    model = toys.settled(toys.Residual())
    groups = find_groups(model)
    plan = random_half(groups)
    network = toys.cut_copy(model, groups, plan)
    network.train()
    network.stem[1].eval()
    flags = [module.training for module in network.modules()]
    grads = [parameter.requires_grad for parameter in network.parameters()]
    model.train()
    before = states(model)
    repair(model, network, groups, plan, IMAGES, QUICK)
    assert [module.training for module in network.modules()] == flags
    assert [parameter.requires_grad for parameter in network.parameters()] == grads
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for one in (model, network):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in one.modules())


def test_hooks_go_when_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toys.settled(toys.Residual())
    groups = find_groups(model)
    network = toys.cut_copy(model, groups, random_half(groups))

    def broken(*_: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr("bench.recover.repair.repair_layer", broken)
    with pytest.raises(ValueError, match="no"):
        repair(model, network, groups, random_half(groups), IMAGES, QUICK)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_same_seed_gives_the_same_bytes() -> None:
    model = toys.settled(toys.Residual())
    groups = find_groups(model)
    few = RepairOptions(repair_images=8)
    images = smooth(8, (64, 64))
    plan, found = random_half(groups), []
    for seed in (1, 1, 2):
        network = toys.cut_copy(model, groups, plan)
        repair(model, network, groups, plan, images, few, seed)
        found.append(states(network))
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())
    assert not all(torch.equal(tensor, found[2][name]) for name, tensor in found[0].items())


def test_what_cannot_be_repaired_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = toys.conv(3, 8)
            self.twice = nn.Conv2d(8, 8, 1)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.never, self.spared, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            features = self.twice(self.twice(self.first(images).relu()))
            tokens = features.flatten(2).transpose(1, 2)
            mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
            features = mixed.transpose(1, 2).reshape(features.shape)
            return self.head(self.spared(features).relu())

    model = toys.settled(Odd())
    groups = find_groups(model)
    plan = toys.plan_keeping(groups, {"spared": [0, 1, 2]})
    network = toys.cut_copy(model, groups, plan)
    done = repair(model, network, groups, plan, IMAGES, QUICK, spared={"spared"})
    assert done.left_alone == {
        "twice": "runs 2 times in a pass",
        "attention": "MultiheadAttention is not solved for",
        "attention.out_proj": "not run as a layer at inference",
        "never": "not run as a layer at inference",
        "spared": "its weights are to stay",
    }
    assert done.layers.keys() == {"first.0", "head"}


def test_a_norm_is_settled_where_its_layer_gives_what_it_gave() -> None:
    model = toys.settled(toys.Chain())
    groups = find_groups(model)
    _, done = repaired(model, toys.plan_keeping(groups, {"first.0": [0, 1, 2, 3, 5]}), groups)
    assert {name: one.outcome for name, one in done.layers.items()}["first.0"] == "unchanged"
    assert done.settled_norms == {"first.1", "second.1"}
    record = done.as_record()
    assert record["images"] == 8 and record["seconds"] > 0
    assert record["layers"]["head"].keys() == {
        "outcome", "form", "positions", "unknowns", "ridge", "explained_sliced", "explained_repaired",
    }  # fmt: skip


def test_more_images_than_a_batch_and_sizes_that_do_not_divide() -> None:
    model = toys.settled(build_model(ModelSpec("unet_small", 12, {"width": 8, "depth": 2})))
    groups = find_groups(model)
    plan = random_half(groups)
    network = toys.cut_copy(model, groups, plan)
    images = smooth(7, (29, 35))
    done = repair(model, network, groups, plan, images, QUICK)
    assert done.images == 7
    assert torch.isfinite(network(images)).all()


def test_rows_of_layers_that_see_an_image_as_several_are_those_of_the_same_image() -> None:
    model, _ = toys.Rows.both()
    groups = find_groups(model)
    small, done = repaired(model, toys.plan_keeping(groups, {"along": [0, 2, 3, 7]}), groups)
    # What it reads and what stays of its weights is as before the cut.
    assert done.layers["along"].outcome == "unchanged"
    assert torch.equal(small.along.weight, model.along.weight[[0, 2, 3, 7]])
    assert done.layers["along"].positions == IMAGES.shape[2] * IMAGES.shape[3] * len(IMAGES)


def test_every_repaired_network_opens_in_a_new_process(project_root: Path, tmp_path: Path) -> None:
    """Predicted cost and counted cost are one, and the file gives the same numbers elsewhere."""
    images = smooth(1, (37, 53), seed=5)
    known = {}
    for name in toys.KINDS:
        torch.manual_seed(0)
        spec = ModelSpec(name, 12, toys.QUICK.get(name, {}))
        model = toys.settled(build_model(spec))
        # Which groups hold is tried out elsewhere.
        groups = find_groups(model, check=False)
        target = Target(Goal("channels", 0.9), "local")
        table = CostTable(model, groups, (32, 48))
        plan = make_plan(groups, toys.random_scores(groups), table, target)
        network = toys.cut_copy(model, groups, plan)
        done = repair(model, network, groups, plan, IMAGES[:1], QUICK)
        assert any(one.outcome == "repaired" for one in done.layers.values()), name
        assert plan.predicted == toys.measured(network, (32, 48)), name
        save_model(tmp_path / f"{name}.pt", SavedModel(network, spec, plan.kept))
        with torch.inference_mode():
            known[name] = network(images)
    assert prunable(groups)
    torch.save({"images": images, "logits": known}, tmp_path / "known.pt")
    program = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from bench.models.checkpoint import load_model\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "folder = Path(sys.argv[1])\n"
        "known = torch.load(folder / 'known.pt', weights_only=True)\n"
        "with torch.inference_mode():\n"
        "    for name, logits in known['logits'].items():\n"
        "        model = load_model(folder / f'{name}.pt').model\n"
        "        print(name, torch.equal(model(known['images']), logits))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=project_root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [word for name in known for word in (name, "True")]
