"""DMCP: gates on groups, the width search, and the published training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.datasets.options import DataOptions
from bench.engine.options import PruneOptions
from bench.engine.pruning import prune_network
from bench.engine.session import Session
from bench.errors import BenchError, UsageError
from bench.measure.baseline import Baseline
from bench.measure.options import ScoringOptions, TimingOptions
from bench.plan.cost_table import CostTable
from bench.plan.macs_budget import Budget, budget_for
from bench.plan.pruning_plan import PruningPlan, Scores, make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration
from bench.pruners.dmcp import sandwich, search
from bench.pruners.dmcp.gated import Gates, Widths
from bench.pruners.dmcp.gates import gate_layout, gates_by_rank, scores_from_width
from bench.pruners.dmcp.pruner import first_logits, importance_order
from bench.recover.recalibration import recalibrate
from bench.training.losses import pixel_divergence

SIZE, VOID = (16, 24), 3
CPU = torch.device("cpu")


class Wide(nn.Module):
    """A chain and a residual trunk, wide enough for steps of several channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.trunk, self.branch = toys.conv(3, 40), toys.conv(40, 64), toys.conv(64, 64)
        self.last = toys.conv(64, 30)
        self.head = nn.Conv2d(30, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        trunk = self.trunk(self.first(images).relu()).relu()
        return self.head(self.last((trunk + self.branch(trunk)).relu()).relu())


class Net:
    """A network with what a search needs."""

    def __init__(self, kind: Callable[[], nn.Module] = Wide):
        self.model = toys.settled(kind())
        self.groups = find_groups(self.model)
        self.table = CostTable(self.model, self.groups, SIZE)

    def budget(self, target: Target) -> Budget:
        return budget_for(self.groups, self.table, target)

    def widths(self, target: Target) -> Widths:
        order = importance_order(self.model, prunable(self.groups))
        return Widths(order, first_logits(order, CPU), self.budget(target))

    def score(self, target: Target, seed: int = 0, labels: int = 0, **settings: Any) -> Scores:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(4, 3, *SIZE, generator=generator)
        classes = torch.randint(0, 3, (4, *SIZE), generator=torch.Generator().manual_seed(labels))
        batches = list(zip(images.split(2), classes.split(2), strict=True))
        pruner = make_pruner("dmcp", {"steps": 6, **settings})
        calibration = Calibration(batches, VOID, 0, self.budget(target))
        return pruner.score(self.model, prunable(self.groups), calibration)

    def plan(self, scores: Scores, target: Target) -> PruningPlan:
        return make_plan(self.groups, scores, self.table, target)


@pytest.fixture(scope="module")
def wide() -> Net:
    torch.manual_seed(0)
    return Net()


def random_widths(groups: list[ChannelGroup], seed: int) -> dict[str, int]:
    generator = torch.Generator().manual_seed(seed)
    return {group.name: int(torch.randint(1, group.channels + 1, (), generator=generator)) for group in groups}


# --- gates


def test_open_gates_change_nothing_and_leave_nothing_behind() -> None:
    net = Net(toys.Residual)
    groups = prunable(net.groups)
    whole = net.model(toys.IMAGES)
    with Gates(net.model, groups) as gates:
        assert torch.equal(net.model(toys.IMAGES), whole)
        gates.set({group.name: torch.ones(group.channels) for group in groups})
        assert torch.equal(net.model(toys.IMAGES), whole)
        gates.set({group.name: torch.full((group.channels,), 0.5) for group in groups})
        assert not torch.allclose(net.model(toys.IMAGES), whole)
    assert torch.equal(net.model(toys.IMAGES), whole)
    assert not any(layer._forward_hooks for layer in net.model.modules())


def test_a_norm_that_gives_ones_gives_its_gates(wide: Net) -> None:
    group = next(group for group in wide.groups if group.name == "first.0")
    layout, logits = gate_layout(40), torch.linspace(2, -1, 9)
    values = gates_by_rank(layout, logits)
    norm = wide.model.first[1]
    seen: list[Tensor] = []
    kept = norm.weight.data.clone(), norm.bias.data.clone()
    norm.weight.data.zero_()
    norm.bias.data.fill_(1)
    with Gates(wide.model, [group]) as gates:
        gates.set({"first.0": values})
        hook = norm.register_forward_hook(lambda layer, inputs, output: seen.append(output))
        wide.model(toys.IMAGES)
        hook.remove()
    norm.weight.data, norm.bias.data = kept
    torch.testing.assert_close(seen[0], values.view(1, -1, 1, 1).expand_as(seen[0]))
    assert seen[0][0, : layout.always, 0, 0].tolist() == [1] * 4


@pytest.mark.parametrize("kind", [toys.Chain, toys.Residual, toys.Unpooled, toys.Transposed, toys.Flattened, Wide])
def test_a_closed_gate_is_a_cut(kind: Callable[[], nn.Module]) -> None:
    net = Net(kind)
    for layer in net.model.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and layer.bias is not None:
            layer.bias.data.add_(0.5)
    groups = prunable(net.groups)
    widths = net.widths(Target(Goal("macs", 0.5)))
    for seed in range(3):
        chosen = random_widths(groups, seed)
        kept = {name: sorted(widths.order[name][:count].tolist()) for name, count in chosen.items()}
        smaller = toys.cut_copy(net.model, net.groups, toys.plan_keeping(net.groups, kept))
        with Gates(net.model, groups) as gates:
            gates.set(widths.masks(chosen))
            torch.testing.assert_close(net.model(toys.IMAGES), smaller(toys.IMAGES))


# --- cost


def test_mean_macs_of_whole_widths_are_those_predicted(wide: Net) -> None:
    for net in (wide, Net(toys.Residual), Net(toys.Transposed)):
        for seed in range(4):
            chosen = random_widths(net.groups, seed)
            kept = torch.tensor([chosen[group.name] for group in net.groups], dtype=torch.float64)
            assert net.table.expected_macs(kept).item() == net.table.predict(kept.long().numpy()).macs


def test_mean_macs_are_products_of_means_with_their_slopes() -> None:
    net = Net(toys.Chain)
    pixels = SIZE[0] * SIZE[1]
    kept = torch.tensor([2.5, 4.25, 4.0], dtype=torch.float64, requires_grad=True)
    macs = net.table.expected_macs(kept)
    assert macs.item() == pytest.approx(pixels * (27 * 2.5 + 9 * 2.5 * 4.25 + 4.25 * 4))
    (slopes,) = torch.autograd.grad(macs, kept)
    assert slopes[:2].tolist() == pytest.approx([pixels * (27 + 9 * 4.25), pixels * (9 * 2.5 + 4)])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_widths_within_the_budget(wide: Net, share: float) -> None:
    target = Target(Goal("macs", share))
    widths = wide.widths(target)
    generator = torch.Generator().manual_seed(1)
    for logits in widths.logits.values():
        logits += 2 * torch.randn(logits.shape, generator=generator)
    found = widths.within_budget()
    kept = torch.tensor([found.get(group.name, group.channels) for group in wide.groups], dtype=torch.float64)
    assert wide.table.expected_macs(kept).item() == pytest.approx(share * wide.table.dense().macs, rel=1e-6)
    whole = wide.table.predict(kept.round().long().numpy()).macs
    assert whole == pytest.approx(share * wide.table.dense().macs, rel=0.02)


def test_a_target_that_is_not_in_macs_stands_for_those_of_the_uniform_network(wide: Net) -> None:
    for target in (Target(Goal("channels", 0.3)), Target(Goal("params", 0.4)), Target(Goal("size", 60_000))):
        uniform = make_plan(wide.groups, toys.random_scores(wide.groups), wide.table, replace(target, scope="local"))
        assert wide.budget(target).macs == uniform.predicted.macs
        assert wide.budget(target).given == {}
    assert wide.budget(Target(Goal("macs", 0.37))).macs == 0.37 * wide.table.dense().macs
    given = wide.budget(Target(Goal("macs", 0.5), ratio_of={"last*": 0.4})).given
    assert given == {"last.0": 18}


# --- the search


def uneven(net: Net, target: Target) -> tuple[dict[str, float], dict[str, Tensor], Scores]:
    """Widths of a search that treats groups differently, the order of channels, and the scores they make."""
    widths = net.widths(target)
    widths.logits = {
        name: logits + shift for (name, logits), shift in zip(widths.logits.items(), (0, -2, -1), strict=True)
    }
    found = widths.within_budget()
    return found, widths.order, {name: scores_from_width(widths.order[name], width) for name, width in found.items()}


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_the_plan_keeps_the_learned_widths(wide: Net, share: float) -> None:
    target = Target(Goal("macs", share))
    widths, order, scores = uneven(wide, target)
    assert max(len(order[name]) / width for name, width in widths.items()) > 1.1 * min(
        len(order[name]) / width for name, width in widths.items()
    )
    plan = wide.plan(scores, target)
    assert plan.predicted.macs == pytest.approx(share * plan.dense.macs, rel=0.02)
    for name, kept in plan.kept.items():
        # The best channels of each group, and of all groups together one more or less than the widths, rounded.
        assert kept == sorted(order[name][: len(kept)].tolist())
        assert abs(len(kept) - round(widths[name])) <= 1


def test_other_targets_scale_the_widths_together(wide: Net) -> None:
    widths, _, scores = uneven(wide, Target(Goal("macs", 0.6)))
    plan = wide.plan(scores, Target(Goal("channels", 0.5)))
    assert plan.channel_ratio == pytest.approx(0.5, abs=0.01)
    kept = {name: len(channels) for name, channels in plan.kept.items()}
    # The threshold at which every width, divided by it and rounded, is what the group keeps.
    low = max(width / (kept[name] + 0.5) for name, width in widths.items())
    high = min(width / (kept[name] - 0.5) for name, width in widths.items())
    assert 1 < low <= high


def test_the_search_lands_on_its_target(wide: Net) -> None:
    for target in (Target(Goal("macs", 0.5)), Target(Goal("params", 0.4)), Target(Goal("channels", 0.3))):
        scores = wide.score(target)
        plan = wide.plan(scores, target)
        assert plan.predicted.macs == pytest.approx(wide.budget(target).macs, rel=0.02)
        kept = [int((scores[g.name] >= 1).sum()) if g.name in scores else g.channels for g in wide.groups]
        assert wide.table.predict(np.array(kept)).macs == pytest.approx(wide.budget(target).macs, rel=0.02)


def test_a_given_width_is_not_learned(wide: Net) -> None:
    target = Target(Goal("macs", 0.5), ratio_of={"last*": 0.4})
    scores = wide.score(target)
    assert int((scores["last.0"] >= 1).sum()) == 18
    plan = wide.plan(scores, target)
    assert len(plan.kept["last.0"]) == 18
    assert plan.predicted.macs == pytest.approx(0.5 * plan.dense.macs, rel=0.02)
    everything = Target(Goal("channels", 0.0), ratio_of={"*": 0.4})
    assert all(len(kept) < 64 for kept in wide.plan(wide.score(everything), everything).kept.values())


def equal(one: Scores, other: Scores) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_scores_follow_images_labels_and_target_and_repeat(wide: Net) -> None:
    target = Target(Goal("macs", 0.5))
    before = {name: tensor.clone() for name, tensor in wide.model.state_dict().items()}
    scores = wide.score(target)
    assert equal(wide.score(target), scores)
    assert not equal(wide.score(target, seed=1), scores)
    assert not equal(wide.score(target, labels=1), scores)
    assert not equal(wide.score(Target(Goal("macs", 0.3))), scores)
    assert not equal(wide.score(target, budget_weight=10.0), scores)
    after = wide.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not wide.model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in wide.model.parameters())
    assert not any(score.requires_grad for score in scores.values())


