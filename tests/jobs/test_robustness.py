"""Networks under corruptions: in the reports, the rows and the tables of every command that scores them, once each."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from records import faults

from bench.datasets.corruptions import SEVERITIES, Corruption
from bench.datasets.options import DataOptions
from bench.jobs import robustness
from bench.measure.baseline import Baseline
from bench.measure.options import ScoringOptions, TimingOptions
from bench.measure.robustness import score_corrupted
from bench.models.checkpoint import load_model, save_model
from bench.report.summary_record import CORRUPTED
from bench.system.files import read_json

SCORED = 3 * len(SEVERITIES) * 4  # severities x corruptions x images


@pytest.fixture
def corrupted(monkeypatch) -> list[tuple[str, int, int]]:
    """What is corrupted in this test: name, severity, number of the image."""
    seen, corrupt = [], Corruption.__call__

    def noted(self: Corruption, image: torch.Tensor, number: int) -> torch.Tensor:
        seen.append((self.name, self.severity, number))
        return corrupt(self, image, number)

    monkeypatch.setattr(Corruption, "__call__", noted)
    return seen


def test_networks_are_scored_together_as_alone(tiny_camvid, shallow_baseline, corrupted):
    data = DataOptions("camvid", str(tiny_camvid), num_workers=0)
    timing = TimingOptions(latency=False, latency_channels_last=False)
    baseline = Baseline(shallow_baseline, data, ScoringOptions(), timing, device=torch.device("cpu"))
    other = load_model(shallow_baseline).model
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    networks = [baseline.saved.model, other]
    both = score_corrupted(baseline, networks, [0.5, 0.0], "both")
    assert len(corrupted) == SCORED == len(set(corrupted)), "each image once for all networks"
    alone = score_corrupted(baseline, [other], [0.25], "one")
    assert alone[0] == {**both[1], "retention": alone[0]["miou"] / 0.25}
    assert both[1]["retention"] is None and both[0]["by_corruption"] != both[1]["by_corruption"]
    shares = both[0]["by_corruption"]
    assert {name: len(found) for name, found in shares.items()} == dict.fromkeys(SEVERITIES, 3)
    assert both[0]["miou"] == pytest.approx(statistics.fmean(share for found in shares.values() for share in found))
    assert both[0]["retention"] == pytest.approx(both[0]["miou"] / 0.5)


def test_a_command_holds_some_networks_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(robustness, "_MOST_BYTES", 100)
    networks = []
    for number, size in enumerate([60, 40, 1, 200, *[5] * 10]):
        (tmp_path / str(number)).write_bytes(bytes(size))
        networks.append(robustness._Network(tmp_path, tmp_path / str(number), tmp_path))
    sizes = [[network.model.stat().st_size for network in part] for part in robustness._parts(networks)]
    assert sizes == [[60, 40], [1], [200], [5] * 8, [5] * 2]


def test_every_command_scores_each_network_once(call, tiny_camvid, shallow_baseline, tmp_path, corrupted):
    out = tmp_path / "out"
    shared = ["--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0, "--baseline", shallow_baseline]
    shared += ["--no-latency", "--corruptions"]
    flags = [*shared, "--methods", "l1,random", "--ratios", 0.3, "--out-dir", out, "--calib-images", 2]

    def ran(script: str, *words: object, passes: int, code: int = 0) -> Any:
        corrupted.clear()
        done = call(script, *words)
        assert (done.code, len(corrupted)) == (code, passes * SCORED), done.err
        return done

    table = ran("benchmark.py", *flags, passes=1).out
    assert "corrupted" in table
    summary = read_json(out / "benchmark_summary.json")
    assert faults(summary) == []
    for row in summary["rows"]:
        report = read_json(out / row["folder"] / "report.json")
        assert faults(report) == []
        own, clean = report["robustness"]["candidate"], report["candidate"]["quality"]["miou"]
        assert row["miou_corrupted"] == own["miou"] and row["miou_fog"] == statistics.fmean(own["by_corruption"]["fog"])
        assert row["retention_corrupted"] == pytest.approx(own["miou"] / clean)
        assert row["baseline_miou_corrupted"] == summary["baseline"]["miou_corrupted"]
        assert report["robustness"]["baseline"]["miou"] == summary["baseline"]["miou_corrupted"]
    assert tuple(key for key in summary["rows"][0] if key in CORRUPTED) == CORRUPTED
    text = (out / "benchmark_summary.md").read_text()
    assert "mIoU corrupted" in text and "| method | target | corrupted | retention corrupted | noise | blur |" in text
    assert ",baseline_miou_corrupted,miou_corrupted," in (out / "benchmark_summary.csv").read_text()

    # From the records alone it is the same.
    assert call("benchmark.py", "--out-dir", out, "--report-only").code == 0
    rebuilt = read_json(out / "benchmark_summary.json")
    assert (rebuilt["baseline"], rebuilt["rows"]) == (summary["baseline"], summary["rows"])

    # What is done is not done again, with the option or without; a further network does not score the baseline again.
    ran("benchmark.py", *flags, passes=0)
    assert read_json(out / "benchmark_summary.json")["baseline"] == summary["baseline"]
    assert "miou_corrupted" in read_json(out / "benchmark_summary.json")["rows"][0]
    ran("benchmark.py", *flags, "--methods", "l2", passes=1)

    # Fine-tuning makes a network of its own.
    tuned = ["--benchmark-dir", out, "--finetune-epochs", 1, "--batch-size", 4, "--methods", "l1"]
    ran("finetune_batch.py", *shared, *tuned, passes=1)
    (first,) = (row for row in read_json(out / "finetuned_summary.json")["rows"] if row["method"] == "l1")
    report = read_json(out / first["folder"] / "finetuned_report.json")
    assert faults(report) == [] and first["miou_corrupted"] == report["robustness"]["candidate"]["miou"]

    # eval.py finds the same.
    pruned = out / first["folder"]
    ran("eval.py", *shared, "--candidate", pruned / "pruned_model.pt", "--report", tmp_path / "r.json", passes=1)
    alone = read_json(tmp_path / "r.json")
    assert faults(alone) == []
    assert alone["robustness"] == read_json(pruned / "report.json")["robustness"]
    assert "Under corruptions" in (tmp_path / "r.html").read_text()
    ran("eval.py", *shared, "--report", tmp_path / "r.json", "--no-html", passes=1)
    assert read_json(tmp_path / "r.json")["robustness"] == {**alone["robustness"], "candidate": None}


def broken(path: Path) -> None:
    saved = load_model(path)
    with torch.no_grad():
        for parameter in saved.model.parameters():
            parameter.fill_(1e30)
    save_model(path, saved)


def test_a_network_that_cannot_be_scored_costs_no_other(call, tiny_camvid, shallow_baseline, tmp_path):
    out = tmp_path / "out"
    flags = ["--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0, "--baseline", shallow_baseline]
    flags += ["--no-latency", "--methods", "l1,random", "--ratios", 0.3, "--out-dir", out]
    assert call("benchmark.py", *flags).code == 0
    (bad,) = out.glob("random_*")
    whole = (bad / "pruned_model.pt").read_bytes()
    broken(bad / "pruned_model.pt")
    done = call("benchmark.py", *flags, "--corruptions")
    assert done.code == 1 and "1 of 2 jobs failed" in done.err and "the network's output is nan or inf" in done.err
    rows = {row["method"]: row for row in read_json(out / "benchmark_summary.json")["rows"]}
    assert rows["l1"]["miou_corrupted"] > 0 and rows["random"]["status"] == "failed"
    assert "nan or inf" in (bad / "failed").read_text() and "robustness" not in read_json(bad / "report.json")
    (bad / "pruned_model.pt").write_bytes(whole)
    assert call("benchmark.py", *flags, "--corruptions").code == 0
    assert not (bad / "failed").exists() and "robustness" in read_json(bad / "report.json")
