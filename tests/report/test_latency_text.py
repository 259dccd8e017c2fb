"""Printed latencies and printed speed-ups say the same: on the console, in every file, on the page."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from toy_latency import timed

from bench.datasets.camvid import CamVid
from bench.measure.evaluation_report import layers_of
from bench.measure.latency_report import LatencyReport
from bench.report.comparison_text import comparison_lines
from bench.report.console_tables import comparison_table, layers_table, pair_table
from bench.report.html_page import html_page
from bench.report.latency_text import agreeing_texts, comparison_conditions, latency_lines
from bench.report.summary import write_summary
from bench.report.text import pruning_lines
from bench.system.files import plain

BASELINE = {"model": "unet", "dataset": "camvid", "split": "test", "input_size": [96, 128], "miou": 0.5}
HOW = {
    "latency_format": "channels_last",
    "latency_precision": "float32",
    "latency_compiled": False,
    "latency_threads": 2,
    "latency_device": "a processor",
}
CONDITIONS = "latency: 96x128, float32, channels_last, a processor, 2 CPU threads"


def drifting(speedup: float, baseline_ms: float, drift: float) -> LatencyReport:
    """A report whose candidate was timed while the machine was slower: the medians' quotient is not the speed-up."""
    record = plain(timed(1 / speedup, baseline_ms))
    candidate = record["networks"]["candidate"]
    for name in ("median_ms", "p10_ms", "p90_ms"):
        candidate[name] *= drift
    for network in record["networks"].values():
        network |= {"fps": 1000 / network["median_ms"], "pixels_per_second": 12288e3 / network["median_ms"]}
        network["times_ms"] = [network["median_ms"]] * 10
    return LatencyReport.of_record(record)


def rows(count: int, *, scale: float = 1.0, seeds: int = 1) -> list[dict[str, Any]]:
    """What jobs say that were timed at different moments."""
    drawn = random.Random(count)
    found = []
    for number in range(count):
        for seed in range(seeds):
            speedup, baseline_ms = drawn.uniform(0.8, 12), scale * drawn.uniform(9, 60)
            found.append(
                {
                    "method": f"method{number}",
                    "ratio": 0.5,
                    "seed": seed,
                    "status": "done",
                    "error": None,
                    "parameters_kept": 0.5,
                    "macs_kept": 0.5,
                    "miou_cut": 0.4,
                    "baseline_latency_ms": baseline_ms,
                    "latency_ms": baseline_ms / speedup * drawn.uniform(0.9, 1.1),
                    "speedup": speedup,
                    "speedup_low": 0.98 * speedup,
                    "speedup_high": 1.02 * speedup,
                    "seconds": 1.0,
                    **HOW,
                }
            )
    return found


def checked(baseline_ms: str, pairs: list[tuple[str, str]]) -> int:
    """How many of (milliseconds, speed-up) say one; each quotient must round to it."""
    known = [(ms, re.match(r"(\d+\.\d\d)(?:x| ±)", speedup)) for ms, speedup in pairs]
    for ms, found in known:
        assert found is None or f"{float(baseline_ms) / float(ms):.2f}" == found[1], (baseline_ms, ms, found)
    return sum(found is not None for _, found in known)


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("full", [False, True])
def test_every_row_of_a_comparison(scale, seeds, full):
    compared = rows(40, scale=scale, seeds=seeds)
    header, lines = comparison_lines(BASELINE, compared, full=full)
    columns = [header.index(name) for name in ("latency ms", "speed-up")]
    baseline, *others = [[line[column] for column in columns] for line in lines]
    assert checked(baseline[0], [tuple(pair) for pair in others]) >= 35
    # Two digits do where they can.
    assert scale < 10 or all(re.fullmatch(r"\d+\.\d\d", ms) for ms, _ in others)


def test_a_rate_agrees_too_and_no_number_is_nothing():
    for ratio in (1.0449, 2.7551, 11.117):
        slow, fast = map(float, agreeing_texts(18.63, [ratio], 1, rates=True))
        assert f"{fast / slow:.2f}" == f"{ratio:.2f}"
    assert agreeing_texts(53.25, [1.0449, 2.0], 2) == ["53.25", "50.96", "26.62"]
    assert "0.00" not in agreeing_texts(0.012, [9.0], 2)