def test_a_group_that_matters_keeps_more() -> None:
    # The output reads nothing of the second half of the network: closing its gates costs no loss.
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = toys.conv(3, 40), toys.conv(3, 40)
            self.head = nn.Conv2d(80, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(torch.cat([self.used(images).relu(), self.idle(images).relu()], dim=1))

    torch.manual_seed(0)
    net = Net(Branches)
    net.model.head.weight.data[:, 40:] = 0
    net.model.head.weight.data[:, :40] *= 5
    images = torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = net.model(images)[:, :3].argmax(1)
    target = Target(Goal("macs", 0.5))
    calibration = Calibration([(images, labels)], VOID, 0, net.budget(target))
    scores = make_pruner("dmcp", {"steps": 40}).score(net.model, prunable(net.groups), calibration)
    widths = {name: score.max().item() / 2 for name, score in scores.items()}
    assert widths["used.0"] > 1.2 * widths["idle.0"]


def test_images_that_are_not_finite_are_refused(wide: Net) -> None:
    calibration = Calibration([(torch.full((2, 3, *SIZE), torch.nan), torch.zeros(2, *SIZE).long())], VOID, 0)
    with pytest.raises(BenchError, match="the loss of the width search is not finite in step 1"):
        make_pruner("dmcp").score(
            wide.model, prunable(wide.groups), replace(calibration, budget=wide.budget(Target(Goal("macs", 0.5))))
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "heavy"}, "option recipe of dmcp must be light or full, not 'heavy'"),
        ({"steps": 0}, "option steps of dmcp must be at least 1, not 0"),
        ({"sandwich_epochs": 0}, "option sandwich_epochs of dmcp must be at least 1, not 0"),
        ({"sandwich_lr": 0.0}, "option sandwich_lr of dmcp must be above 0, not 0.0"),
        ({"budget_weight": -0.1}, "option budget_weight of dmcp must be at least 0, not -0.1"),
    ],
)
def test_options_without_a_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_pruner("dmcp", settings)
    assert str(caught.value) == message


