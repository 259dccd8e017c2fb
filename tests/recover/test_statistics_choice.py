"""Which BatchNorm statistics are re-estimated after a repair."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import toy_networks as toys
from torch import nn

from bench.recover.layer_repair import LayerRepair
from bench.recover.recalibration import recalibrate
from bench.recover.repair import Repair
from bench.recover.statistics_choice import settle_statistics
from bench.torch_utils.batches import Batch

VOID = 9
DONE = Repair(
    4,
    1.0,
    {
        "first.0": LayerRepair("unchanged", "full", 9, 9),
        "second.0": LayerRepair("sliced", "full", 9, 9),
        "head": LayerRepair("repaired", "full", 9, 9),
    },
    {},
    {"first.0": "first.1", "second.0": "second.1"},
)


def batches(seed: int, count: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(2, 3, 16, 24, generator=generator), torch.randint(0, 4, (2, 16, 24), generator=generator))
        for _ in range(count)
    ]


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.named_buffers() if "running" in name}


@pytest.mark.parametrize(
    ("rule", "changed"), [("none", set()), ("unrepaired", {"second.1"}), ("all", {"first.1", "second.1"})]
)
def test_a_rule_names_the_norms(rule: str, changed: set[str]) -> None:
    model = toys.settled(toys.Chain())
    wanted, before = copy.deepcopy(model), statistics(model)
    record = settle_statistics(model, DONE, rule, batches(0), [], VOID)
    assert record == {"rule": rule, "chosen": rule, "losses": {}}
    now = statistics(model)
    assert {name.rpartition(".")[0] for name in now if not torch.equal(now[name], before[name])} == changed
    if rule == "all":
        recalibrate(wanted, batches(0), torch.device("cpu"))
        assert all(torch.equal(tensor, now[name]) for name, tensor in statistics(wanted).items())


@pytest.mark.parametrize("spoilt", [None, "second", "both"])
def test_the_loss_on_held_out_images_decides(spoilt: str | None) -> None:
    """Labels are what the network says with its true statistics; wrong ones then lose most."""
    model = toys.settled(toys.Chain())
    seen, (held, *_) = batches(0, 8), batches(1)
    recalibrate(model, seen, torch.device("cpu"))
    model.head.weight.data *= 20
    with torch.no_grad():
        held = [(held[0], model(held[0]).argmax(1))]
    if spoilt:
        model.second[1].running_mean += 2
        model.second[1].running_var *= 30
    if spoilt == "both":
        model.first[1].running_mean += 1
        model.first[1].running_var *= 30
    # The norm of the first layer is spoilt behind the repair's back: only `all` mends it.
    before = statistics(model)
    record = settle_statistics(model, DONE, "auto", seen, held, VOID)
    assert record["rule"] == "auto" and record["losses"].keys() == {"none", "unrepaired", "all"}
    assert record["chosen"] == {None: "none", "second": "unrepaired", "both": "all"}[spoilt]
    now = statistics(model)
    changed = {name.rpartition(".")[0] for name in now if not torch.equal(now[name], before[name])}
    assert changed == {None: set(), "second": {"second.1"}, "both": {"first.1", "second.1"}}[spoilt]


def test_rules_that_come_to_the_same_are_measured_once() -> None:
    model = toys.settled(toys.Chain())
    layers = {name: dataclasses.replace(one, outcome="repaired") for name, one in DONE.layers.items()}
    record = settle_statistics(model, dataclasses.replace(DONE, layers=layers), "auto", batches(0), batches(1), VOID)
    assert record["losses"].keys() == {"none", "all"}
    record = settle_statistics(toys.settled(toys.Chain(norm=False)), DONE, "auto", batches(0), batches(1), VOID)
    assert (record["chosen"], list(record["losses"])) == ("none", ["none"])
