"""What each group of channels by itself can lose: it is pruned alone, all others stay whole, and the network scored."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from bench.channels.groups import ChannelGroup, prunable
from bench.config.declare import identity_of
from bench.datasets.fingerprint import DataFiles
from bench.engine.session import Session
from bench.measure.evaluation import evaluate
from bench.plan.pruning_plan import PruningPlan, Scores, make_plan
from bench.plan.target import Goal, Target
from bench.pruners.base import Pruner
from bench.recover.recalibration import recalibrate
from bench.system.console import progress
from bench.system.files import digest, plain, read_json, write_json
from bench.system.kept_files import read_kept
from bench.torch_utils.batches import Batch

FORMAT = "sensitivity/1"


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


class Ruler:
    """Scores networks on the same images, which are loaded once."""

    def __init__(
        self,
        session: Session,
        whole: nn.Module,
        smaller: Callable[[PruningPlan], nn.Module],
        images: int,
        seed: int,
        split: str = "train",
    ):
        """Draws the images.

        Args:
            session: the baseline and its data.
            whole: the network that groups are pruned in.
            smaller: the network a plan makes of that.
            images: how many to score networks on.
            seed: seed of their choice.
            split: where they come from.
        """
        self._session, self._whole, self._smaller = session, whole, smaller
        self._seed, self._split = seed, split
        self._images = session.batches(images, seed, split)
        self._recalibration: list[Batch] = []
        # A repair settles the statistics, and changes nothing where nothing was cut.
        if session.options.recalibrate and not session.repair.solves:
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
        return self._treated(self._smaller(plan))

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
            label=f"scoring {label}",
            scoring=baseline.scoring,
        ).miou


def rows_identity(session: Session, pruner: Pruner, seed: int, ruler: Ruler) -> str:
    """Names all that rows depend on but group, ratio and the files of the images.

    Args:
        session: the baseline, and the limits of every cut.
        pruner: the method that chooses a group's channels.
        seed: its seed.
        ruler: scores networks.
    """
    # What is done with the rows has no influence on them.
    limits = replace(session.options, objective="channels", sensitivity_curves=None, refine=0)
    # Left out as in `Session.identity`.
    repair = [identity_of(session.repair)] if session.repair.solves else []
    return digest([session.score_identity(pruner, seed), ruler.describe(), identity_of(limits), *repair])


def measured_rows(
    session: Session,
    scores: Scores,
    ratios: Sequence[float],
    ruler: Ruler,
    record: dict[str, Any],
    path: Path,
    files: DataFiles,
) -> list[SensitivityRow]:
    """Prunes each group by itself at each ratio and scores the results; goes on with what a file already holds.

    Args:
        session: the baseline, and the limits of every cut.
        scores: of the groups to prune.
        ratios: shares of its channels that each loses in turn.
        ruler: scores networks.
        record: what else the file says; its `identity` is `rows_identity`, its `data` the record of the files. What
            the whole network scores is added to its `baseline`.
        path: the file, written after every network.
        files: images and labels that the rows depend on; rows of others are measured again.

    Returns:
        One row a (group, ratio).
    """
    baseline, measured = _measured_before(path, record["identity"], files)
    record["baseline"] |= baseline or ruler.baseline()
    dense = record["baseline"]["miou_treated"]
    groups = [group for group in prunable(session.groups) if group.name in scores]
    jobs = [(group, ratio) for group in groups for ratio in ratios]
    for group, ratio in progress(jobs, "cutting one group at a time"):
        if (group.name, ratio) not in measured:
            plan = plan_for_group(group, ratio, scores, session)
            miou = ruler.miou_of(plan) if plan.removes_channels else dense
            measured[group.name, ratio] = _row(group, ratio, plan, dense, miou)
            write_json(path, {**record, "rows": list(measured.values())})
    return [measured[group.name, ratio] for group, ratio in jobs]


def _measured_before(
    path: Path, identity: str, files: DataFiles
) -> tuple[dict[str, float], dict[tuple[str, float], SensitivityRow]]:
    """What `Ruler.baseline` said and (group, ratio) -> row, as far as an earlier run measured them in the same way."""
    record = read_kept(path, read_json)
    if record is None or record.get("identity") != identity:
        return {}, {}
    if not files.fits(record.get("data"), f"{path} was measured"):
        return {}, {}
    baseline = {key: value for key, value in record["baseline"].items() if key.startswith("miou")}
    return baseline, {(row["group"], row["ratio"]): row for row in record["rows"]}


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