# --- the published training


@pytest.fixture
def make_bench(tiny_camvid: Path, tiny_baseline: Path, tmp_path: Path) -> Callable[..., Session]:
    def make(folder: str = "kept", **options: Any) -> Session:
        data = DataOptions(dataset="camvid", data_root=str(tiny_camvid), num_workers=0)
        reference = Baseline(tiny_baseline, data, ScoringOptions(), TimingOptions(latency=False), device=CPU)
        chosen = PruneOptions(calib_images=4, calib_batch_size=2, recalibration_images=4, evaluate=False)
        return Session(reference, replace(chosen, **options), tmp_path / folder)

    return make


FULL = {"recipe": "full", "sandwich_epochs": 2, "sandwich_batch_size": 4}


def test_the_published_recipe_end_to_end(make_bench: Callable[..., Session]) -> None:
    bench, pruner, target = make_bench(), make_pruner("dmcp", FULL), Target(Goal("macs", 0.5))
    pruned = prune_network(bench, pruner, target, seed=0)
    record = pruned.info["preparation"]
    assert (record["epochs"], record["steps"], record["images"], record["networks_a_step"]) == (2, 4, 16, 4)
    assert pruned.info["plan"]["predicted"]["macs"] == pytest.approx(
        0.5 * pruned.info["plan"]["before"]["macs"], rel=0.02
    )
    prepared = bench.network_of(pruner, 0, target)
    baseline = bench.baseline.saved.model.state_dict()
    assert not torch.equal(prepared.model.state_dict()["final_conv.weight"], baseline["final_conv.weight"])
    # The widths were learned in the second half, and the order is the baseline's.
    logits = torch.cat([values for name, values in prepared.learnt.items() if name.startswith("logits/")])
    assert (logits != 3).all()
    order = importance_order(bench.baseline.saved.model, prunable(bench.groups))
    assert all(torch.equal(prepared.learnt[f"order/{name}"], channels) for name, channels in order.items())
    for name, kept in pruned.info["plan"]["kept"].items():
        assert kept == sorted(order[name][: len(kept)].tolist())
    # A different target is a different search; the same one is not trained again.
    assert "prepare" not in prune_network(make_bench(), pruner, target, seed=0).info["seconds"]
    again = prune_network(make_bench("other"), pruner, target, seed=0)
    assert again.info["plan"] == pruned.info["plan"]
    assert bench.training_identity(pruner, 0, target) != bench.training_identity(pruner, 0, Target(Goal("macs", 0.4)))


