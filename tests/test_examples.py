"""The examples in the docstrings of what a user calls from Python."""

from __future__ import annotations

import doctest
import importlib
import sys
from pathlib import Path

import pytest
import torch
import toy_networks as toys

from bench.channels.groups import find_groups, prunable
from bench.cut.network import cut
from bench.data import DataOptions, SegmentationData
from bench.measure.cost import measure_cost
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration

PUBLIC = (
    "bench.channels.groups.find_groups",
    "bench.cut.network.cut",
    "bench.measure.cost.measure_cost",
    "bench.measure.evaluation.evaluate",
    "bench.measure.loaded.load",
    "bench.measure.loaded.predict",
    "bench.models.build_model",
    "bench.models.checkpoint.load_model",
    "bench.models.checkpoint.save_model",
    "bench.plan.cost_table.CostTable",
    "bench.plan.pruning_plan.make_plan",
    "bench.pruners.make_pruner",
    "bench.recover.bias_absorption.absorb_bias",
    "bench.recover.recalibration.recalibrate",
)
NAMES = (find_groups, prunable, cut, measure_cost, ModelSpec, build_model, SavedModel, load_model, save_model)
NAMES += (CostTable, make_plan, Goal, Target, make_pruner, Calibration)


@pytest.mark.parametrize("name", PUBLIC)
def test_an_example_is_true(
    name: str, tmp_path: Path, tiny_camvid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    module, _, function = name.rpartition(".")
    owner = getattr(importlib.import_module(module), function)
    model = toys.settled(build_model(ModelSpec("unet_small", 12)))
    scores = make_pruner("l1").score(model, prunable(find_groups(model)), Calibration([], 11, 0))
    data = SegmentationData(DataOptions(dataset="camvid", data_root=tiny_camvid, input_size=(48, 64), num_workers=0))
    about = {"torch": torch, "model": model, "scores": scores, "data": data}
    names = {one.__name__: one for one in NAMES} | about
    # Of a class the examples of its own docstring, not those of its methods.
    (example,) = doctest.DocTestFinder(recurse=False).find(
        owner, name, globs=vars(sys.modules[owner.__module__]) | names
    )
    assert example.examples
    failures = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed
    assert failures == 0, capsys.readouterr().out
