"""Networks in int8 beside themselves in float32, by PyTorch and by onnxruntime, in one table: eval.py --int8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from bench.errors import UsageError
from bench.export.facts import facts_of
from bench.export.int8_file import write_int8
from bench.export.onnx_file import OPSET, OnnxNetwork, write_onnx
from bench.export.onnx_module import OnnxModule
from bench.export.program import exported
from bench.measure.baseline import Baseline
from bench.measure.evaluation_report import EvaluationReport, file_record
from bench.measure.latency_report import LatencyReport
from bench.measure.options import Int8Options
from bench.models.checkpoint import load_model
from bench.system.extras import extra
from bench.system.files import file_digest, plain, write_json
from bench.system.provenance import provenance

FORMAT = "int8-report/2"
REPORT = "int8_report.json"

FLOAT, INT8 = "float32", "int8"
PYTORCH, RUNTIME = "PyTorch", "onnxruntime"

MOST_POINTS = 1.0
"""How much mIoU the best form of a network may lose."""


def check_int8(baseline: Baseline) -> None:
    """Finds before any work what int8 lacks.

    Raises:
        UsageError: on a GPU.
        BenchError: a package is missing.
    """
    if baseline.device.type != "cpu":
        raise UsageError("`int8` computes on the CPU; pass `device=cpu`")
    for package in ("onnxruntime", "onnx", "onnxscript"):
        extra(package, "int8")


def measure_int8(
    baseline: Baseline, report: EvaluationReport, folder: Path, options: Int8Options, seed: int
) -> dict[str, Any]:
    """Writes the baseline and the candidate, if there is one, as ONNX files in float32 and int8, and measures them.

    The folder receives `baseline_float32.onnx`, `baseline_int8.onnx`, the candidate's two, and `int8_report.json`.

    Args:
        baseline: the network and its data, on the CPU, and how networks are scored and timed.
        report: what `evaluate_pair` said of both in PyTorch.
        folder: where the files go.
        options: how many images the ranges of activations are found on, and what stays in float.
        seed: seed of the choice of those images.

    Returns:
        What the report says.

    Raises:
        BenchError: a network cannot be exported or quantised; or as for `check_int8`.
    """
    check_int8(baseline)
    runtime = extra("onnxruntime", "int8")
    batches = baseline.data.calibration(options.int8_images, baseline.data.eval_batch_size, seed)
    rows: list[dict[str, Any]] = []
    networks: dict[str, nn.Module] = {}
    for name in ("baseline", "candidate"):
        if report[name] is None:
            continue
        before = report[name]
        saved = baseline.saved if name == "baseline" else load_model(before["path"], name=baseline.saved.spec.name)
        row = {"network": name, "runtime": PYTORCH, "precision": FLOAT}
        rows.append(row | {key: before[key] for key in (*_FILE, "quality")} | {"miou_points": 0.0})
        networks[_name(row)] = saved.model
        facts = facts_of(saved, before["path"], baseline.data.input_size)
        files = {precision: folder / f"{name}_{precision}.onnx" for precision in (FLOAT, INT8)}
        write_onnx(files[FLOAT], exported(saved.model, facts.input_size, fixed=False), facts)
        write_int8(files[FLOAT], files[INT8], [images for images, _ in batches], float_ends=options.int8_float_ends)
        for precision, path in files.items():
            row = {"network": name, "runtime": RUNTIME, "precision": precision}
            networks[_name(row)] = OnnxModule(OnnxNetwork(path))
            quality = baseline.evaluate(networks[_name(row)], f"{name} in {precision} by {RUNTIME}").record()
            points = 100 * (quality["miou"] - before["quality"]["miou"])
            rows.append(row | file_record(path, file_digest(path)) | {"quality": quality, "miou_points": points})
    latency = _as_computed(baseline.time_beside(networks)) if baseline.is_timed else None
    record = plain(
        {
            "format": FORMAT,
            **{key: report[key] for key in ("dataset", "split", "model", "input_size")},
            "engine": f"{RUNTIME} {runtime.__version__}",
            "opset": OPSET,
            "calibration": {"images": sum(len(images) for images, _ in batches), "seed": seed},
            "float_ends": options.int8_float_ends,
            "rows": rows,
            "best": {
                name: best(rows, latency and latency.ratios, name)
                for name in dict.fromkeys(row["network"] for row in rows)
            },
            "latency": latency,
            "provenance": provenance(),
        }
    )
    write_json(folder / REPORT, record)
    return record


def best(rows: Sequence[Mapping[str, Any]], speedups: Mapping[str, float] | None, network: str) -> str:
    """The best form of a network among those that lose at most one point of mIoU: the fastest, else the smallest file.

    Args:
        rows: of the table.
        speedups: what a form is called -> how many times faster it is than one and the same; None where none was timed.
        network: which one.
    """
    good = [row for row in rows if row["network"] == network and row["miou_points"] >= -MOST_POINTS]
    if speedups is None:
        return _name(min(good, key=lambda row: row["bytes_on_disk"]))
    return _name(max(good, key=lambda row: speedups[_name(row)]))


_FILE = ("path", "sha256", "bytes_on_disk", "compressed_bytes")


def _name(row: Mapping[str, Any]) -> str:
    """What a row is called among latencies: `candidate, onnxruntime, int8`."""
    return f"{row['network']}, {row['runtime']}, {row['precision']}"


def _as_computed(report: LatencyReport) -> LatencyReport:
    """The report, saying of ONNX files what modules without weights do not tell."""
    networks = {
        name: replace(found, precision=name.rpartition(", ")[2], memory_format="contiguous")
        if RUNTIME in name
        else found
        for name, found in report.networks.items()
    }
    return replace(report, networks=networks, throughput=report.throughput and _as_computed(report.throughput))
