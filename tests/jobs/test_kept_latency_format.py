"""The memory format of a folder's latencies: chosen once, kept, and found again in folders that do not say it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from records import faults
from scripts import Outcome
from toy_latency import formats_take

from bench.datasets.options import DataOptions
from bench.jobs.latency_format import settle_format
from bench.measure.baseline import Baseline
from bench.measure.options import ScoringOptions, TimingOptions

CPU = torch.device("cpu")
FILE = "latency_format.json"


@pytest.fixture
def opened(tiny_camvid: Path, shallow_baseline: Path) -> Callable[..., Baseline]:
    """Opens the baseline with options of timing."""
    data = DataOptions("camvid", str(tiny_camvid), num_workers=0)
    return lambda **timing: Baseline(shallow_baseline, data, ScoringOptions(), TimingOptions(**timing), device=CPU)


def done(folder: Path, baseline: Baseline, *formats: str, **mode: object) -> None:
    """Writes what a job that is done leaves of its latency."""
    folder.mkdir(parents=True)
    mode = {"amp": "none", "channels_last": False, "compiled": False, "throughput_batch": 0, **mode}
    same = dict.fromkeys(("median_ms", "p10_ms", "p90_ms", "fps", "pixels_per_second"), 1.0) | {"precision": "float32"}
    networks = {
        name: {**same, "memory_format": text} for name, text in zip(("baseline", "candidate"), formats, strict=True)
    }
    conditions = {"batch": 1, "rounds": 10, "warmup": 3, "device": "elsewhere", "threads": 8, "mode": mode}
    latency = {"networks": networks, "input_size": [48, 64], **conditions}
    (folder / "report.json").write_text(json.dumps({"baseline": {"sha256": baseline.digest}, "latency": latency}))
    for name in ("pruning_info.json", "done"):
        (folder / name).write_text("{}")


def test_a_format_that_was_asked_for_holds(opened, monkeypatch, tmp_path):
    asked = formats_take(monkeypatch, 10.0, 5.0)
    for wanted in (True, False):
        baseline = opened(latency_channels_last=wanted)
        settle_format(baseline, tmp_path)
        assert baseline.mode.channels_last == wanted
    assert asked == [] and list(tmp_path.iterdir()) == []


def test_without_a_folder_it_is_measured_once(opened, monkeypatch):
    asked = formats_take(monkeypatch, 10.0, 5.0)
    baseline = opened(latency_amp="bf16", latency_runs=12)
    assert asked == [], "what times nothing has no use for it"
    assert baseline.mode.channels_last and baseline.mode is baseline.mode
    ((size, settings),) = asked
    assert size == (48, 64)
    assert (settings["mode"].amp, settings["effort"].runs) == ("bf16", 12)


def test_it_is_kept_for_all_that_comes_later_under_the_same_conditions(opened, monkeypatch, tmp_path):
    asked = formats_take(monkeypatch, 10.0, 5.0)
    for _ in range(2):
        baseline = opened()
        settle_format(baseline, tmp_path)
        assert baseline.mode.channels_last
    assert len(asked) == 1
    formats_take(monkeypatch, 5.0, 10.0)
    # Another precision, other threads, another device, another size of the images: another choice.
    half = opened(latency_amp="bf16")
    settle_format(half, tmp_path)
    assert not half.mode.channels_last
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    threads = opened()
    settle_format(threads, tmp_path)
    assert not threads.mode.channels_last
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["format"] == "latency-format/1"
    assert [choice["memory_format"] for choice in kept["choices"]] == ["channels_last", "contiguous", "contiguous"]
    assert faults(kept) == []
    names = ["baseline", "device", "threads", "input_size", "amp", "compiled"]
    assert all(list(choice["conditions"]) == names for choice in kept["choices"])


def test_a_damaged_file_is_written_anew(opened, monkeypatch, tmp_path):
    formats_take(monkeypatch, 10.0, 5.0)
    (tmp_path / FILE).write_text('{"format": "latency-fo')
    baseline = opened()
    settle_format(baseline, tmp_path)
    assert baseline.mode.channels_last
    assert len(json.loads((tmp_path / FILE).read_text())["choices"]) == 1


@pytest.mark.parametrize("before", ["contiguous", "channels_last"])
def test_a_folder_of_the_time_before_goes_on_in_its_jobs_format(opened, monkeypatch, tmp_path, before):
    asked = formats_take(monkeypatch, 10.0, 5.0 if before == "contiguous" else 20.0)
    baseline = opened()
    for name in "ab":
        done(tmp_path / name, baseline, before, before)
    # Neither another mode's latencies nor a job without a report that can be read say anything.
    done(tmp_path / "c", baseline, "contiguous", "channels_last", amp="bf16")
    done(tmp_path / "d", baseline, "contiguous", "contiguous")
    (tmp_path / "d" / "report.json").write_text("{")
    settle_format(baseline, tmp_path)
    assert baseline.mode.memory_format == before
    assert asked == [] and not (tmp_path / FILE).exists()


def test_where_jobs_disagree_it_is_measured(opened, monkeypatch, tmp_path):
    asked = formats_take(monkeypatch, 10.0, 5.0)
    baseline = opened()
    done(tmp_path / "a", baseline, "contiguous", "channels_last")
    settle_format(baseline, tmp_path)
    assert baseline.mode.channels_last and len(asked) == 1


def test_benchmark_and_finetune_batch_use_the_same(call, tiny_camvid, shallow_baseline, monkeypatch, tmp_path):
    formats_take(monkeypatch, 10.0, 5.0)
    data = ["--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0, "--device", "cpu", "--threads", 1]
    quick = ["--latency-warmup", 0, "--latency-runs", 10, "--baseline", shallow_baseline]
    little = ["--calib-images", 2, "--recalibration-images", 2]
    grid = ["--methods", "l1", "--ratios", 0.3, "--out-dir", tmp_path]

    def compared(script: str, *flags: object) -> Outcome:
        ended = call(script, *data, *quick, *flags)
        assert (ended.code, ended.err) == (0, "")
        return ended

    ended = compared("benchmark.py", "--model", "unet_small", *little, *grid)
    assert "latency is measured channels last: the dense network takes 10.00 ms contiguous" in ended.out
    formats_take(monkeypatch, 5.0, 10.0)
    (report,) = tmp_path.glob("*/report.json")
    written = report.read_bytes()
    ended = compared("finetune_batch.py", "--benchmark-dir", tmp_path, "--finetune-epochs", 1, "--batch-size", 2)
    assert "latency is measured channels last, as in this folder before" in ended.out
    assert report.read_bytes() == written, "what was timed in that format is not timed again"
    for record in (report, report.with_name("finetuned_report.json")):
        networks = json.loads(record.read_text())["latency"]["networks"].values()
        assert [network["memory_format"] for network in networks] == ["channels_last"] * 2
