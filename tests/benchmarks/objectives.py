"""What is kept at the same latency when importance is weighed against nothing, against MACs, and against the clock.

    python -m tests.benchmarks.objectives --ckpt FILE[,FILE...] [--dataset camvid] [--data-root DIR]
        [--targets 0.75,0.5] [--method taylor] [--round-to 8] [--threads 1] [--out FILE.json]

For each share of the MACs the plan by MACs is made. Then the orders by importance alone and by latency are followed
until the layer times measured on this device say that their networks are as fast as that one. What each keeps is the
sum of the scores of its channels, as a share of all. All networks and the dense one are then timed interleaved: where
the intervals overlap, the table was right that they are equally fast. To be run on a machine that does nothing else.
A step of eight channels can be worth several percent of the time, so that the importance kept at that very latency is
interpolated between the network and the one before it in the order. The exit status is 1 where the plan by latency
keeps less there than the plan by MACs.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.channels.groups import prunable
from bench.datasets.options import DataOptions
from bench.engine.one_cut import smaller
from bench.engine.options import PruneOptions
from bench.engine.session import Session
from bench.engine.weighing.latency_table import latency_cost
from bench.measure.baseline import open_baseline
from bench.measure.options import ScoringOptions, TimingOptions
from bench.plan.cost_model import exact_cost
from bench.plan.latency_model import LatencyCost
from bench.plan.pruning_plan import PruningPlan, Scores, plan_of, removal_order_of
from bench.plan.target import Goal
from bench.plan.weighed_order import Objective
from bench.pruners import make_pruner
from bench.system.options import RunOptions

OBJECTIVES = ("channels", "macs", "latency")


def kept_importance(plan: PruningPlan, scores: Scores) -> float:
    """Share of the sum of all scores that the channels have that stay."""
    kept = sum(float(scores[name].double()[channels].sum()) for name, channels in plan.kept.items() if name in scores)
    return kept / sum(float(score.double().sum()) for score in scores.values())


def plans_for(
    session: Session, scores: Scores, clock: LatencyCost, method: str, share: float
) -> dict[str, tuple[PruningPlan, float]]:
    """The plan of each objective, as fast by the table as that by MACs with a share of these, and what is kept then."""
    groups, table = session.groups, session.cost_table
    target = replace(session.target(make_pruner(method), Goal("macs", share)), scope="global")
    costs = {"channels": None, "macs": Objective(exact_cost(table, "macs")), "latency": Objective(clock)}
    orders = {name: removal_order_of(groups, scores, table, target, objective=costs[name]) for name in OBJECTIVES}
    wanted, by_macs = share * table.dense().macs, orders["macs"]
    limit = clock.cost(by_macs.left(by_macs.first(lambda member: by_macs.cost(member).macs <= wanted)))

    found = {}
    for name, order in orders.items():
        number = order.first(lambda member, order=order: clock.cost(order.left(member)) <= limit + 1e-9)
        pair = [plan_of(groups, scores, table, order, n) for n in (number, max(0, number - 1))]
        costs_of = [clock.cost(widths(session, plan)) for plan in pair]
        worth = [kept_importance(plan, scores) for plan in pair]
        found[name] = pair[0], float(np.interp(limit, costs_of, worth))
    return found


def widths(session: Session, plan: PruningPlan) -> np.ndarray:
    """How many channels each group keeps."""
    return np.array([len(plan.kept.get(group.name, range(group.channels))) for group in session.groups])


def compare(checkpoint: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one network."""
    data = DataOptions(arguments.dataset, arguments.data_root, num_workers=0)
    run = RunOptions(device=arguments.device, threads=arguments.threads)
    baseline = open_baseline(checkpoint, data, run, ScoringOptions(), TimingOptions())
    session = Session(baseline, PruneOptions(round_to=arguments.round_to), Path(checkpoint).parent / "scores")
    pruner = make_pruner(arguments.method)
    scores, _ = session.scores(pruner, 0)
    clock, _ = latency_cost(session)
    dense = clock.cost(session.cost_table.channels)
    rows = []
    for share in arguments.targets:
        plans = plans_for(session, scores, clock, arguments.method, share)
        networks = {name: smaller(session, baseline.saved.model, plan)[0] for name, (plan, _) in plans.items()}
        timed = baseline.time_beside({"dense": baseline.saved.model, **networks}).networks
        for name, (plan, at_limit) in plans.items():
            speedup = timed[name]
            row = {
                "model": baseline.saved.spec.name,
                "target_macs": share,
                "objective": name,
                "importance_kept": kept_importance(plan, scores),
                "importance_at_the_latency": at_limit,
                "macs": plan.predicted.macs / plan.dense.macs,
                "parameters": plan.predicted.parameters / plan.dense.parameters,
                "channels": plan.channels[0] / sum(group.channels for group in prunable(session.groups)),
                "table_latency": clock.cost(widths(session, plan)) / dense,
                "latency": 1 / speedup.speedup,
                "latency_interval": [1 / speedup.speedup_high, 1 / speedup.speedup_low],
            }
            rows.append(row)
            low, high = row["latency_interval"]
            print(f"{row['model']:14} macs {share:<5g} {name:9} importance {100 * row['importance_kept']:6.2f} %, "
                  f"at that latency {100 * at_limit:6.2f} %  "
                  f"MACs {100 * row['macs']:5.1f} %  parameters {100 * row['parameters']:5.1f} %  latency by the table "
                  f"{row['table_latency']:.3f}, measured {row['latency']:.3f} ({low:.3f}-{high:.3f})")  # fmt: skip
    return rows


def main() -> None:
    """Measures, prints a line a network, and says whether the clock's plans keep as much as those by MACs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", type=lambda text: text.split(","), required=True)
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-root")
    parser.add_argument("--method", default="taylor", help="one whose scores compare between groups")
    parser.add_argument("--targets", type=lambda text: [float(part) for part in text.split(",")], default=[0.75, 0.5])
    parser.add_argument("--round-to", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = [row for checkpoint in arguments.ckpt for row in compare(checkpoint, arguments)]
    kept = {(row["model"], row["target_macs"], row["objective"]): row["importance_at_the_latency"] for row in rows}
    worse = [key for key in kept if key[2] == "latency" and kept[key] < kept[(*key[:2], "macs")] - 1e-9]
    print(f"{'NOT KEPT' if worse else 'kept'}: at the same latency the plan by latency keeps no less than that by MACs")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if worse:
        sys.exit(1)


if __name__ == "__main__":
    main()
