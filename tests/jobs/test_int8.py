"""Networks in int8 beside themselves in float: the table that eval.py --int8 prints and the record it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from records import faults

from bench.jobs.int8 import best

FORMS = [("PyTorch", "float32"), ("onnxruntime", "float32"), ("onnxruntime", "int8")]


def command(data: Path, network: Path, out: Path) -> list[object]:
    return [
        "eval.py", "--dataset", "camvid", "--data-root", data, "--num-workers", 0, "--threads", 1, "--no-html",
        "--baseline", network, "--report", out / "report.json", "--int8", "--int8-images", 4,
    ]  # fmt: skip


def test_eval_measures_each_network_in_each_form(
    call, tiny_camvid: Path, shallow_baseline: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    timing = ["--latency-warmup", 0, "--latency-runs", 10, "--latency-batch", 2]
    ended = call(*command(tiny_camvid, shallow_baseline, out), "--candidate", shallow_baseline, *timing)
    assert ended.code == 0, ended.err
    report, plain = (json.loads((out / name).read_text()) for name in ("int8_report.json", "report.json"))
    assert faults(report) == []
    rows = report["rows"]
    assert [(row["network"], row["runtime"], row["precision"]) for row in rows] == [
        (network, *form) for network in ("baseline", "candidate") for form in FORMS
    ]
    for before, single, int8 in (rows[:3], rows[3:]):
        network = plain[before["network"]]
        assert (before["quality"], before["bytes_on_disk"]) == (network["quality"], network["bytes_on_disk"])
        # Logits within 1e-4 of each other choose the same classes but for a few pixels.
        assert abs(single["miou_points"]) < 0.2
        assert int8["miou_points"] == pytest.approx(100 * (int8["quality"]["miou"] - before["quality"]["miou"]))
        assert (
            (out / f"{before['network']}_int8.onnx").stat().st_size == int8["bytes_on_disk"] < single["bytes_on_disk"]
        )
    assert report["calibration"] == {"images": 4, "seed": 0}
    for measured, batch in ((report["latency"], 1), (report["latency"]["throughput"], 2)):
        assert measured["batch"] == batch
        assert [found["precision"] for found in measured["networks"].values()] == 2 * ["float32", "float32", "int8"]
    assert "int8 beside float32, test of camvid" in ended.out and "ranges of 4 training images" in ended.out
    assert f"fastest of the candidate within a point of mIoU: {report['best']['candidate']}" in ended.out


def row(form: str, points: float, size: int) -> dict[str, Any]:
    return {"network": "n", "runtime": form, "precision": "p", "miou_points": points, "bytes_on_disk": size}


def test_the_best_form_is_the_fastest_that_keeps_the_score() -> None:
    rows = [row("a", 0.0, 9), row("b", -1.0, 5), row("c", -1.1, 3)]
    # Of the candidates' own, and none of another network's.
    rows.append({**row("d", 0.0, 1), "network": "other"})
    assert best(rows, {"n, a, p": 1.0, "n, b, p": 2.0, "n, c, p": 9.0}, "n") == "n, b, p"
    assert best(rows, None, "n") == "n, b, p"
    assert best(rows, None, "other") == "other, d, p"


def test_int8_has_one_mode(call, shallow_baseline: Path, tmp_path: Path) -> None:
    ended = call(*command(tmp_path, shallow_baseline, tmp_path), "--latency-amp", "bf16")
    assert ended.code == 2
    assert "--int8 times networks in their own precision; leave --latency-amp out" in ended.err


def test_a_package_that_is_missing_is_named_before_any_work(
    call, tiny_camvid: Path, shallow_baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ended = call(*command(tiny_camvid, shallow_baseline, tmp_path / "out"))
    (line,) = ended.err.splitlines()
    assert ended.code == 1
    assert "int8 needs the package onnxruntime, which is not installed; pip install -r requirements-export.txt" in line
    assert not (tmp_path / "out").exists()
