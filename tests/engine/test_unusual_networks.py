"""Networks without BatchNorm, without norms or biases, with a strip of one dimension, and outputs of many kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bench
from bench.channels.groups import ChannelGroup, find_groups, prunable
from bench.engine.any_network import score_channels
from bench.errors import BenchError
from bench.plan.cost_table import CostTable
from bench.plan.macs_budget import Budget
from bench.pruners import make_pruner
from bench.pruners.base import Calibration, Pruner

LABELS = 4
BATCHES = [
    (
        torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(n)),
        torch.randint(0, LABELS, (2, 16, 24), generator=torch.Generator().manual_seed(n)),
    )
    for n in range(2)
]
OPTIONS = {"slimming": {"sparse_epochs": 0}, "dmcp": {"recipe": "light", "steps": 2}}
METHODS = [name for name in bench.pruners.methods() if name != "magnitude"]


class ChannelNorm(nn.LayerNorm):
    """A norm over channels that takes and gives [N, C, H, W]."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Strip(nn.Module):
    """A gate from the mean of each row, by a convolution of one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features * self.rows(features.mean(3)).sigmoid()[..., None]


class Net(nn.Module):
    """Two layers and a head."""

    def __init__(
        self,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        *,
        bias: bool = True,
        middle: type[nn.Module] = nn.Identity,
        given: Callable[[Tensor], Any] = lambda logits: logits,
    ):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=bias), norm(8)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=bias), norm(8)
        self.middle, self.head, self.given = middle(), nn.Conv2d(8, LABELS, 1), given

    def forward(self, images: Tensor) -> Any:
        features = self.norm2(self.second(self.norm1(self.first(images)).relu())).relu()
        return self.given(self.head(self.middle(features)))


@dataclass
class Found:
    """As transformers' outputs are."""

    logits: Tensor
    hidden: Tensor | None = None


def scores_of(model: nn.Module, method: str, groups: list[ChannelGroup]) -> dict[str, Tensor]:
    pruner = make_pruner(method, OPTIONS.get(method, {}))
    assert isinstance(pruner, Pruner)
    budget = Budget(groups, CostTable(model, groups, (16, 24)), 2e5, {}) if pruner.needs_target else None
    return score_channels(model.eval(), groups, pruner, Calibration(BATCHES, 255, 0, budget))


NETWORKS = {
    "a norm over channels": lambda: Net(ChannelNorm),
    "the same without scales": lambda: Net(lambda channels: ChannelNorm(channels, elementwise_affine=False)),
    "a norm over groups": lambda: Net(lambda channels: nn.GroupNorm(2, channels)),
    "statistics of an image": lambda: Net(lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True)),
    "BatchNorm without scales": lambda: Net(lambda channels: nn.BatchNorm2d(channels, affine=False)),
    "BatchNorm without statistics": lambda: Net(lambda c: nn.BatchNorm2d(c, track_running_stats=False)),
    "no norm": lambda: Net(lambda _: nn.Identity()),
    "no norm and no bias": lambda: Net(lambda _: nn.Identity(), bias=False),
    "one dimension": lambda: Net(middle=Strip),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_method_scores_a_network_or_says_what_it_needs(name: str) -> None:
    model = NETWORKS[name]().eval()
    groups = find_groups(model)
    names = {group.name for group in prunable(groups)}
    assert "first" in names
    for method in METHODS:
        needs_scales = method == "slimming" and name in (
            *("BatchNorm without scales", "no norm", "no norm and no bias"),
        )
        if needs_scales:
            with pytest.raises(BenchError, match="slimming can score no channel of the network"):
                scores_of(model, method, groups)
            continue
        scores = scores_of(model, method, groups)
        assert scores and scores.keys() <= names, method
        assert all(score.isfinite().all() for score in scores.values()), method


@pytest.mark.parametrize("repair", ["none", "bias", "least-squares"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_cut_repaired_and_recalibrated(name: str, repair: str) -> None:
    model = NETWORKS[name]().eval()
    pruned = bench.prune(model, BATCHES, target={"channels": 0.3}, method="l1", repair=repair)
    assert pruned.after.macs == pruned.plan.predicted.macs < pruned.before.macs
    assert type(pruned.model) is Net
    assert pruned.model(BATCHES[0][0]).isfinite().all()


GIVEN = {
    "a mapping": lambda logits: {"logits": logits, "hidden": logits.mean()},
    "a tuple": lambda logits: (logits, logits.argmax(1)),
    "a list": lambda logits: [logits, None],
    "a dataclass": Found,
    "a quarter": lambda logits: F.avg_pool2d(logits, 4),
}


@pytest.mark.parametrize("given", GIVEN)
def test_what_holds_the_logits_does_not_change_the_scores(given: str) -> None:
    def plain(logits: Tensor) -> Tensor:
        size = logits.shape[-2:]
        return F.interpolate(F.avg_pool2d(logits, 4), size, mode="bilinear") if given == "a quarter" else logits

    models = [Net(given=how).eval() for how in (plain, GIVEN[given])]
    groups = find_groups(models[0])
    for method in ("taylor", "fgp", "apoz", "papm", "dmcp"):
        wanted, found = (scores_of(model, method, groups) for model in models)
        assert wanted.keys() == found.keys() and wanted
        assert all(torch.allclose(wanted[name], found[name]) for name in wanted), method


@pytest.mark.parametrize("given", GIVEN)
def test_a_network_goes_on_to_give_what_it_gave(given: str) -> None:
    model = Net(given=GIVEN[given]).eval()
    settings = {"repair": "least-squares", "objective": "macs", "refine": 1}
    pruned = bench.prune(model, BATCHES, target={"macs": 0.6}, method="taylor", **settings)
    assert type(pruned.model) is Net
    assert type(pruned.model(BATCHES[0][0])) is type(model(BATCHES[0][0]))


def test_logits_that_are_not_clear_are_named_by_the_caller() -> None:
    def two(logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits.detach() * 0, logits

    with pytest.raises(BenchError, match=r"output has several maps: 0 \[2, 4, 16, 24\], 1 .*`output_key`"):
        bench.prune(Net(given=two).eval(), BATCHES, target={"channels": 0.3}, method="taylor")
    named, plain = (
        bench.prune(Net(given=given).eval(), BATCHES, target={"channels": 0.3}, method="taylor", output_key=key)
        for given, key in ((two, 1), (lambda logits: logits, None))
    )
    assert named.plan.kept == plain.plan.kept
