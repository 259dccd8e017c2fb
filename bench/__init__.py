"""Structured pruning of segmentation networks, benchmarked.

The public functions, for notebooks and programs of your own; each is imported when it is first asked for:

    import bench

    network = bench.load("runs/baseline/best.pt")                              # an nn.Module, dense or pruned
    bench.predict(network, "street.png")                                       # [H, W], the output of each pixel
    pruned = bench.prune(network, batches, method="taylor", target={"macs": 0.5})

or step by step:

    groups = bench.find_groups(model)                                          # what can only go together
    scores = bench.score_channels(model, groups, bench.make_pruner("l1"), bench.Calibration([], 255, seed=0))
    table = bench.CostTable(model, groups, (360, 480))                         # predicts the cost of any plan
    plan = bench.make_plan(groups, scores, table, bench.Target(bench.Goal("macs", 0.5)))
    bench.cut_channels(model, groups, plan)                                    # in place
    bench.recalibrate(model, batches, device)
    bench.measure_cost(model, (360, 480)), bench.evaluate(model, loader, classes, device=device)

`bench.cut_channels` is `bench.cut.cut`; the rooms `bench.cut`, `bench.plan`, ... are packages.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Calibration": "bench.pruners.base:Calibration",
    "CostTable": "bench.plan.cost_table:CostTable",
    "Goal": "bench.plan.target:Goal",
    "Target": "bench.plan.target:Target",
    "cut_channels": "bench.cut.network:cut",
    "evaluate": "bench.measure.evaluation:evaluate",
    "find_groups": "bench.channels.groups:find_groups",
    "load": "bench.measure.loaded:load",
    "load_model": "bench.models.checkpoint:load_model",
    "make_plan": "bench.plan.pruning_plan:make_plan",
    "make_pruner": "bench.pruners:make_pruner",
    "measure_cost": "bench.measure.cost:measure_cost",
    "predict": "bench.measure.loaded:predict",
    "prune": "bench.engine.any_network:prune",
    "recalibrate": "bench.recover.recalibration:recalibrate",
    "save_model": "bench.models.checkpoint:save_model",
    "score_channels": "bench.engine.any_network:score_channels",
    "time_networks": "bench.measure.latency:time_networks",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Imports a public function when it is first asked for: `import bench` loads no torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'bench' has no attribute '{name}'")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