def test_all_files_of_a_summary_show_the_same_and_the_json_what_was_measured(tmp_path):
    compared = rows(5)
    write_summary(tmp_path, BASELINE, compared, {})
    kept = json.loads((tmp_path / "benchmark_summary.json").read_text())["rows"]
    assert [(row["baseline_latency_ms"], row["latency_ms"]) for row in kept] == [
        (row["baseline_latency_ms"], row["latency_ms"]) for row in compared
    ]
    with (tmp_path / "benchmark_summary.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    _, lines = comparison_lines(BASELINE, compared, full=True)
    median = sorted(row["baseline_latency_ms"] for row in compared)[2]
    for row, line in zip(table, lines[1:], strict=True):
        assert float(row["baseline_latency_ms"]) == pytest.approx(median)
        assert float(row["baseline_latency_ms"]) / float(row["latency_ms"]) == pytest.approx(float(row["speedup"]))
        assert float(row["latency_ms"]) == pytest.approx(float(line[-2]), rel=1e-3)
        assert {name: row[name] for name in HOW} == {name: str(value) for name, value in HOW.items()}
    text = (tmp_path / "benchmark_summary.md").read_text()
    assert f"* {CONDITIONS}\n" in text and all(f"| {line[-2]} |" in text for line in lines)


def shown(table: Any) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def words(table: Any) -> str:
    """What a table says, however its lines are broken."""
    return " ".join(shown(table).split())


def test_the_console_names_how_latencies_were_measured():
    compared = rows(3)
    assert words(comparison_table(BASELINE, compared)).endswith(CONDITIONS)
    # Untimed rows, and those of summaries that do not say it, have no such line; other ways have their own.
    assert comparison_conditions(BASELINE, [{**compared[0], "speedup": None}, {"speedup": 2.0}]) == []
    other = {**compared[1], "latency_format": "contiguous", "latency_compiled": True, "latency_threads": 1}
    assert comparison_conditions(BASELINE, [*compared, other]) == [
        CONDITIONS,
        "latency: 96x128, float32, contiguous, torch.compile, a processor, 1 CPU thread",
    ]
    assert "latency" not in shown(comparison_table(BASELINE, [{**row, "speedup": None} for row in compared]))


def side(miou: float) -> dict[str, Any]:
    quality = {"miou": miou, "miou_interval": None, "iou": {"sky": miou}, "boundary": None}
    quality |= dict.fromkeys(("pixel_accuracy", "class_accuracy", "frequency_weighted_iou"), 0.9)
    cost = dict.fromkeys(("parameters", "nonzero_parameters", "macs", "thop_macs", "state_bytes"), 10**6)
    cost |= {"peak_activation_bytes": 10**6, "thop_note": "thop counts the same"}
    files = {"path": "a.pt", "sha256": "0" * 64, "bytes_on_disk": 10**6, "compressed_bytes": 10**6}
    return {**files, "quality": quality, "cost": cost, "pruning": [], "widths": {"stem": 8}}


def pair(latency: LatencyReport) -> dict[str, Any]:
    changes = ("parameters", "nonzero_parameters", "macs", "flops", "state_bytes", "peak_activation_bytes")
    layer = {"layer": "stem", "kind": "Conv2d", "weight_before": [8], "weight_after": [4]}
    layer |= {"macs_before": 2, "macs_after": 1, "ms_before": 1.0, "ms_after": 0.5}
    return {
        **BASELINE,
        "format": "evaluation-report/1",
        "model": {"name": "unet"},
        "scoring": {},
        "baseline": side(0.5),
        "candidate": side(0.4),
        "change": {"miou_points": -10.0, "miou_points_interval": None} | {f"{name}_percent": -1.0 for name in changes},
        "latency": plain(latency),
        "layers": [layer],
        "layers_timed": {"precision": "int4", "memory_format": "contiguous", "device": "an abacus", "threads": 3},
        "provenance": {},
    }


@pytest.mark.parametrize(("speedup", "baseline_ms"), [(1.0751, 53.25), (1.1851, 18.46), (2.7551, 0.91), (0.8649, 7.3)])
def test_a_pair_on_the_console_on_the_page_and_in_lines(speedup, baseline_ms):
    latency = drifting(speedup, baseline_ms, drift=1.12)
    medians = [network.median_ms for network in latency.networks.values()]
    printed = latency.networks["candidate"].speedup_text()
    assert f"{medians[0] / medians[1]:.2f}x" not in printed
    report = pair(latency)
    (line,) = (line.split() for line in shown(pair_table(report)).splitlines() if "latency ms" in line)
    assert checked(line[2], [(line[3], line[4])]) == 1
    page = html_page(report, None, CamVid.classes)
    tiles = re.findall(r"<b>([\d.]+) → ([\d.]+) ms</b>.*?>([^<]*)</span>", page)
    cells = re.findall(r"latency ms</th><td>([\d.]+)</td><td>([\d.]+)</td><td>([^<]*)</td>", page)
    assert len(tiles) == len(cells) == 1
    for before, after, text in tiles + cells:
        assert (text, checked(before, [(after, text)])) == (printed, 1)
    line = pruning_lines(PRUNED, latency)[-2]
    before, after, text = re.search(r"latency ([\d.]+) -> ([\d.]+) ms, (.*?); ", line).groups()
    assert (text, checked(before, [(after, text)])) == (printed, 1)
    assert line.endswith("; float32, contiguous, here, 1 CPU thread")


PRUNED = {
    "method": "l1",
    "plan": {"channel_ratio": 0.5},
    "cost": {
        "before": {"parameters": 2},
        "after": {"parameters": 1, "state_bytes": 4},
        "change": {"parameters_percent": -50.0, "macs_percent": -50.0},
    },
    "target": {"within": None},
    "sparsity": None,
    "quality": {"split": "test"},
    "saved_model": "pruned_model.pt",
}


def test_rates_of_a_pair_agree():
    latency = drifting(1.3751, 21.7, drift=0.9)
    for line in latency_lines(latency):
        before, after = map(float, line[1:3])
        quotient = before / after if line[0] == "latency ms" else after / before
        assert f"{quotient:.2f}" == "1.38"


def test_tables_of_layers_name_how_they_were_timed():
    report = pair(drifting(2.0, 20.0, drift=1.0))
    page = html_page(report, None, CamVid.classes)
    how = "Times: int4, contiguous, an abacus, 3 CPU threads."
    assert how in page
    assert words(layers_table(layers_of(report), report["layers_timed"])).endswith(how)
    del report["layers_timed"]
    assert "Times: " not in html_page(report, None, CamVid.classes)
    assert "Times: " not in shown(layers_table(layers_of(report)))


def test_the_page_names_both_formats_of_a_report_of_the_time_before():
    report = pair(drifting(2.0, 20.0, drift=1.0))
    report["latency"]["networks"]["candidate"]["memory_format"] = "channels_last"
    assert "<td>contiguous and channels_last</td>" in html_page(report, None, CamVid.classes)


def test_prune_prints_what_it_measured(call, tiny_camvid: Path, shallow_baseline: Path, tmp_path: Path) -> None:
    ended = call(
        "prune.py", "--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0, "--threads", 1,
        "--device", "cpu", "--ckpt", shallow_baseline, "--method", "l1", "--global-ratio", 0.5, "--save", tmp_path,
        "--recalibration-images", 2, "--latency-warmup", 0, "--latency-runs", 10, "--no-latency-channels-last",
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    latency = LatencyReport.of_record(json.loads((tmp_path / "report.json").read_text())["latency"])
    speedup = latency.networks["candidate"].speedup_text()
    (line,) = (line for line in ended.out.splitlines() if line.startswith("latency "))
    assert line.endswith(f" ms, {speedup}; float32, contiguous, {latency.device}, 1 CPU thread")
