"""How far a pruned network's output is from the baseline's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import toy_networks as toys
from scripts import Outcome
from torch import nn
from torch.nn.functional import kl_div, mse_loss

from bench.channels.groups import find_groups
from bench.datasets.options import DataOptions
from bench.engine.options import PruneOptions
from bench.engine.output_error import OutputError, squared_error
from bench.engine.pruning import prune_network
from bench.engine.session import RECONSTRUCTION_SEED, Session
from bench.errors import UsageError
from bench.jobs.finished_cells import measured_in
from bench.measure.baseline import Baseline
from bench.measure.options import ScoringOptions, TimingOptions
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.system.files import read_json

CPU = torch.device("cpu")
IMAGES = torch.randn(3, 3, 16, 24, generator=torch.Generator().manual_seed(8))
BATCHES = [(IMAGES[:2], torch.zeros(2, 16, 24)), (IMAGES[2:], torch.zeros(1, 16, 24))]


def test_squared_error_by_hand() -> None:
    assert squared_error(torch.tensor([1.0, 4.0]), torch.tensor([3.0, 4.0])) == (4, 25)


def test_a_cut_network_beside_its_baseline() -> None:
    model = toys.settled(toys.Residual())
    groups = find_groups(model)
    plan = toys.random_plan(groups)
    network = toys.cut_copy(model, groups, plan).train()
    found = OutputError(model, groups, BATCHES, CPU, ["stem*", "side*"]).error(network, plan)
    assert network.training
    with torch.inference_mode():
        before, after = model(IMAGES), network.eval()(IMAGES)
        stem = model.stem(IMAGES)[:, plan.kept["stem.0"]], network.stem(IMAGES)
    assert found["mse"] == pytest.approx(float(mse_loss(after, before)), rel=1e-5)
    assert found["relative"] == pytest.approx(float(mse_loss(after, before) / before.square().mean()), rel=1e-5)
    wanted = kl_div(after.log_softmax(1), before.log_softmax(1), log_target=True, reduction="sum") / (3 * 16 * 24)
    assert found["kl"] == pytest.approx(float(wanted), rel=1e-4)
    assert set(found["features"]) == {"stem.0", "side.0"}
    # What feeds the stem is whole, and its kept channels are the baseline's.
    assert torch.allclose(*stem)
    assert found["features"]["stem.0"]["mse"] == pytest.approx(0, abs=1e-9)
    assert found["features"]["side.0"]["mse"] > 1e-3


def test_a_network_trained_in_another_format_is_compared_in_the_baselines() -> None:
    model = toys.settled(toys.Residual())
    groups = find_groups(model)
    network = toys.cut_copy(model, groups, toys.random_plan(groups)).to(memory_format=torch.channels_last)
    seen = set()
    for compared in (model, network):
        compared.register_forward_pre_hook(lambda module, inputs: seen.add(module.stem[0].weight.is_contiguous()))
    OutputError(model, groups, BATCHES, CPU).error(network, toys.random_plan(groups))
    assert seen == {True}
    # Not moved in inference mode, in which it could not be trained any more.
    assert not any(parameter.is_inference() for parameter in network.parameters())


def test_features_are_those_of_the_channels_that_stay() -> None:
    """Before the activation, even where that works in place."""
    layers = (toys.conv(3, 8), nn.ReLU(inplace=True), toys.conv(8, 6), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 1))
    model = toys.settled(nn.Sequential(*layers))
    groups = find_groups(model)
    plan = toys.plan_keeping(groups, {"0.0": [1, 2, 6], "2.0": [0, 5]})
    network = toys.cut_copy(model, groups, plan)
    found = OutputError(model, groups, BATCHES, CPU, ["2*"]).error(network, plan)["features"]["2.0"]
    with torch.inference_mode():
        before, after = model[:3](IMAGES)[:, [0, 5]], network[:3](IMAGES)
    assert found["mse"] == pytest.approx(float(mse_loss(after, before)), rel=1e-5)
    assert found["relative"] == pytest.approx(float(mse_loss(after, before) / before.square().mean()), rel=1e-5)


def test_nothing_removed_is_nothing_lost() -> None:
    model = toys.settled(toys.Chain())
    groups = find_groups(model)
    found = OutputError(model, groups, BATCHES, CPU).error(model, toys.plan_keeping(groups, {}))
    assert (found["mse"], found["relative"], found["kl"], found["features"]) == (0, 0, 0, {})


def test_a_pattern_that_fits_nothing_is_an_error() -> None:
    model = toys.settled(toys.Chain())
    with pytest.raises(UsageError, match="'head\\*' fits no group"):
        OutputError(model, find_groups(model), BATCHES, CPU, ["head*"])


@pytest.mark.parametrize("recalibrate", [True, False])
def test_a_pruning_records_it(tiny_camvid: Path, tiny_baseline: Path, tmp_path: Path, recalibrate: bool) -> None:
    data = DataOptions(dataset="camvid", data_root=str(tiny_camvid), num_workers=0)
    reference = Baseline(tiny_baseline, data, ScoringOptions(), TimingOptions(latency=False), device=CPU)
    options = PruneOptions(
        evaluate=False,
        recalibrate=recalibrate,
        recalibration_images=4,
        reconstruction_images=3,
        reconstruction_layers=["bottleneck*"],
    )
    bench = Session(reference, options, tmp_path)
    pruned = prune_network(bench, make_pruner("l1"), Target(Goal("channels", 0.3), "local"), seed=5)
    found = pruned.info["reconstruction"]
    assert list(found) == (["cut", "recalibrated"] if recalibrate else ["cut"])
    images = torch.cat([images for images, _ in bench.batches(3, RECONSTRUCTION_SEED)])
    with torch.inference_mode():
        before, after = (net.eval()(images) for net in (reference.saved.model, pruned.saved.model))
    last = found["recalibrated" if recalibrate else "cut"]
    assert last["mse"] == pytest.approx(float(mse_loss(after, before)), rel=1e-4)
    assert set(last["features"]) == {"bottleneck.conv.0", "bottleneck.conv.3"}
    if recalibrate:
        assert found["cut"]["mse"] != last["mse"]


def test_the_option_of_the_command_and_the_summarys_columns(
    call: Callable[..., Outcome], tiny_camvid: Path, tiny_baseline: Path, tmp_path: Path
) -> None:
    flags = ["--dataset", "camvid", "--data-root", tiny_camvid, "--ckpt", tiny_baseline, "--num-workers", "0"]
    flags += ["--method", "l1", "--global-ratio", "0.3", "--no-evaluate", "--no-recalibrate", "--no-latency"]
    assert call("prune.py", *flags, "--save", tmp_path / "on", "--reconstruction-images", "2").code == 0
    found = read_json(tmp_path / "on" / "pruning_info.json")["reconstruction"]["cut"]
    row = measured_in(tmp_path / "on")
    assert {key: row[f"logits_{key}_cut"] for key in ("mse", "relative", "kl")} == {
        key: found[key] for key in ("mse", "relative", "kl")
    }
    assert call("prune.py", *flags, "--save", tmp_path / "off", "--reconstruction-images", "0").code == 0
    assert read_json(tmp_path / "off" / "pruning_info.json")["reconstruction"] == {}
    assert not [key for key in measured_in(tmp_path / "off") if key.startswith("logits")]
