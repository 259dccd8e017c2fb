"""The door for Python users: any network is pruned in one call, or step by step through the public names."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bench
from bench.cut import cut
from bench.engine.weighing.refining import mean_loss
from bench.errors import BenchError, UsageError
from bench.plan.target import Goal, Target
from bench.pruners import methods

SIZE = (24, 32)


class Named(nn.Module):
    """Gives a mapping, as torchvision's segmentation networks do, with an auxiliary head in training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.head, self.aux = nn.Conv2d(16, 4, 1), nn.Conv2d(12, 4, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        early = self.stem(images)
        found = {"out": self.head(self.body(early))}
        return {**found, "aux": self.aux(early)} if self.training else found


@pytest.fixture
def network() -> Named:
    return Named().eval()


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, *SIZE, generator=generator)
    labels = torch.randint(4, (4, *SIZE), generator=generator)
    return list(zip(images.split(2), labels.split(2), strict=True))


def option_of(method: str) -> dict[str, object]:
    return {"slimming": {"sparse_epochs": 0}}.get(method, {})


@pytest.mark.parametrize("method", sorted(methods()))
def test_every_method_prunes_a_network_of_no_registry(network, batches, method):
    before = copy.deepcopy(network.state_dict())
    target = {"channels": 0.4}
    pruned = bench.prune(network, batches, method=method, target=target, options=option_of(method))
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())
    assert not network._forward_hooks and not pruned.model._forward_hooks
    assert pruned.model(batches[0][0])["out"].shape == (2, 4, *SIZE)
    assert set(pruned.model.train()(batches[0][0])) == {"out", "aux"}
    if method == "magnitude":
        assert pruned.plan is None and pruned.after.parameters == pruned.before.parameters
        assert pruned.after.nonzero_parameters < pruned.before.nonzero_parameters
        return
    assert pruned.plan.predicted.parameters == pruned.after.parameters < pruned.before.parameters
    assert pruned.plan.predicted.macs == pruned.after.macs
    assert f"{pruned.plan.channel_ratio:.1%} of the prunable channels gone" in str(pruned)


def test_one_call_is_its_steps(network, batches):
    pruned = bench.prune(network, batches, method="taylor", target=Goal("macs", 0.5), min_keep=0.1)
    model = copy.deepcopy(network)
    groups = bench.find_groups(model)
    scores = bench.score_channels(model, groups, bench.make_pruner("taylor"), bench.Calibration(batches, 255, seed=0))
    table = bench.CostTable(model, groups, SIZE)
    plan = bench.make_plan(groups, scores, table, Target(Goal("macs", 0.5), min_keep=0.1))
    bench.cut_channels(model, groups, plan)
    bench.recalibrate(model, batches, torch.device("cpu"))
    assert plan.kept == pruned.plan.kept
    assert all(torch.equal(pruned.model.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert bench.measure_cost(model, SIZE) == pruned.after


def test_only_so_many_images_are_looked_at(network, batches):
    few = bench.prune(network, batches[:1], method="taylor", target={"macs": 0.5})
    same = bench.prune(network, batches, method="taylor", target={"macs": 0.5}, calib_images=2)
    # Of the second batch the first image alone.
    three = [batches[0], tuple(part[:1] for part in batches[1])]
    exact = [
        bench.prune(network, data, method="taylor", target={"macs": 0.5}, calib_images=3) for data in (three, batches)
    ]
    assert all(torch.equal(exact[0].scores[name], score) for name, score in exact[1].scores.items())
    all_of_them = bench.prune(network, batches, method="taylor", target={"macs": 0.5})
    assert all(torch.equal(few.scores[name], score) for name, score in same.scores.items())
    assert not all(torch.equal(few.scores[name], score) for name, score in all_of_them.scores.items())


def test_a_data_set_of_the_project_gives_images_and_the_label_that_does_not_count(tiny_camvid):
    from bench.data import SegmentationData
    from bench.datasets.options import DataOptions
    from bench.models import ModelSpec, build_model

    data = SegmentationData(DataOptions("camvid", str(tiny_camvid), (48, 64), num_workers=0))
    model = build_model(ModelSpec("unet_small", 12)).eval()
    pruned = bench.prune(
        model, data, method="taylor", target={"params": 0.5}, calib_images=4, ratio_of={"downs.0*": 0.25}
    )
    assert pruned.after.input_size == (48, 64)
    assert pruned.after.parameters / pruned.before.parameters == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"target": {"mac": 0.5}}, "unknown target 'mac'; did you mean macs"),
        ({"target": {"macs": 0.5, "params": 0.5}}, "a target is one of its kinds with a value"),
        ({"target": {"macs": 5}}, r"a target of 5 in macs cannot be; it is a share to keep, in \(0, 1\]"),
        ({"target": {"channels": 1.0}}, r"a target of 1 in channels cannot be; it is a share to remove, in \[0, 1\)"),
        ({"target": {"size": float("nan")}}, "a target of nan in size cannot be; it is above 0"),
        ({"target": {"macs": 0.5}, "method": "tailor"}, "unknown method 'tailor'; did you mean taylor"),
        ({"target": {"latency": 0.5}}, "a latency is measured, not predicted"),
        ({"target": {"macs": 0.5}, "method": "slimming"}, "slimming trains with the options it has"),
        ({"target": {"macs": 0.5}, "method": "magnitude"}, "magnitude zeroes single weights"),
    ],
)
def test_what_cannot_be_is_said_at_once(network, batches, wanted, says):
    with pytest.raises(UsageError, match=says):
        bench.prune(network, batches, **wanted)