def test_a_step_of_the_published_training(make_bench: Callable[..., Session], monkeypatch: pytest.MonkeyPatch) -> None:
    target, pruner = Target(Goal("macs", 0.5)), make_pruner("dmcp", FULL)
    bench = make_bench()
    followed, searched = [], []
    step = search.GateOptimizer.step

    def counted(optimizer: search.GateOptimizer, *arguments: Any) -> None:
        searched.append(len(followed))
        step(optimizer, *arguments)

    def following(logits: Tensor, teacher: Tensor) -> Tensor:
        followed.append((logits.detach(), teacher))
        return pixel_divergence(logits, teacher)

    monkeypatch.setattr(search.GateOptimizer, "step", counted)
    monkeypatch.setattr(sandwich, "pixel_divergence", following)
    trained = bench.network_of(pruner, 0, target).model
    # Four steps of three narrower networks each; the widths are learned in the last two, after those networks.
    assert len(followed) == 12
    assert searched == [9, 12]
    for number in range(0, 12, 3):
        narrow, teachers = zip(*followed[number : number + 3], strict=True)
        assert torch.equal(teachers[0], teachers[1]) and not teachers[0].requires_grad
        assert not any(torch.equal(logits, teachers[0]) for logits in narrow)
        assert not torch.equal(narrow[1], narrow[2])
    # Statistics of the full width, on images as they are.
    again = copy.deepcopy(trained)
    recalibrate(again, bench.baseline.data.calibration(20, 4, 0), CPU)
    assert all(torch.equal(a, b) for a, b in zip(again.buffers(), trained.buffers(), strict=True))
    # What the narrower networks say moves the weights.
    monkeypatch.setattr(sandwich, "pixel_divergence", lambda logits, teacher: 0 * logits.sum())
    deaf = make_bench("deaf").network_of(pruner, 0, target).model
    assert not torch.allclose(deaf.final_conv.weight, trained.final_conv.weight)


