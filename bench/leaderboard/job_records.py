"""What the folder of a job says beyond its row: classes, widths, files, seconds, how they came about."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.system.files import read_json
from bench.system.run_folder import CELL, CONTROLS, FINETUNED_REPORT, INFO, REPORT, WORST_IMAGES

# Of provenance: what may differ from job to job.
_ORIGIN = ("command", "time", "git", "python", "torch", "processor", "gpu", "threads")


def job_record(folder: Path, page: Path) -> dict[str, Any]:
    """What the page says of a job beyond its row, as far as its folder has it.

    Args:
        folder: the job's.
        page: the page's folder, which links are relative to.

    Returns:
        `iou`: how the network was treated -> share of each class in percent. `classes`, `layers`: their names.
        `dense_iou`, `dense_widths`, `widths`: of the baseline and the pruned network. `files`: SHA-256 of each.
        `seconds`: of each stage. `alone`: `command`, the line that is this job alone, and the `seconds` of all of it.
        `origin`: command of the whole run, code, versions, machine. `page`: link to a page of the job. `worst`: images
        it lost the most on, each as its name, the percent of its pixels that the baseline and this network label
        rightly, and a picture as a `data:` address.
        Nothing of records that are missing or no records of a job.
    """
    try:
        report, info = read_json(folder / REPORT), read_json(folder / INFO)
        tuned = read_json(folder / FINETUNED_REPORT) if (folder / FINETUNED_REPORT).is_file() else None
        cell = read_json(folder / CELL) if (folder / CELL).is_file() else {}
        alone = {key: cell[key] for key in ("command", "seconds") if cell.get(key) is not None}
        told = _told(report, info, tuned)
        told["files"] |= _controls(folder)
        return told | {"alone": alone, **_worst(folder)} | _linked(folder, page)
    except (BenchError, LookupError, AttributeError, TypeError):
        # The row is all that is known then, and the page shows it.
        return {}


def _told(report: Mapping[str, Any], info: Mapping[str, Any], tuned: Mapping[str, Any] | None) -> dict[str, Any]:
    dense, pruned = report["baseline"], report["candidate"]
    classes, layers = list(dense["quality"]["iou"]), list(dense["widths"])
    stages = {name: quality for name, quality in info["quality"].items() if isinstance(quality, dict)}
    stages.pop("baseline", None)
    # A pruning that was not scored on its way is scored in the end.
    stages = stages or {"pruned": pruned["quality"]}
    seconds = dict(info.get("seconds") or {})
    files = {"pruned": pruned["sha256"]}
    if tuned:
        stages["finetuned"] = tuned["candidate"]["quality"]
        files["finetuned"] = tuned["candidate"]["sha256"]
        seconds["finetune"] = round(sum(epoch.get("seconds", 0.0) for epoch in tuned["finetune"]["history"]), 2)
    return {
        "classes": classes,
        "layers": layers,
        "dense_iou": _percent(dense["quality"]["iou"], classes),
        "iou": {name: _percent(quality["iou"], classes) for name, quality in stages.items()},
        "dense_widths": list(dense["widths"].values()),
        "widths": [pruned["widths"].get(layer) for layer in layers],
        "files": files,
        "seconds": seconds,
        "origin": {key: report["provenance"][key] for key in _ORIGIN if report["provenance"].get(key) is not None},
    }


def _controls(folder: Path) -> dict[str, str]:
    """SHA-256 of the networks of the same shape that were trained from new weights."""
    there = {kind: folder / report for kind, (_, report) in CONTROLS.items() if (folder / report).is_file()}
    return {kind: read_json(report)["candidate"]["sha256"] for kind, report in there.items()}


def _worst(folder: Path) -> dict[str, list[list[Any]]]:
    if not (folder / WORST_IMAGES).is_file():
        return {}
    images = read_json(folder / WORST_IMAGES)["images"]
    shares = [[round(100 * image[name], 1) for name in ("baseline", "candidate")] for image in images]
    return {"worst": [[image["image"], *share, image["picture"]] for image, share in zip(images, shares, strict=True)]}


def _percent(shares: Mapping[str, float | None], classes: list[str]) -> list[float | None]:
    return [None if (share := shares.get(name)) is None else round(100 * share, 2) for name in classes]


def _linked(folder: Path, page: Path) -> dict[str, str]:
    found = folder / Path(REPORT).with_suffix(".html")
    return {"page": Path(os.path.relpath(found, page)).as_posix()} if found.is_file() else {}
