"""Summary and page from the records in a benchmark's folder alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fabricated_records import DENSE_MIOU, benchmark, finished_job
from records import faults

from bench.commands.benchmark import main
from bench.errors import BenchError, UsageError
from bench.leaderboard.rebuilding import rebuild


@pytest.fixture
def out(tmp_path) -> Path:
    return benchmark(tmp_path / "out", ("l1", "taylor"), (0.5,), (0, 1))


def summary(out: Path, name: str = "benchmark_summary") -> dict[str, Any]:
    return json.loads((out / f"{name}.json").read_text())


def test_a_folder_without_a_summary_has_one_again(out, capsys):
    main(["--out-dir", str(out), "--report-only"])
    assert "leaderboard.html" in capsys.readouterr().out
    found = summary(out)
    assert found["baseline"]["miou"] == DENSE_MIOU and found["baseline"]["data_fingerprint"] == "0011223344556677"
    assert [(row["method"], row["seed"]) for row in found["rows"]] == [
        ("l1", 0),
        ("l1", 1),
        ("taylor", 0),
        ("taylor", 1),
    ]
    assert all(row["miou_finetuned"] > row["miou_cut"] and row["speedup"] == 2 for row in found["rows"])
    endings = {path.suffix for path in out.glob("benchmark_summary.*")}
    assert endings == {".json", ".csv", ".md", ".tex", ".png", ".svg"}
    # A second time nothing changes.
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    rebuild(out)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_rows_follow_their_folders_and_nothing_is_lost(out):
    rebuild(out)
    gone, failed, tuned = (next(out.glob(pattern)) for pattern in ("l1_*_s0_*", "l1_*_s1_*", "taylor_*_s0_*"))
    before = {row["folder"]: row for row in summary(out)["rows"]}
    shutil.rmtree(gone)
    (failed / "failed").write_text("no memory\nTraceback ...\n")
    (tuned / "finetuned_model.pt").unlink()
    finished_job(out, "random", 0.5, 0, 0.4)
    rows = {row["folder"]: row for row in rebuild(out)["rows"]}
    assert rows[gone.name] == before[gone.name], "the summary is the only record there is"
    assert (rows[failed.name]["status"], rows[failed.name]["error"]) == ("failed", "no memory")
    assert rows[tuned.name]["miou_finetuned"] is None
    assert len(rows) == 5 and any(row["method"] == "random" for row in rows.values())
    assert faults(summary(out)) == []


def test_what_does_not_compare_is_left_out_and_counted(out, capsys):
    rebuild(out)
    other = finished_job(out, "random", 0.5, 0, 0.4)
    report = json.loads((other / "report.json").read_text())
    for key, value in (("split", "val"), ("input_size", [48, 64])):
        (other / "report.json").write_text(json.dumps(report | {key: value}))
        assert len(rebuild(out)["rows"]) == 4
        assert "1 of 1 further jobs are left out" in capsys.readouterr().out
    report["latency"]["threads"] = 8
    (other / "report.json").write_text(json.dumps(report))
    assert [row["speedup"] for row in rebuild(out)["rows"]] == [2, 2, 2, 2, None]
    assert "the latency of 1 jobs is left out" in capsys.readouterr().out


def test_damaged_and_unfinished_jobs_are_said(out, capsys):
    one, other = sorted(out.iterdir())[:2]
    (one / "report.json").write_text("{")
    (other / "done").unlink()
    assert len(rebuild(out)["rows"]) == 2
    said = capsys.readouterr().out
    assert f"records are damaged: {one.name}" in said and f"the first is {other.name}" in said


def test_where_there_are_no_records_one_line_says_so(tmp_path):
    with pytest.raises(BenchError, match="holds neither a finished job nor a benchmark_summary"):
        rebuild(tmp_path)
    with pytest.raises(BenchError, match="is not a folder"):
        rebuild(tmp_path / "gone")
    with pytest.raises(UsageError, match="--out-dir is missing"):
        main(["--report-only"])