@pytest.mark.parametrize("objective", ["macs", "params", "latency"])
def test_an_objective_in_python(network, batches, objective):
    plain = bench.prune(network, batches, method="taylor", target={"macs": 0.5})
    pruned = bench.prune(network, batches, method="taylor", target={"macs": 0.5}, objective=objective)
    assert pruned.after.macs / pruned.before.macs == pytest.approx(0.5, abs=0.08)
    assert pruned.plan.predicted.macs == pruned.after.macs
    assert plain.plan.threshold is not None and pruned.plan.threshold is None


def test_refining_in_python_takes_the_plan_of_least_loss(network, batches):
    # What the whole network says is right, so that each channel is worth something.
    with torch.no_grad():
        batches = [(images, network(images)["out"].argmax(1)) for images, _ in batches]

    def loss(pruned: bench.PrunedNetwork) -> float:
        return mean_loss(pruned.model, batches, 255, torch.device("cpu"))

    settings = {"method": "taylor", "target": {"params": 0.3}, "objective": "params"}
    losses = [loss(bench.prune(network, batches, **settings, refine=trials)) for trials in (0, 4, 12)]
    assert losses[0] >= losses[1] >= losses[2] and losses[0] > losses[2]


def test_curves_of_a_file_in_python(network, batches, tmp_path):
    names = [group.name for group in bench.find_groups(network) if group.protected is None]
    rows = [
        {"group": name, "channels": width, "channels_kept": width // 2, "miou_drop_points": drop}
        for name, width, drop in zip(names, (12, 16), (50.0, 0.1), strict=True)
    ]
    path = tmp_path / "sensitivity.json"
    path.write_text(json.dumps({"format": "sensitivity/1", "method": "l1", "baseline": {}, "rows": rows}))
    settings = {"method": "l1", "target": {"macs": 0.6}, "objective": "macs"}
    pruned = bench.prune(network, batches, **settings, sensitivity_curves=path)
    assert [len(kept) for kept in pruned.plan.kept.values()] == [12, 8]
    with pytest.raises(UsageError, match="scores of l1 only rank the channels of a layer"):
        bench.prune(network, batches, **settings)
    with pytest.raises(UsageError, match=r"`sensitivity_curves=measure` is what prune\.py does"):
        bench.prune(network, batches, **settings, sensitivity_curves="measure")


def test_without_data(network):
    target = {"macs": 0.5}
    with pytest.raises(UsageError, match="input_size"):
        bench.prune(network, target=target)
    with pytest.raises(UsageError, match="taylor looks at images"):
        bench.prune(network, target=target, method="taylor", input_size=SIZE)
    with pytest.raises(UsageError, match="statistics are re-estimated on images"):
        bench.prune(network, target=target, input_size=SIZE)
    pruned = bench.prune(network, target=target, input_size=SIZE, recalibrate=False)
    assert pruned.after.macs / pruned.before.macs == pytest.approx(0.5, abs=0.05)
    with pytest.raises(UsageError, match="holds no batch"):
        bench.prune(network, [], target=target)
    with pytest.raises(BenchError, match="no channel of the network may be removed"):
        bench.prune(network, target=target, input_size=SIZE, recalibrate=False, ignore=["*"])


def test_public_names_are_there_and_load_nothing_early(project_root):
    for name in bench.__all__:
        assert callable(getattr(bench, name)), name
        assert name in dir(bench)
    assert bench.cut_channels is cut
    with pytest.raises(AttributeError, match="no attribute 'prone'"):
        bench.prone  # noqa: B018
    code = "import sys, bench; assert 'torch' not in sys.modules; print(sorted(bench.__all__)[0])"
    done = subprocess.run([sys.executable, "-c", code], cwd=project_root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Calibration"


def test_names_the_readme_has_shown_go_on_working():
    for path in ("bench.cut:cut", "bench.layers:out_filters", "bench.pruners.base:Pruner"):
        module, _, name = path.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_the_example_prunes_from_a_folder_outside_the_project(project_root, tmp_path: Path):
    """As after `pip install -e .`, which puts the project's folder on the path."""
    example = project_root / "examples" / "prune_in_python.py"
    done = subprocess.run(
        [sys.executable, example], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(project_root)}
    )
    assert done.returncode == 0, done.stderr
    assert "MACs -50.0 %" in done.stdout
    assert "logits (2, 5, 64, 96)" in done.stdout
    assert (tmp_path / "smaller.pt").is_file()


@pytest.mark.parametrize("name", ["body.0.weight", "stem.1.running_mean"])
@pytest.mark.parametrize("method", ["l1", "random", "magnitude"])
def test_a_network_that_is_no_numbers_is_refused_by_name(network, batches, name, method):
    network.state_dict()[name].view(-1)[0] = float("nan")
    with pytest.raises(BenchError, match=f"{name} is not finite"):
        bench.prune(network, batches, method=method, target={"channels": 0.4})


class OfOneSize(nn.Module):
    """Takes images of one size alone, for the sake of a scale a pixel; and one width is written in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.places = nn.Parameter(torch.ones(1, 1, *SIZE))

    def forward(self, images: Tensor) -> Tensor:
        features = self.second((self.first(images) * self.places).relu()).relu()
        return self.head(features.view(len(features), 8, *SIZE))


def test_a_network_that_takes_one_size_alone_is_traced_at_the_size_of_its_images(batches):
    pruned = bench.prune(OfOneSize(), batches, target={"channels": 0.5})
    assert [group.protected is None for group in pruned.groups] == [True, False, False]
    assert pruned.model(batches[0][0]).shape == (2, 4, *SIZE)
    with pytest.raises(BenchError, match="cannot trace OfOneSize at 32x48"):
        bench.prune(OfOneSize(), batches, target={"channels": 0.5}, trace_size=(32, 48))


def test_groups_may_be_left_untried(batches):
    with pytest.raises(BenchError, match="every group is protected"):
        bench.prune(OfOneSize(), batches, target={"channels": 0.5}, ignore=["first"])
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        bench.prune(OfOneSize(), batches, target={"channels": 0.5}, ignore=["first"], check=False)
