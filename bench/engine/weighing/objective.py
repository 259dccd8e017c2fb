"""What `--objective` makes of a session's options: the cost to save, and what the channels of each group are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from bench.engine.session import Session
from bench.engine.weighing.checks import MEASURE
from bench.engine.weighing.latency_table import latency_cost
from bench.engine.weighing.sensitivity import FORMAT, Ruler, SensitivityRow, measured_rows, rows_identity
from bench.errors import BenchError
from bench.plan.cost_model import CostModel, exact_cost
from bench.plan.pruning_plan import PruningPlan, Scores
from bench.plan.sensitivity_curves import channel_losses
from bench.plan.weighed_order import Objective
from bench.pruners.base import Pruner
from bench.system.console import say
from bench.system.files import digest, make_folder, plain, read_json

CURVE_RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of its channels that a group loses in turn where curves are measured for an objective."""

MakeSmaller = Callable[[PruningPlan], nn.Module]
"""The network that a plan makes of the one that is pruned: cut, and repaired where that is wanted."""


@dataclass(frozen=True)
class Weighing:
    """An objective and where it comes from.

    Attributes:
        objective: as plans take it.
        record: what `pruning_info.json` says of it under `objective`.
    """

    objective: Objective
    record: dict[str, Any]


def weighing_of(
    session: Session, pruner: Pruner, seed: int, scores: Scores, whole: nn.Module, smaller: MakeSmaller
) -> Weighing | None:
    """The objective that a session asks for, or None where importance alone decides.

    Args:
        session: the baseline, the objective and the limits.
        pruner: the method; `bench.engine.weighing.checks.check_objective` says which fit.
        seed: its seed.
        scores: of the network that is pruned.
        whole: that network: the baseline, or what the method's training made of it.
        smaller: what a plan makes of it, to measure curves.

    Raises:
        BenchError: a file of curves of another method or network.
    """
    name = session.options.objective
    if name == "channels":
        return None
    cost: CostModel
    record: dict[str, Any] = {"saves": name, "importance": "scores", "curves": None, "latency_table": None}
    if name == "latency":
        cost, table = latency_cost(session)
        record["latency_table"] = str(table)
    else:
        cost = exact_cost(session.cost_table, name)
    curves = None
    if not pruner.comparable:
        rows, source = _rows(session, pruner, seed, scores, whole, smaller)
        curves = curves_of(rows)
        record |= {"importance": "sensitivity curves", "curves": str(source)}
    return Weighing(Objective(cost, curves), record)


def curves_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Group name -> what is lost in mIoU points with its first channel, its second, and so on.

    Args:
        rows: of a sensitivity.json.
    """
    points: dict[str, list[tuple[int, float]]] = {}
    channels: dict[str, int] = {}
    for row in rows:
        channels[row["group"]] = row["channels"]
        lost = (row["channels"] - row["channels_kept"], row["miou_drop_points"])
        points.setdefault(row["group"], []).append(lost)
    return {name: channel_losses(found, channels[name]) for name, found in points.items()}


def read_curves(path: Path | str, method: str, baseline: str | None = None) -> list[SensitivityRow]:
    """The rows of a sensitivity.json.

    Args:
        path: the file.
        method: whose ranks they must be of.
        baseline: SHA-256 of the network that they must be of, where that is known.

    Raises:
        BenchError: another file, or of another method or network.
    """
    record = read_json(path)
    if not isinstance(record, dict) or record.get("format") != FORMAT or not record.get("rows"):
        raise BenchError(f"{path} holds no sensitivity curves; prune.py --sensitivity writes sensitivity.json")
    if record["method"] != method:
        raise BenchError(f"{path} has the curves of {record['method']}; measure those of {method}")
    if baseline is not None and record["baseline"]["sha256"] != baseline:
        raise BenchError(f"{path} has the curves of another network ({record['baseline']['path']}); measure this one's")
    return record["rows"]


def _rows(
    session: Session, pruner: Pruner, seed: int, scores: Scores, whole: nn.Module, smaller: MakeSmaller
) -> tuple[list[SensitivityRow], Path]:
    """Curves from the file that the user names, or measured and kept in the session's folder."""
    options, baseline = session.options, session.baseline
    if options.sensitivity_curves != MEASURE:
        path = Path(options.sensitivity_curves)
        return read_curves(path, pruner.name, baseline.digest), path
    most = min(1 - options.min_keep, options.max_ratio)
    ratios = [ratio for ratio in CURVE_RATIOS if ratio <= most + 1e-12] or [most]
    ruler = Ruler(session, whole, smaller, options.calib_images, seed)
    identity = digest([rows_identity(session, pruner, seed, ruler), ratios])
    files = baseline.data.files("train")
    path = make_folder(session.folder) / f"sensitivity_{pruner.name}_{identity}.json"
    record = {
        "format": FORMAT,
        "method": pruner.name,
        "method_options": asdict(pruner),
        "seed": seed,
        "baseline": {"path": baseline.checkpoint, "sha256": baseline.digest},
        "images": ruler.describe(),
        "data": files.record(),
        "identity": identity,
    }
    if not path.is_file():
        say(f"measuring what each group can lose by {pruner.name}, kept in {path}")
    with session.stopwatch.stage("sensitivity"):
        return plain(measured_rows(session, scores, ratios, ruler, record, path, files)), path
