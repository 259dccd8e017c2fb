"""How much each group of channels matters by itself: one loses channels at a time, all others stay whole.

A method chooses the channels; what the network loses in mIoU says how far the group can be pruned. The images are
training images unless another split is asked for, so that ratios are not chosen on the images they are judged by.
What recalibration alone does to the network is no group's fault: the loss is counted from the whole network
treated in the same way. Where a method trains first, the whole network is what it has trained.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import yaml
from torch import nn

from bench.channels.groups import ChannelGroup, prunable
from bench.engine.one_cut import smaller
from bench.engine.session import Session
from bench.errors import UsageError
from bench.jobs.options import SensitivityOptions
from bench.measure.evaluation import evaluate
from bench.plan.pruning_plan import PruningPlan, Scores, make_plan
from bench.plan.target import Goal, Target
from bench.pruners.base import Pruner
from bench.recover.recalibration import recalibrate
from bench.report.plots import heat_map
from bench.system.console import progress, say
from bench.system.files import digest, plain, read_json, write_csv, write_json, write_text
from bench.system.provenance import provenance
from bench.system.run_folder import run_folder
from bench.torch_utils.batches import Batch

FORMAT = "sensitivity/1"
CSV, RECORD, PICTURE, RATIOS = "sensitivity.csv", "sensitivity.json", "sensitivity.png", "sensitivity_ratios.yaml"


class SensitivityRow(TypedDict):
    """The network of which one group lost a share of its channels, a line of `sensitivity.csv`."""

    group: str
    channels: int
    ratio: float
    channels_kept: int
    parameters: int
    macs: int
    miou: float
    miou_drop_points: float


COLUMNS = tuple(SensitivityRow.__annotations__)


def measure_sensitivity(
    session: Session,
    pruner: Pruner,
    options: SensitivityOptions,
    seed: int,
    folder: Path,
    *,
    split: str = "train",
) -> dict[str, Any]:
    """Prunes each group by itself at each ratio and scores the results.

    The folder receives `sensitivity.json` after every network, and at the end `sensitivity.csv`, `sensitivity.png`
    and `sensitivity_ratios.yaml`. Rows that an earlier run measured in the same way are taken over from there.

    Args:
        session: the baseline, and the limits of every cut.
        pruner: the method that chooses a group's channels.
        options: ratios, images, and the drop that is allowed.
        seed: seed of the method and of the choice of images.
        folder: where the files go.
        split: where the images come from.

    Returns:
        What `sensitivity.json` says: among others `baseline` (`miou` as it is, and `miou_treated` after the
        recalibration that the cut networks get, from which drops are counted), `rows`, one a (group, ratio), with the
        keys of `COLUMNS`, and `ratio_of`, group name -> the largest ratio that costs at most the allowed drop, 0 where
        none does.

    Raises:
        UsageError: a ratio that the limits do not allow.
        BenchError: the method cannot score this network.
    """
    ratios = sorted(set(options.sensitivity_ratios))
    _check_ratios(ratios, session)
    with run_folder(folder):
        scores, scores_file = session.scores(pruner, seed)
        groups = [group for group in prunable(session.groups) if group.name in scores]
        whole = session.network_of(pruner, seed).model
        ruler = _Ruler(session, whole, options.sensitivity_images, seed, split)
        record = {
            **_header(session, pruner, options, seed),
            "scores": scores_file,
            "skipped_groups": [group.name for group in prunable(session.groups) if group.name not in scores],
            "images": ruler.describe(),
            "identity": digest(
                [session.score_identity(pruner, seed), ruler.describe(), *map(asdict, session.identity.values())]
            ),
        }
        baseline, measured = _measured_before(folder / RECORD, record["identity"])
        record["baseline"] |= baseline or ruler.baseline()
        dense = record["baseline"]["miou_treated"]

        jobs = [(group, ratio) for group in groups for ratio in ratios]
        for group, ratio in progress(jobs, "sensitivity"):
            if (group.name, ratio) not in measured:
                plan = plan_for_group(group, ratio, scores, session)
                miou = ruler.miou_of(plan) if plan.removes_channels else dense
                measured[group.name, ratio] = _row(group, ratio, plan, dense, miou)
                write_json(folder / RECORD, {**record, "rows": list(measured.values())})
        rows = [measured[group.name, ratio] for group, ratio in jobs]

        chosen = tolerated(rows, options.sensitivity_drop)
        record |= {"ratio_of": chosen, "rows": rows}
        write_csv(folder / CSV, COLUMNS, rows)
        write_text(folder / RATIOS, _yaml(chosen, record))
        _draw(folder / PICTURE, rows, chosen, record)
        write_json(folder / RECORD, record)
    able = sum(ratio > 0 for ratio in chosen.values())
    say(
        f"{able} of {len(groups)} groups can lose channels for at most {options.sensitivity_drop:g} points of mIoU "
        f"each ({record['images']['count']} images of {split}, whole network {dense:.2%})"
    )
    say(f"-> {folder / PICTURE}, {RATIOS}")
    return plain(record)


def plan_for_group(group: ChannelGroup, ratio: float, scores: Scores, session: Session) -> PruningPlan:
    """The plan by which one group loses a share of its channels and all others stay whole."""
    options = session.options
    target = Target(
        Goal("channels", 0.0),
        min_keep=options.min_keep,
        max_ratio=options.max_ratio,
        round_to=options.round_to,
        ratio_of={group.name: ratio},
    )
    # A group without scores stays whole.
    return make_plan(session.groups, {group.name: scores[group.name]}, session.cost_table, target)


def tolerated(rows: Sequence[SensitivityRow], drop: float) -> dict[str, float]:
    """Group name -> the largest ratio tried whose drop in mIoU is at most `drop` points; 0 where none is."""
    ratios = {row["group"]: 0.0 for row in rows}
    for row in rows:
        if row["miou_drop_points"] <= drop:
            ratios[row["group"]] = max(ratios[row["group"]], row["ratio"])
    return ratios


class _Ruler:
    """Scores networks on the same images, which are loaded once."""

    def __init__(self, session: Session, whole: nn.Module, images: int, seed: int, split: str):
        self._session, self._whole, self._seed, self._split = session, whole, seed, split
        self._images = session.batches(images, seed, split)
        self._recalibration: list[Batch] = []
        if session.options.recalibrate:
            self._recalibration = session.batches(session.options.recalibration_images, seed)

    def describe(self) -> dict[str, Any]:
        """What networks are scored on, for the record."""
        data = self._session.baseline.data
        return {
            "dataset": [data.name, str(data.dataset.root.absolute())],
            "input_size": list(data.input_size),
            "split": self._split,
            "count": sum(len(images) for images, _ in self._images),
            "chosen": f"at random, seed {self._seed}",
            "labels": "at the input size",
            "scoring": plain(self._session.baseline.scoring),
            "recalibrated_on": sum(len(images) for images, _ in self._recalibration),
        }

    def baseline(self) -> dict[str, float]:
        """mIoU of the whole network as it is, and treated as the cut networks are."""
        whole = self._whole
        miou = self._miou(whole, "baseline")
        return {"miou": miou, "miou_treated": self._treated(copy.deepcopy(whole)) if self._recalibration else miou}

    def miou_of(self, plan: PruningPlan) -> float:
        """mIoU of the whole network cut by a plan, repaired or else recalibrated if that is wanted."""
        session, network = self._session, smaller(self._session, self._whole, plan)[0]
        if not session.repair.solves:
            return self._treated(network)
        session.repair_network(self._whole, network, session.groups, plan, self._seed)
        return self._miou(network, "repaired")

    def _treated(self, network: nn.Module) -> float:
        if self._recalibration:
            recalibrate(network, self._recalibration, self._session.baseline.device)
        return self._miou(network, "after the cut")

    def _miou(self, network: nn.Module, label: str) -> float:
        baseline = self._session.baseline
        return evaluate(
            network,
            self._images,
            baseline.data.classes,
            device=baseline.device,
            label=label,
            scoring=baseline.scoring,
        ).miou


def _check_ratios(ratios: Sequence[float], session: Session) -> None:
    options = session.options
    most = min(1 - options.min_keep, options.max_ratio)
    if ratios[-1] > most + 1e-12:
        raise UsageError(
            f"--sensitivity-ratios {ratios[-1]:g} is more than the {most:g} of a group that can go; "
            "ask for less, lower --min-keep or raise --max-ratio"
        )


def _header(session: Session, pruner: Pruner, options: SensitivityOptions, seed: int) -> dict[str, Any]:
    baseline, dense = session.baseline, session.cost_table.dense()
    return {
        "format": FORMAT,
        "method": pruner.name,
        "method_options": asdict(pruner),
        "paper": pruner.paper,
        "seed": seed,
        "model": {**asdict(baseline.saved.spec), "input_size": baseline.data.input_size},
        "dataset": baseline.data.name,
        "baseline": {
            "path": baseline.checkpoint,
            "sha256": baseline.digest,
            "parameters": dense.parameters,
            "macs": dense.macs,
        },
        "options": {**asdict(session.options), **asdict(options)},
        "provenance": provenance(),
    }


def _measured_before(path: Path, identity: str) -> tuple[dict[str, float], dict[tuple[str, float], SensitivityRow]]:
    """What `_Ruler.baseline` said and (group, ratio) -> row, as far as an earlier run measured them in the same way."""
    if path.is_file():
        record = read_json(path)
        if record.get("identity") == identity:
            baseline = {key: value for key, value in record["baseline"].items() if key.startswith("miou")}
            return baseline, {(row["group"], row["ratio"]): row for row in record["rows"]}
    return {}, {}


def _row(group: ChannelGroup, ratio: float, plan: PruningPlan, dense: float, miou: float) -> SensitivityRow:
    return plain(
        {
            "group": group.name,
            "channels": group.channels,
            "ratio": ratio,
            "channels_kept": len(plan.kept[group.name]),
            "parameters": plan.predicted.parameters,
            "macs": plan.predicted.macs,
            "miou": miou,
            "miou_drop_points": 100 * (dense - miou),
        }
    )


def _yaml(chosen: Mapping[str, float], record: Mapping[str, Any]) -> str:
    return (
        f"# Shares of its channels that each group lost by {record['method']} for at most "
        f"{record['options']['sensitivity_drop']:g} points of mIoU,\n# all other groups whole. "
        "To prune by them: prune.py --config THIS_FILE --global-ratio 0 and the flags as before.\n"
    ) + yaml.safe_dump({"ratio-of": dict(chosen)}, sort_keys=False)


def _draw(path: Path, rows: Sequence[SensitivityRow], chosen: Mapping[str, float], record: Mapping[str, Any]) -> None:
    groups = {row["group"]: f"{row['group']} ({row['channels']})" for row in rows}
    ratios = sorted({row["ratio"] for row in rows})
    drops = {(row["group"], row["ratio"]): row["miou_drop_points"] for row in rows}
    values = [[drops[group, ratio] for ratio in ratios] for group in groups]
    marked = [(number, ratios.index(chosen[group])) for number, group in enumerate(groups) if chosen[group] in ratios]
    images = record["images"]
    heat_map(
        path,
        values,
        list(groups.values()),
        [f"{ratio:g}" for ratio in ratios],
        marked=marked,
        title=f"{record['model']['name']} on {record['dataset']}, {images['count']} images of {images['split']}; "
        f"{record['method']}\nframed: largest ratio for at most {record['options']['sensitivity_drop']:g} points",
        across="share of the group's channels removed",
        shade="mIoU lost (points)",
    )
