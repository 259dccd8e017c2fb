"""What `benchmark_summary.json` and `finetuned_summary.json` hold: their types, and the functions that fill them.

Everything is plain data: shares as fractions, times in milliseconds, None what was not measured.
`docs/schemas/benchmark-summary.json` says what each field means.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, TypedDict

from bench.datasets.corruptions import SEVERITIES
from bench.measure.baseline import Baseline
from bench.measure.evaluation_report import (
    CorruptedQuality,
    CostRecord,
    EvaluationReport,
    RobustnessRecord,
    latency_of,
)
from bench.plan.target import Goal
from bench.report.row_settings import Settings, is_same_training, settings_of
from bench.system.files import plain

FORMAT = "benchmark-summary/1"

STAGES = {
    "miou_cut": "right after the cut",
    "miou_recalibrated": "after recalibration",
    "miou_repaired": "after repair",
    "miou_finetuned": "after fine-tuning",
}
"""Row key -> how a network had been treated when that mIoU was measured, from first to last."""


class CorruptedShares(TypedDict, total=False):
    """What a network scores under corruptions: the mean, its share of what it scores without, and each one's mean."""

    miou_corrupted: float
    retention_corrupted: float | None
    miou_noise: float
    miou_blur: float
    miou_fog: float
    miou_brightness: float
    miou_contrast: float
    miou_jpeg: float


CONTROLS = {"miou_scratch": "trained as fine-tuning is", "miou_scratch_full": "trained as the baseline was"}
"""Row key -> how the pruned network's shape was trained from new weights."""

CORRUPTED = tuple(CorruptedShares.__annotations__)
"""The keys of a row, and of the baseline, that say how a network does under corruptions."""


class Measured(Settings, CorruptedShares, total=False):
    """What was measured on the network of a job; `logits_*` only where its output was compared with the baseline's,
    `miou_repaired` only where it was repaired, controls and what is under corruptions only where that was
    wanted: the latter of the fine-tuned network where there is one."""

    # In the method's own terms: a sparsity is not a share of channels, and is compared with none.
    target: str
    target_kind: str
    split: str
    baseline_miou: float
    channel_ratio: float
    channels_removed: float
    parameters: int
    parameters_kept: float
    nonzero_parameters: int
    nonzero_kept: float
    bytes_on_disk: int
    compressed_bytes: int
    macs: int
    macs_kept: float
    miou_cut: float | None
    miou_recalibrated: float | None
    miou_repaired: float | None
    miou_finetuned: float | None
    miou_scratch: float
    scratch_epochs: int
    miou_scratch_full: float
    scratch_full_epochs: int
    baseline_miou_corrupted: float
    baseline_latency_ms: float | None
    latency_ms: float | None
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    latency_format: str | None
    latency_precision: str | None
    latency_compiled: bool | None
    latency_threads: int | None
    latency_device: str | None
    logits_mse_cut: float
    logits_relative_cut: float
    logits_kl_cut: float
    logits_mse_recalibrated: float
    logits_relative_recalibrated: float
    logits_kl_recalibrated: float
    logits_mse_repaired: float
    logits_relative_repaired: float
    logits_kl_repaired: float


class ComparisonRow(Measured):
    """One job of a comparison; of one that failed nothing is measured.

    `target_kind` and `target_value` are its goal, `seconds` is what this run of the command spent on it. `target`,
    `ratio` and `channel_ratio` are earlier names of `target_kind`, `target_value` and `channels_removed`. The two
    latencies are medians as `report.json` has them; `comparison_rows.agreeing_latencies` makes of them what can be
    divided by each other.
    """

    method: str
    ratio: float
    target_value: float
    seed: int
    folder: str
    status: Literal["done", "failed"]
    error: str | None
    seconds: float


class BaselineRecord(CostRecord, CorruptedShares):
    """The unpruned network, and what it costs."""

    path: str
    sha256: str
    model: str
    dataset: str
    split: str
    data_fingerprint: str
    scoring: dict[str, Any]
    miou: float
    quality: dict[str, Any]


class SummaryRecord(TypedDict):
    """A summary file."""

    format: str
    baseline: BaselineRecord
    rows: list[ComparisonRow]
    provenance: dict[str, Any]


def comparison_row(
    method: str,
    goal: Goal,
    seed: int,
    folder: str,
    *,
    measured: Measured,
    error: str | None,
    seconds: float,
    settings: Settings | None = None,
) -> ComparisonRow:
    """The row of a job.

    Args:
        method: its method.
        goal: what it was to reach.
        seed: its seed.
        folder: name of the folder with its files.
        measured: what `measured_of` says of its network; empty where it failed.
        error: why it failed, or None.
        seconds: spent on it.
        settings: how its network is made besides, where the files of the job do not say it.
    """
    return {
        "method": method,
        "target": goal.kind,
        "ratio": goal.value,
        "target_kind": goal.kind,
        "target_value": goal.value,
        **(settings or {}),
        "seed": seed,
        "folder": folder,
        "status": "done" if error is None else "failed",
        "error": error,
        **measured,
        "seconds": round(seconds, 1),
    }


