"""The oracle on a trained toy network: loss changes, and a method that knows them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import toy_networks as toys
from torch import nn
from toy_training import CLASSES, ToyData

from bench.channels.groups import find_groups, prunable
from bench.oracle.ablation import Ablation
from bench.oracle.agreement import agreement, bottom, spearman
from bench.oracle.loss_changes import Oracle
from bench.pruners import make_pruner
from bench.pruners.base import Calibration
from bench.training.losses import segmentation_loss


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Oracle, list]:
    """A toy network that was trained, its oracle over all channels, and the images it was measured on."""
    torch.manual_seed(0)
    model = nn.Sequential(toys.conv(3, 24), nn.ReLU(), nn.Conv2d(24, 4, 1))
    images, labels = ToyData(24).train
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        segmentation_loss(model(images), labels, CLASSES.ignore_index).backward()
        optimizer.step()
    model.eval()
    batches = list(zip(images.split(4), labels.split(4), strict=True))
    return model, measured(model, batches, tmp_path_factory.mktemp("trained") / "losses.json"), batches


def measured(model: nn.Module, batches: list, path: Path, most: int = 100) -> Oracle:
    losses = Ablation(
        model, batches, ignore_index=CLASSES.ignore_index, device=torch.device("cpu"), path=path, identity=None
    )
    return Oracle(prunable(find_groups(model)), losses, most, seed=0)


def test_a_change_is_the_loss_without_minus_the_loss_with(trained: tuple) -> None:
    model, oracle, batches = trained
    groups = find_groups(model)
    images, labels = (torch.cat(side) for side in zip(*batches, strict=True))
    few = torch.tensor([3, 7])
    for group in prunable(groups):
        assert oracle.sampled[next(known for known in oracle.sampled if known.name == group.name)] == list(
            range(group.channels)
        )
        for channel in (0, 5):
            kept = [other for other in range(group.channels) if other != channel]
            cut = toys.cut_copy(model, groups, toys.plan_keeping(groups, {group.name: kept}))
            for chosen, changes in ((slice(None), oracle.changes()), (few, oracle.changes(few))):
                with torch.inference_mode():
                    without, whole = (
                        float(segmentation_loss(net(images[chosen]), labels[chosen], CLASSES.ignore_index))
                        for net in (cut, model)
                    )
                assert float(changes[group.name][channel]) == pytest.approx(without - whole, abs=1e-5)
    magnitudes = oracle.magnitudes()
    assert all(torch.equal(magnitudes[name], change.abs()) for name, change in oracle.changes().items())
    resampled = oracle.changes(torch.stack([few, few.flip(0)]))
    assert all(torch.allclose(found[0], oracle.changes(few)[name]) for name, found in resampled.items())


def test_taylor_tells_the_oracle_of_a_trained_network_and_random_does_not(trained: tuple) -> None:
    model, oracle, batches = trained
    truth = oracle.magnitudes()
    calibration = Calibration(batches, CLASSES.ignore_index, seed=0)
    taylor = make_pruner("taylor").score(model, list(oracle.sampled), calibration)
    found = {name: spearman(score, truth[name]) for name, score in taylor.items()}
    assert min(found.values()) > 0.8, found
    assert agreement(taylor, truth, [0.5])["overlap"][0.5]["above_chance"] > 0.5
    random = [make_pruner("random").score(model, list(oracle.sampled), Calibration([], 3, seed)) for seed in range(20)]
    mean = sum(agreement(scores, truth, [0.5])["spearman"] for scores in random) / 20
    assert abs(mean) < 0.2


def test_a_dead_channel_is_the_least_important(trained: tuple, tmp_path: Path) -> None:
    model, _, batches = trained
    group = prunable(find_groups(model))[0]
    before = [tensor.clone() for tensor in (model[0][1].weight.data, model[0][1].bias.data)]
    with torch.no_grad():
        model[0][1].weight[2] = model[0][1].bias[2] = 0
    found = measured(model, batches[:2], tmp_path / "losses.json").magnitudes()[group.name]
    for tensor, values in zip((model[0][1].weight.data, model[0][1].bias.data), before, strict=True):
        tensor.copy_(values)
    assert float(found[2]) < 1e-7
    assert bottom(found, 1, seed=0).nonzero().tolist() == [[2]]
