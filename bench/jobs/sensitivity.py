"""How much each group of channels matters by itself: one loses channels at a time, all others stay whole.

A method chooses the channels; what the network loses in mIoU says how far the group can be pruned. The images are
training images unless another split is asked for, so that ratios are not chosen on the images they are judged by.
What recalibration alone does to the network is no group's fault: the loss is counted from the whole network
treated in the same way. Where a method trains first, the whole network is what it has trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from bench.channels.groups import prunable
from bench.engine.one_cut import candidate
from bench.engine.session import Session
from bench.engine.weighing.sensitivity import FORMAT, Ruler, SensitivityRow, measured_rows, rows_identity
from bench.errors import UsageError
from bench.jobs.options import SensitivityOptions
from bench.pruners.base import Pruner
from bench.report.plots import heat_map
from bench.system.console import say
from bench.system.files import plain, write_csv, write_json, write_text
from bench.system.provenance import provenance
from bench.system.run_folder import run_folder

CSV, RECORD, PICTURE, RATIOS = "sensitivity.csv", "sensitivity.json", "sensitivity.png", "sensitivity_ratios.yaml"
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
    data = session.baseline.data
    data.check_labelled(split)
    files = data.files(*dict.fromkeys([*session.files_for(pruner).record(), split]))
    with run_folder(folder):
        scores, scores_file = session.scores(pruner, seed)
        whole = session.network_of(pruner, seed).model
        ruler = Ruler(
            session, whole, partial(candidate, session, whole, seed=seed), options.sensitivity_images, seed, split
        )
        record = {
            **_header(session, pruner, options, seed),
            "scores": scores_file,
            "skipped_groups": [group.name for group in prunable(session.groups) if group.name not in scores],
            "images": ruler.describe(),
            "data": files.record(),
            "identity": rows_identity(session, pruner, seed, ruler),
        }
        rows = measured_rows(session, scores, ratios, ruler, record, folder / RECORD, files)

        chosen = tolerated(rows, options.sensitivity_drop)
        record |= {"ratio_of": chosen, "rows": rows}
        write_csv(folder / CSV, COLUMNS, rows)
        write_text(folder / RATIOS, _yaml(chosen, record))
        _draw(folder / PICTURE, rows, chosen, record)
        write_json(folder / RECORD, record)
    able = sum(ratio > 0 for ratio in chosen.values())
    dense = record["baseline"]["miou_treated"]
    say(
        f"{able} of {len(chosen)} groups can lose channels for at most {options.sensitivity_drop:g} points of mIoU "
        f"each ({record['images']['count']} images of {split}, whole network {dense:.2%})"
    )
    say(f"-> {folder / PICTURE}, {RATIOS}")
    return plain(record)


def tolerated(rows: Sequence[SensitivityRow], drop: float) -> dict[str, float]:
    """Group name -> the largest ratio tried whose drop in mIoU is at most `drop` points; 0 where none is."""
    ratios = {row["group"]: 0.0 for row in rows}
    for row in rows:
        if row["miou_drop_points"] <= drop:
            ratios[row["group"]] = max(ratios[row["group"]], row["ratio"])
    return ratios


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
        "options": {**session.settings, **asdict(options)},
        "provenance": provenance(),
    }


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
