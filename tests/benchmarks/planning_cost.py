"""Seconds and memory of everything between loading a network and having it cut.

    python -m tests.benchmarks.planning_cost [--model deeplabv3_resnet50] [--input-size 360,480] [--threads 2]
        [--plans 50] [--out FILE.json]

Each stage is timed once, the first time the process does it; a cut includes the copy of the network that is cut. Then
more plans are made and cut from the same scores, for ten targets of all kinds and scopes over and over. The ten differ
in what they take, so the peak of the process's memory after one round of them is what the further rounds may raise by
at most 50 MB. At last 30,208 channels are put in order by each objective. Random weights and scores. The exit status
is 1 where a limit is not kept.
"""

from __future__ import annotations

import argparse
import copy
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench.channels.groups import find_groups, prunable
from bench.config.values import parse_size
from bench.cut.network import cut
from bench.measure.width_latencies import LayerTimes, timed_widths
from bench.models import ModelSpec, build_model
from bench.plan.cost_model import exact_cost
from bench.plan.cost_table import CostTable
from bench.plan.latency_model import LatencyCost
from bench.plan.pruning_plan import Scores, make_plan, removal_order_of
from bench.plan.target import Goal, Target
from bench.plan.weighed_order import Objective
from tests.benchmarks.limits import conclude

Result = TypeVar("Result")
OUTPUTS = 12
ROUND = 10
MOST_SECONDS, MOST_SECONDS_MORE, MOST_SECONDS_ORDER, MOST_MEGABYTES = 3.5, 0.3, 2.0, 50.0


def timed(row: dict[str, float], stage: str, work: Callable[[], Result]) -> Result:
    """Does some work and notes its seconds."""
    began = time.perf_counter()
    result = work()
    row[stage] = time.perf_counter() - began
    return result


def peak_megabytes() -> float:
    """The most memory this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def other_targets(dense_bytes: int) -> list[Target]:
    """A round of targets of all kinds and scopes."""
    targets = []
    for number in range(ROUND):
        share = 0.9 - 0.6 * number / ROUND
        kind = ("channels", "macs", "params", "size")[number % 4]
        value = {"channels": 1 - share, "size": int(share * dense_bytes)}.get(kind, share)
        targets.append(Target(Goal(kind, value), ("global", "local", "isomorphic")[number % 3]))
    return targets


def measure(model_name: str, input_size: tuple[int, int], plans: int) -> dict[str, Any]:
    """Seconds of each stage, and how some plans raise the peak of the memory."""
    torch.manual_seed(0)
    model = build_model(ModelSpec(model_name, OUTPUTS)).eval()
    seconds: dict[str, float] = {}
    groups = timed(seconds, "groups", lambda: find_groups(model))
    table = timed(seconds, "cost table", lambda: CostTable(model, groups, input_size))
    scores: Scores = {group.name: torch.rand(group.channels) for group in prunable(groups)}

    def smaller(stages: dict[str, float], target: Target) -> None:
        plan = timed(stages, "plan", lambda: make_plan(groups, scores, table, target))
        timed(stages, "cut", lambda: cut(copy.deepcopy(model), groups, plan))

    smaller(seconds, Target(Goal("macs", 0.5)))
    more: dict[str, float] = {}
    smaller(more, Target(Goal("params", 0.3)))
    targets = other_targets(table.dense().bytes)
    peaks = [peak_megabytes()]
    for number in range(plans):
        smaller({}, targets[number % ROUND])
        peaks.append(peak_megabytes())
    return {
        "model": model_name,
        "input_size": input_size,
        "threads": torch.get_num_threads(),
        "seconds": {**seconds, "all": sum(seconds.values())},
        "one_more_target": {**more, "all": sum(more.values())},
        "plans": plans,
        "peak_growth_mb": {"first round": peaks[ROUND] - peaks[0], "further rounds": peaks[-1] - peaks[ROUND]},
    }


class Trunk(nn.Module):
    """30,208 channels: a trunk of 256 that 117 branches of 256 read and add to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 256, 1), nn.Conv2d(256, OUTPUTS, 1)
        self.inner, self.outer = (nn.ModuleList(nn.Conv2d(256, 256, 1) for _ in range(117)) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        trunk = self.stem(images)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            trunk = trunk + outer(inner(trunk).relu())
        return self.head(trunk)


def order_seconds() -> dict[str, float]:
    """Seconds that each objective takes to put the channels of a large network in order."""
    torch.manual_seed(0)
    model = Trunk().eval()
    groups = find_groups(model)
    table = CostTable(model, groups, (32, 32))
    scores: Scores = {group.name: torch.rand(group.channels) for group in prunable(groups)}
    times = {}
    for name, sides in table.layers.items():
        read, made = (timed_widths(sides[side].dense) for side in ("in", "out"))
        times[name] = LayerTimes(read, made, [[0.1 + i * o / 1e5 for o in made] for i in read])
    objectives = {
        "channels": None,
        **{name: Objective(exact_cost(table, name)) for name in ("macs", "params")},
        "latency": Objective(LatencyCost(table, times)),
    }
    seconds: dict[str, float] = {}
    for name, objective in objectives.items():
        target = Target(Goal("macs", 0.5))
        timed(seconds, name, lambda: removal_order_of(groups, scores, table, target, objective=objective))  # noqa: B023
    return seconds


def main() -> None:
    """Measures, prints a table and says which limits are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deeplabv3_resnet50")
    parser.add_argument("--input-size", type=parse_size, default=(360, 480))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plans", type=int, default=50, help=f"at least {ROUND}")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.plans < ROUND:
        parser.error(f"--plans {arguments.plans} is less than a round of {ROUND}")
    torch.set_num_threads(arguments.threads)
    result = measure(arguments.model, arguments.input_size, arguments.plans)
    print(f"{arguments.model} at {arguments.input_size}, {arguments.threads} threads")
    for title, stages in (("first target", "seconds"), ("one more target", "one_more_target")):
        print(f"  {title:16}" + ", ".join(f"{stage} {spent:.3f} s" for stage, spent in result[stages].items()))
    growth = result["peak_growth_mb"]
    print(f"  {arguments.plans} more plans and cuts raise the peak of the memory by {growth['first round']:.1f} MB "
          f"in the first {ROUND}, by {growth['further rounds']:.1f} MB after that")  # fmt: skip
    result["order_seconds"] = order_seconds()
    print("  30,208 channels in order by " + ", ".join(f"{n} {s:.3f} s" for n, s in result["order_seconds"].items()))
    limits = {
        f"30,208 channels in {MOST_SECONDS_ORDER:g} s": max(result["order_seconds"].values()) <= MOST_SECONDS_ORDER,
        f"groups, cost table, plan and cut in {MOST_SECONDS:g} s": result["seconds"]["all"] <= MOST_SECONDS,
        f"one more target in {MOST_SECONDS_MORE:g} s": result["one_more_target"]["all"] <= MOST_SECONDS_MORE,
        f"memory flat within {MOST_MEGABYTES:g} MB": growth["further rounds"] <= MOST_MEGABYTES,
    }
    conclude(result, limits, arguments.out)


if __name__ == "__main__":
    main()