def test_what_the_training_learnt_decides_the_scores(wide: Net) -> None:
    target = Target(Goal("macs", 0.5))
    groups = prunable(wide.groups)
    order = {group.name: torch.arange(group.channels).flip(0) for group in groups}
    logits = {g.name: torch.full((gate_layout(g.channels).steps,), float(-n)) for n, g in enumerate(groups)}
    learnt = {f"order/{name}": channels for name, channels in order.items()}
    learnt |= {f"logits/{name}": values for name, values in logits.items()}
    calibration = Calibration([], VOID, 0, wide.budget(target), learnt)
    scores = make_pruner("dmcp", {"recipe": "full"}).score(wide.model, groups, calibration)
    widths = Widths(order, logits, wide.budget(target)).within_budget()
    assert all(torch.equal(score, scores_from_width(order[name], widths[name])) for name, score in scores.items())
    assert all((score.diff() > 0).all() for score in scores.values())


def test_fresh_weights_follow_the_seed_and_not_the_baseline(make_bench: Callable[..., Session]) -> None:
    target = Target(Goal("macs", 0.5))
    settings = {"steps": 2}
    inherited = prune_network(make_bench(recalibrate=False), make_pruner("dmcp", settings), target, seed=1)
    fresh, again, other = (
        prune_network(
            make_bench(recalibrate=False), make_pruner("dmcp", {**settings, "fresh": True}), target, seed=seed
        )
        for seed in (1, 1, 2)
    )
    assert fresh.info["plan"] == inherited.info["plan"]
    assert fresh.saved.channels == inherited.saved.channels
    states = [pruned.saved.model.state_dict() for pruned in (inherited, fresh, again)]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    assert shapes[0] == shapes[1]
    name = "downs.0.conv.0.weight"
    assert not torch.equal(states[1][name], states[0][name])
    assert all(torch.equal(tensor, states[2][key]) for key, tensor in states[1].items())
    assert not torch.equal(other.saved.model.final_conv.weight, states[1]["final_conv.weight"])
    with pytest.raises(UsageError, match="draws all weights anew after the cut; leave `repair` and `absorb_bias` out"):
        prune_network(make_bench(absorb_bias=True), make_pruner("dmcp", {**settings, "fresh": True}), target, seed=0)


def test_a_method_that_needs_a_target_says_so(make_bench: Callable[..., Session]) -> None:
    with pytest.raises(UsageError, match="dmcp learns widths for a target, and there is none here"):
        make_bench().scores(make_pruner("dmcp"), 0)


def test_kept_scores_belong_to_their_target(make_bench: Callable[..., Session]) -> None:
    bench, pruner = make_bench(), make_pruner("dmcp", {"steps": 2})
    names = [bench.scores(pruner, 0, target)[1] for target in (Target(Goal("macs", 0.5)), Target(Goal("macs", 0.4)))]
    names.append(bench.scores(pruner, 0, Target(Goal("macs", 0.5), min_keep=0.05))[1])
    assert len(set(names)) == 2
    assert names[0] == names[2]
