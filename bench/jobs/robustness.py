"""The networks of a benchmark under corruptions: scored together after the jobs, as one image serves them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from bench.errors import as_flags
from bench.measure.baseline import Baseline
from bench.measure.evaluation_report import CorruptedQuality, EvaluationReport, RobustnessRecord
from bench.measure.robustness import known_robustness, robustness_record, score_corrupted
from bench.models.checkpoint import load_model
from bench.report.summary_record import ComparisonRow, corrupted_columns
from bench.system.console import say
from bench.system.failures import in_one_line
from bench.system.files import read_json, write_json
from bench.system.locks import lock_of, locked
from bench.system.run_folder import FINETUNED, FINETUNED_REPORT, PRUNED, REPORT, fail

# Networks that are held at once, and bytes of their files.
_MOST, _MOST_BYTES = 8, 1 << 30


class _Network(NamedTuple):
    """The last network of a job, and where its report is."""

    folder: Path
    model: Path
    report: Path


def robustness_beside(baseline: Baseline, candidate: nn.Module | None, clean: float | None) -> RobustnessRecord:
    """Scores the baseline under corruptions, and a candidate if there is one.

    Args:
        baseline: the network, its data, and how networks are scored.
        candidate: the other network, on the device.
        clean: its mIoU on the images as they are.
    """
    others = [] if candidate is None else [candidate]
    networks = [baseline.saved.model, *others]
    found = score_corrupted(baseline, networks, [baseline.quality["miou"], clean][: len(networks)], "networks")
    return robustness_record(*found, *([None] if candidate is None else []))


def score_rows(baseline: Baseline, out: Path, rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Scores the last network of each finished job under corruptions, unless that was done.

    The job's `report.json`, or where it was fine-tuned its `finetuned_report.json`, receives the result.

    Args:
        baseline: what they are compared with; told how it does itself.
        out: folder of the benchmark.
        rows: one a job.

    Returns:
        The rows with what was found; failed where it could not be.
    """
    networks = {row["folder"]: _last_network(out / row["folder"]) for row in rows if row["status"] == "done"}
    reports = {folder: read_json(network.report) for folder, network in networks.items()}
    known = {folder: known_robustness(report, baseline) for folder, report in reports.items()}
    baseline.robustness = next((record["baseline"] for record in known.values() if record), None)
    failures: dict[str, str] = {}
    missing = [networks[folder] for folder, record in known.items() if record is None]
    for part in _parts(missing):
        for network, result in _scored(baseline, part, reports).items():
            folder = network.folder.name
            if isinstance(result, str):
                failures[folder] = result
                fail(network.folder, result)
                say(f"{folder} under corruptions: failed: {result}")
                continue
            known[folder] = robustness_record(baseline.robustness, result)
            _note(network, reports[folder], known[folder])
    return [_with_robustness(row, known.get(row["folder"]), failures.get(row["folder"])) for row in rows]


def _with_robustness(row: ComparisonRow, record: RobustnessRecord | None, failure: str | None) -> ComparisonRow:
    if failure is not None:
        return {**row, "status": "failed", "error": failure}
    return {**row, **corrupted_columns(record)}


def _note(network: _Network, before: EvaluationReport, record: RobustnessRecord) -> None:
    """Adds what was found to a report, unless another process has fine-tuned the network anew meanwhile."""
    with locked(lock_of(network.folder), network.folder.name):
        report = read_json(network.report)
        if report["candidate"]["sha256"] == before["candidate"]["sha256"]:
            write_json(network.report, {**report, "robustness": record})


def _last_network(folder: Path) -> _Network:
    is_tuned = (folder / FINETUNED).is_file() and (folder / FINETUNED_REPORT).is_file()
    names = (FINETUNED, FINETUNED_REPORT) if is_tuned else (PRUNED, REPORT)
    return _Network(folder, *(folder / name for name in names))


def _parts(networks: Sequence[_Network]) -> Iterator[list[_Network]]:
    """As many networks at a time as may be held; at least one."""
    part: list[_Network] = []
    size = 0
    for network in networks:
        bytes_on_disk = network.model.stat().st_size
        if part and (len(part) == _MOST or size + bytes_on_disk > _MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(network)
        size += bytes_on_disk
    if part:
        yield part


def _scored(
    baseline: Baseline, networks: Sequence[_Network], reports: Mapping[str, EvaluationReport]
) -> dict[_Network, CorruptedQuality | str]:
    """What was found of each network, or why nothing could be: one that fails costs no other."""
    with_baseline = baseline.robustness is None
    try:
        opened = [load_model(network.model, outputs=baseline.data.classes.outputs).model for network in networks]
        clean = [reports[network.folder.name]["candidate"]["quality"]["miou"] for network in networks]
        if with_baseline:
            opened, clean = [baseline.saved.model, *opened], [baseline.quality["miou"], *clean]
        found = score_corrupted(baseline, opened, clean, f"{len(opened)} networks")
    except Exception as error:  # noqa: BLE001 - one network's defect must not cost the others' results
        if len(networks) > 1:
            return {
                network: result for one in networks for network, result in _scored(baseline, [one], reports).items()
            }
        return {networks[0]: as_flags(in_one_line(error))}
    if with_baseline:
        baseline.robustness, *found = found
    return dict(zip(networks, found, strict=True))
