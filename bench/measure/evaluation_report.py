"""The types of `report.json`: what is measured on a candidate beside its baseline, or on the baseline alone.

Reports are plain data that `bench.measure.baseline.Baseline` alone puts together;
`docs/schemas/evaluation-report.json` says what each field means.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from bench.channels.layer_axes import widths
from bench.datasets.fingerprint import Fingerprint
from bench.measure.latency_report import LatencyReport
from bench.measure.layer_costs import LayerCost
from bench.models.checkpoint import SavedModel
from bench.system.files import compressed_size

FORMAT = "evaluation-report/1"

_CHANGING = ("parameters", "nonzero_parameters", "macs", "flops", "state_bytes", "peak_activation_bytes")


class FileRecord(TypedDict):
    """A file by name and content, and its bytes as it is and compressed."""

    path: str
    sha256: str
    bytes_on_disk: int
    compressed_bytes: int


class CostRecord(TypedDict):
    """A `bench.measure.cost.Cost` as plain data."""

    parameters: int
    nonzero_parameters: int
    macs: int
    flops: int
    state_bytes: int
    peak_activation_bytes: int
    thop_macs: int
    thop_percent: float
    thop_note: str
    input_size: list[int]
    counter: str


class NetworkRecord(FileRecord):
    """One network: its file, how it was pruned, oldest first, how wide its layers are, its quality and its cost."""

    pruning: list[dict[str, Any]]
    widths: dict[str, int]
    quality: dict[str, Any]
    cost: CostRecord


class CostChanges(TypedDict):
    """Change of each cost in percent, negative where it fell."""

    parameters_percent: float
    nonzero_parameters_percent: float
    macs_percent: float
    flops_percent: float
    state_bytes_percent: float
    peak_activation_bytes_percent: float


class QualityChange(TypedDict):
    """Change of mIoU in points with its 95 % interval."""

    miou_points: float
    miou_points_interval: list[float] | None


class Change(QualityChange, CostChanges):
    """What a candidate is better or worse by than its baseline."""


class LayersTimed(TypedDict):
    """How layers were timed, in the words of latencies."""

    precision: str
    memory_format: str
    device: str
    threads: int


class CorruptedQuality(TypedDict):
    """mIoU of a network under corruptions: the mean, its share of that on clean images, and of each its severities."""

    miou: float
    retention: float | None
    by_corruption: dict[str, list[float]]


class RobustnessRecord(TypedDict):
    """Networks under corruptions, whose constants `bench.datasets.corruptions.SEVERITIES` explains."""

    corruptions: dict[str, list[Any]]
    baseline: CorruptedQuality
    candidate: CorruptedQuality | None


class LostImage(TypedDict):
    """An image that a network does worse on than its baseline: its place in the split, its name, and the shares of its
    scored pixels that each of both labels rightly."""

    index: int
    image: str
    baseline: float
    candidate: float


class _WhereWanted(TypedDict, total=False):
    robustness: RobustnessRecord
    worst_images: list[LostImage]


class EvaluationReport(_WhereWanted):
    """A `report.json`; `candidate` and `change` are None of a baseline alone, latency and layers unless wanted.
    Without the option there is no `robustness`, and without a candidate there are no `worst_images`."""

    format: str
    dataset: str
    split: str
    model: dict[str, Any]
    input_size: list[int]
    scoring: dict[str, Any]
    data: dict[str, Fingerprint]
    baseline: NetworkRecord
    candidate: NetworkRecord | None
    change: Change | None
    latency: dict[str, Any] | None
    layers: list[dict[str, Any]] | None
    layers_timed: LayersTimed | None
    provenance: dict[str, Any]


class FinetuneRecord(TypedDict):
    """How a network was fine-tuned; `history` has one row an epoch."""

    recipe: dict[str, Any]
    best_epoch: int
    val_miou: float
    history: list[dict[str, Any]]


class FinetunedReport(EvaluationReport):
    """A `finetuned_report.json`."""

    finetune: FinetuneRecord


def latency_of(report: EvaluationReport) -> LatencyReport | None:
    """The latencies of a report, read back; None where none were measured."""
    return LatencyReport.of_record(report["latency"]) if report["latency"] else None


def layers_of(report: EvaluationReport) -> list[LayerCost]:
    """The layers of a report, read back; none where they were not measured."""
    return [LayerCost(**layer) for layer in report["layers"] or ()]


def network_record(file: FileRecord, saved: SavedModel, quality: Mapping[str, Any], cost: CostRecord) -> NetworkRecord:
    """What a report says of one network.

    Args:
        file: what `file_record` says of its file.
        saved: the network.
        quality: its metrics as plain data.
        cost: its cost.
    """
    pruning = saved.meta.get("pruning", [])
    return {**file, "pruning": pruning, "widths": widths(saved.model), "quality": quality, "cost": cost}


def file_record(path: Path, sha256: str) -> FileRecord:
    """A file by name and content, and its bytes as it is and compressed: zeros take room until they are."""
    return {
        "path": str(path),
        "sha256": sha256,
        "bytes_on_disk": path.stat().st_size,
        "compressed_bytes": compressed_size(path),
    }


def cost_changes(before: CostRecord, after: CostRecord) -> CostChanges:
    """Change of each cost in percent, negative where it fell."""
    return {f"{name}_percent": 100 * (after[name] / before[name] - 1) for name in _CHANGING}