def measured_of(
    info: Mapping[str, Any],
    report: EvaluationReport,
    finetuned: EvaluationReport | None,
    controls: Mapping[str, EvaluationReport] | None = None,
) -> Measured:
    """What the files of a job say about its network.

    Args:
        info: what `pruning_info.json` holds.
        report: what `report.json` holds.
        finetuned: what `finetuned_report.json` holds, if it was fine-tuned.
        controls: kind -> what the reports of its controls hold.
    """
    before, after, quality = info["cost"]["before"], info["cost"]["after"], info["quality"]
    removed = info["plan"]["channel_ratio"] if info["plan"] else 0.0
    recipe = finetuned["finetune"]["recipe"] if finetuned else None
    return {
        "target": info["target"]["kind"],
        "target_kind": info["target"]["kind"],
        **settings_of(info["method_options"], info["options"], info.get("schedule"), recipe),
        "split": report["split"],
        "baseline_miou": report["baseline"]["quality"]["miou"],
        "channel_ratio": removed,
        "channels_removed": removed,
        "parameters": after["parameters"],
        "parameters_kept": after["parameters"] / before["parameters"],
        "nonzero_parameters": after["nonzero_parameters"],
        "nonzero_kept": after["nonzero_parameters"] / before["nonzero_parameters"],
        "bytes_on_disk": report["candidate"]["bytes_on_disk"],
        "compressed_bytes": report["candidate"]["compressed_bytes"],
        "macs": after["macs"],
        "macs_kept": after["macs"] / before["macs"],
        "miou_cut": quality.get("cut", {}).get("miou"),
        "miou_recalibrated": quality.get("recalibrated", {}).get("miou"),
        **({"miou_repaired": quality["repaired"]["miou"]} if "repaired" in quality else {}),
        "miou_finetuned": finetuned["candidate"]["quality"]["miou"] if finetuned else None,
        **_controlled(controls or {}, recipe),
        **corrupted_columns((finetuned or report).get("robustness")),
        **_timed(report),
        **_reconstructed(info),
    }


def _controlled(controls: Mapping[str, EvaluationReport], finetuned: Mapping[str, Any] | None) -> Measured:
    found = {}
    for kind, report in controls.items():
        recipe, name = report["control"]["recipe"], kind.replace("-", "_")
        # With another budget than the fine-tuning beside it, it is no control of that.
        if kind == "scratch" and not (finetuned and is_same_training(finetuned, recipe)):
            continue
        found |= {f"miou_{name}": report["candidate"]["quality"]["miou"], f"{name}_epochs": recipe["epochs"]}
    return found


def corrupted_columns(record: RobustnessRecord | None) -> Measured:
    """What a report says under `robustness`, as columns of a row; nothing where that is of other corruptions."""
    if record is None or record["corruptions"] != plain(SEVERITIES):
        return {}
    return {**corrupted_shares(record["candidate"]), "baseline_miou_corrupted": record["baseline"]["miou"]}


def corrupted_shares(quality: CorruptedQuality) -> CorruptedShares:
    """What a report says of one network under corruptions, as keys of a row or of the baseline."""
    means = {f"miou_{name}": statistics.fmean(shares) for name, shares in quality["by_corruption"].items()}
    return {"miou_corrupted": quality["miou"], "retention_corrupted": quality["retention"], **means}


def _timed(report: EvaluationReport) -> Measured:
    latency = latency_of(report)
    networks = latency.networks if latency else {}
    baseline, candidate = networks.get("baseline"), networks.get("candidate")
    return {
        "baseline_latency_ms": baseline and baseline.median_ms,
        "latency_ms": candidate and candidate.median_ms,
        "speedup": candidate and candidate.speedup,
        "speedup_low": candidate and candidate.speedup_low,
        "speedup_high": candidate and candidate.speedup_high,
        "latency_format": latency and " and ".join(latency.memory_formats),
        "latency_precision": latency and " and ".join(latency.precisions),
        "latency_compiled": latency and latency.mode.compiled,
        "latency_threads": latency and latency.threads,
        "latency_device": latency and latency.device,
    }


def _reconstructed(info: Mapping[str, Any]) -> Measured:
    # Records of the time before outputs were compared do not say how far theirs are apart.
    return {
        f"logits_{key}_{stage}": found[key]
        for stage, found in info.get("reconstruction", {}).items()
        for key in ("mse", "relative", "kl")
    }


def baseline_record(baseline: Baseline) -> BaselineRecord:
    """What a summary says about the unpruned network."""
    (files,) = baseline.data.files(baseline.split).record().values()
    return {
        "path": str(baseline.checkpoint),
        "sha256": baseline.digest,
        "model": baseline.saved.spec.name,
        "dataset": baseline.data.name,
        "split": baseline.split,
        "input_size": list(baseline.data.input_size),
        "data_fingerprint": files["content"] or files["stat"],
        "scoring": asdict(baseline.scoring),
        "miou": baseline.quality["miou"],
        "quality": baseline.quality,
        **baseline.cost,
        **(corrupted_shares(baseline.robustness) if baseline.robustness else {}),
    }


def summary_record(
    baseline: BaselineRecord, rows: Sequence[ComparisonRow], provenance: Mapping[str, Any]
) -> SummaryRecord:
    """A summary file as plain data."""
    return plain({"format": FORMAT, "baseline": baseline, "rows": list(rows), "provenance": provenance})
