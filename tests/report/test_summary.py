"""Tables, summary files, plot and prediction pictures."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
import toy_networks as toys
from PIL import Image
from rich.console import Console

from bench.channels.groups import find_groups
from bench.datasets.base import Classes
from bench.errors import BenchError
from bench.report.comparison_rows import entries
from bench.report.console_tables import comparison_table, groups_table, pair_table
from bench.report.label_pictures import PANEL_WIDTH, prediction_picture, write_ids
from bench.report.method_looks import look_of
from bench.report.summary import write_summary
from bench.report.summary_columns import COLUMNS

BASELINE = {
    "model": "resnet18_seg",
    "dataset": "camvid",
    "split": "test",
    "input_size": [180, 240],
    "miou": 0.553,
}
PROVENANCE = {"command": "python benchmark.py --methods a,b", "torch": "2.13.0", "gpu": None}


def row(method: str, ratio: float, seed: int = 0, **changes) -> dict:
    return {
        "method": method,
        "ratio": ratio,
        "seed": seed,
        "status": "done",
        "error": None,
        "channel_ratio": ratio,
        "parameters": 1000,
        "parameters_kept": 1 - ratio,
        "macs": 5000,
        "macs_kept": (1 - ratio) ** 2,
        "miou_cut": 0.1,
        "miou_recalibrated": 0.3,
        "miou_finetuned": 0.5,
        "baseline_miou": 0.553,
        "split": "test",
        "baseline_latency_ms": 9.0,
        "latency_ms": 4.5,
        "speedup": 2.0,
        "speedup_low": 1.9,
        "speedup_high": 2.1,
        "seconds": 12.0,
        **changes,
    }


def failed(method: str, ratio: float, seed: int = 0, error: str = "out of channels | [red]") -> dict:
    return {"method": method, "ratio": ratio, "seed": seed, "status": "failed", "error": error, "seconds": 1.0}


def shown(baseline: dict, rows: list[dict], width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(comparison_table(baseline, rows))
    return capture.get()


def line_of(text: str, *starts: str) -> list[str]:
    """The words of the one line that starts like this."""
    (words,) = (words for words in map(str.split, text.splitlines()) if words[: len(starts)] == list(starts))
    return words


def markdown_lines(path) -> list[list[str]]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[text.strip() for text in line.replace("\\|", "¦").strip("|").split("|")] for line in lines]


def test_entries_keep_the_methods_order_and_sort_ratios():
    rows = [row("taylor", 0.5), row("l1", 0.1), row("taylor", 0.1, 0), row("taylor", 0.1, 1), failed("l1", 0.1, 1)]
    found = entries(rows)
    assert [(entry.method, entry.goal.value) for entry in found] == [("taylor", 0.1), ("taylor", 0.5), ("l1", 0.1)]
    assert [(len(entry.done), len(entry.failed)) for entry in found] == [(2, 0), (1, 0), (1, 1)]


def test_console_table_of_one_seed_fits_80_columns():
    text = shown(BASELINE, [row("l1_global", 0.125), row("random", 0.5, speedup_low=0.99)])
    assert line_of(text, "baseline") == ["baseline", "-", "100.0", "100.0", "55.3", "55.3", "55.3", "9.00", "-"]
    assert line_of(text, "l1_global") == ["l1_global", "0.125", "87.5", "76.6", "10.0", "30.0", "50.0", "4.50", "2.00x"]
    assert line_of(text, "random") == ["random", "0.5", "50.0", "25.0", "10.0", "30.0", "50.0", "4.50", "no", "diff."]
    assert "…" not in text
    assert "resnet18_seg on camvid, test, 180x240" in text


def test_console_table_of_several_seeds():
    text = shown(BASELINE, [row("l1", 0.5, seed, miou_finetuned=0.5 + 0.01 * seed) for seed in range(3)])
    assert line_of(text, "l1") == ["l1", "0.5", "50.0", "25.0", "10.0", "30.0", "51.0", "±", "1.0", "4.50", "2.00x"]
    assert "mean ± standard deviation over 3 seeds" in text


def measured(miou: float, macs: int, boundary: float | None = None) -> dict:
    quality = {
        "miou": miou,
        "miou_interval": [miou - 0.02, miou + 0.02],
        "pixel_accuracy": 0.9,
        "class_accuracy": 0.7,
        "frequency_weighted_iou": 0.8,
        "iou": {"sky": miou, "train": None},
        "boundary": None if boundary is None else {"width": 3, "f_score": boundary, "by_class": {}},
    }
    cost = {"parameters": 2_000_000, "nonzero_parameters": 2_000_000, "macs": macs, "state_bytes": 8_000_000}
    cost |= {"peak_activation_bytes": macs // 100, "thop_macs": 11 * macs // 10, "thop_note": "thop also counts this"}
    return {"quality": quality, "cost": cost, "bytes_on_disk": 8_100_000, "compressed_bytes": 7_400_000}


def pair_lines(interval: list[float] | None, **sides: dict | None) -> list[list[str]]:
    report = {
        **BASELINE,
        "model": {"name": "unet"},
        "candidate": None,
        "change": interval and {"miou_points_interval": interval},
        "latency": None,
        **sides,
    }
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(pair_table(report))
    return [line.split() for line in capture.get().splitlines()]


def test_a_pair_is_shown_with_the_interval_of_its_change():
    sides = {"baseline": measured(0.5, 10**9, 0.6), "candidate": measured(0.45, 5 * 10**8, 0.5)}
    lines = pair_lines([-7.0, -3.0], **sides)
    for words in (
        "mIoU % 50.00 45.00 -5.00",
        "95 % interval 48.00 to 52.00 43.00 to 47.00 -7.00 to -3.00",
        "boundary F-score % 60.00 50.00 -10.00",
        "IoU train - - -",
        "MACs G 1.000 0.500 -50.0 %",
        "by thop G 1.100 0.550 -50.0 %",
        "activations MB 10.000 5.000 -50.0 %",
        "MACs: thop also counts this (candidate)",
    ):
        assert words.split() in lines
    lines = pair_lines([-7.0, 0.5], **sides)
    words = "95 % interval 48.00 to 52.00 43.00 to 47.00 no measurable change (-7.00 to +0.50)"
    assert words.split() in lines


def test_a_baseline_alone_has_one_column():
    lines = pair_lines(None, baseline=measured(0.5, 10**9))
    assert ["baseline"] in lines
    for words in ("mIoU % 50.00", "95 % interval 48.00 to 52.00", "IoU sky 50.00", "MACs G 1.000"):
        assert words.split() in lines
    assert not any("boundary" in line for line in lines)


def test_predictions_are_written_as_ids_in_the_classes_colours(tmp_path):
    classes = Classes(("a", "b"), ((1, 2, 3), (40, 50, 60)), outputs=3, ignore_index=2)
    ids = np.array([[0, 1, 2], [2, 1, 0]])
    write_ids(tmp_path / "colour.png", ids, classes)
    write_ids(tmp_path / "grey.png", ids + 20)
    with Image.open(tmp_path / "colour.png") as picture:
        assert picture.mode == "P" and np.array(picture).tolist() == ids.tolist()
        assert np.array(picture.convert("RGB"))[0].tolist() == [[1, 2, 3], [40, 50, 60], [0, 0, 0]]
    with Image.open(tmp_path / "grey.png") as picture:
        assert picture.mode == "L" and np.array(picture).tolist() == (ids + 20).tolist()
    assert {path.name for path in tmp_path.iterdir()} == {"colour.png", "grey.png"}


def test_columns_that_were_not_measured_are_left_out():
    unmeasured = dict.fromkeys(("baseline_latency_ms", "latency_ms", "speedup", "miou_recalibrated", "miou_finetuned"))
    text = shown({**BASELINE, "miou": None}, [row("l1", 0.5, **unmeasured)])
    assert line_of(text, "l1") == ["l1", "0.5", "50.0", "25.0", "10.0"]
    assert line_of(text, "baseline") == ["baseline", "-", "100.0", "100.0", "55.3"]
    assert "latency" not in text


def test_goals_of_other_kinds_say_which():
    rows = [row("l1", 10_000_000, target="size"), row("l1", 0.5, target="macs"), row("l1", 0.25, target="macs")]
    rows += [row("l1", 12.5, target="milliseconds"), row("l1", 0.6, target="latency")]
    text = shown(BASELINE, [*rows, row("l1", 0.3), failed("l2", 0.5) | {"target": "params"}], width=100)
    lines = [line.split() for line in text.splitlines()]
    named = [words[1 : 2 + (words[1].isalpha())] for words in lines if words and words[0] in ("l1", "l2")]
    assert named == [
        ["0.3"],
        ["macs", "0.25"],
        ["macs", "0.5"],
        ["size", "10MB"],
        ["latency", "0.6"],
        ["latency", "12.5ms"],
        ["params", "0.5"],
    ]
    assert ["method", "target"] in [words[:2] for words in lines]
    assert "failed l2 at params 0.5, seed 0: out of channels" in text


def test_unstructured_rows_say_so_and_are_in_no_plot(tmp_path):
    sparse = row("magnitude", 0.5, target="sparsity", parameters_kept=1.0, macs_kept=1.0, nonzero_kept=0.5)
    text = shown(BASELINE, [row("random", 0.5), sparse])
    assert line_of(text, "magnitude")[:5] == ["magnitude", "sparsity", "0.5", "100.0", "100.0"]
    assert "Sparsity is unstructured" in text
    assert "…" not in text
    write_summary(tmp_path, BASELINE, [row("random", 0.5, nonzero_kept=0.25), sparse], {})
    header, _, baseline, control, line = markdown_lines(tmp_path / "benchmark_summary.md")[:5]
    column = header.index("non-zero %")
    assert [cells[column] for cells in (baseline, control, line)] == ["100.0", "25.0", "50.0"]
    assert (tmp_path / "benchmark_summary.png").is_file()
    # What keeps all MACs has no place on an axis of MACs.
    write_summary(tmp_path, BASELINE, [sparse], {})
    assert not (tmp_path / "benchmark_summary.png").exists()
    assert "unstructured" not in shown(BASELINE, [row("random", 0.5)])


def test_the_table_of_groups_names_all_producers_and_why_a_group_stays():
    groups = find_groups(toys.Residual(), protect_first=True)
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(groups_table(groups))
    text = capture.get()
    assert "6 groups; 24 channels of 4 may be pruned" in text
    assert line_of(text, "stem.0") == ["stem.0", "8", "4", "1", "first", "layer"]
    assert line_of(text, "inner1.0") == ["inner1.0", "6", "1", "1"]
    assert line_of(text, "head") == ["head", "4", "0", "1", "network", "output"]
    assert [line.strip() for line in text.splitlines() if line.startswith("+")] == ["+ outer1.0", "+ outer2.0"]


def test_failed_jobs_are_shown_with_their_reason():
    text = shown(BASELINE, [row("l1", 0.5), failed("l1", 0.5, 1), failed("papm", 0.3, 2)], width=100)
    assert line_of(text, "l1")[:6] == ["l1", "0.5", "1", "of", "2", "50.0"]
    assert line_of(text, "papm")[:7] == ["papm", "0.3", "0", "of", "1", "failed", "-"]
    assert "failed papm at 0.3, seed 2: out of channels | [red]" in text


def test_all_failed_still_makes_a_table_and_no_plot(tmp_path):
    (tmp_path / "benchmark_summary.png").write_text("left from before")
    write_summary(tmp_path, BASELINE, [failed("papm", 0.3)], PROVENANCE)
    assert not (tmp_path / "benchmark_summary.png").exists()
    assert "](benchmark_summary.png)" not in (tmp_path / "benchmark_summary.md").read_text()
    assert line_of(shown(BASELINE, [failed("papm", 0.3)]), "papm") == ["papm", "0.3", "failed", "-", "-"]


def test_json_and_csv_keep_raw_rows(tmp_path):
    rows = [row("l1", 0.5, 0, folder="l1_a"), row("l1", 0.5, 1, miou_cut=float("nan")), failed("l1", 0.7)]
    write_summary(tmp_path / "new", BASELINE, rows, PROVENANCE)
    record = json.loads((tmp_path / "new" / "benchmark_summary.json").read_text())
    assert list(record) == ["format", "baseline", "rows", "provenance"]
    assert record["format"] == "benchmark-summary/1"
    assert record["baseline"] == BASELINE
    assert record["provenance"] == PROVENANCE
    assert record["rows"] == [rows[0], {**rows[1], "miou_cut": None}, rows[2]]
    with (tmp_path / "new" / "benchmark_summary.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == [*COLUMNS, "folder"]
    assert not {"ratio", "target", "channel_ratio"} & set(COLUMNS)
    assert [(line["target_kind"], line["target_value"]) for line in table] == [
        ("channels", str(r)) for r in (0.5, 0.5, 0.7)
    ]
    assert [line["channels_removed"] for line in table] == ["0.5", "0.5", ""]
    told = {"model": "resnet18_seg", "dataset": "camvid", "input_size": "180x240", "split": "test"}
    assert all(line.items() >= told.items() for line in table)
    assert [line["status"] for line in table] == ["done", "done", "failed"]
    assert float(table[0]["miou_finetuned"]) == 0.5
    assert table[1]["miou_cut"] == table[2]["macs"] == ""
    assert table[2]["error"] == "out of channels | [red]"


def test_markdown_says_which_methods_beat_random(tmp_path):
    rows = [row("random", 0.5, seed, miou_finetuned=0.4) for seed in range(3)]
    rows += [row("l1", 0.5, seed, miou_finetuned=0.5 + 0.01 * seed, macs_kept=0.35) for seed in range(3)]
    write_summary(tmp_path, BASELINE, rows, PROVENANCE)
    text = (tmp_path / "benchmark_summary.md").read_text()
    assert "## Against random, after fine-tuning" in text
    # 10, 11 and 12 points ahead; the interval is 4.303 / sqrt(3). The stages before are alike, so not told apart.
    assert "| l1 | 0.5 | +11.0 ± 2.5 | ahead | +10.0 |" in text
    assert "| l1 | 0.5 | +0.0 ± 0.0 | not told apart | +10.0 |" in text
    write_summary(tmp_path, BASELINE, [line for line in rows if line["seed"] == 0], PROVENANCE)
    assert "Against random" not in (tmp_path / "benchmark_summary.md").read_text()


def test_markdown(tmp_path):
    rows = [row("l1", 0.5, seed, miou_cut=0.1 + 0.02 * seed, speedup=2 + seed / 10) for seed in range(2)]
    rows += [row("fpgm", 0.5), row("magnitude", 0.5, speedup=1.01, speedup_low=0.98, speedup_high=1.04)]
    rows += [row("random", 0.1, 0), row("random", 0.1, 1, speedup=1, speedup_low=0.9), failed("l2", 0.1)]
    write_summary(tmp_path, BASELINE, rows, PROVENANCE, name="finetuned_summary")
    header, _, *lines = markdown_lines(tmp_path / "finetuned_summary.md")
    table = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    assert list(table) == ["baseline", "l1", "fpgm", "magnitude", "random", "l2"]
    assert table["baseline"]["mIoU tuned"] == "55.3"
    assert table["l1"]["mIoU cut"] == "11.0 ± 1.4"
    assert table["l1"]["seeds"] == "2"
    assert table["l1"]["speed-up"] == "2.05 ± 0.07x"
    assert table["fpgm"]["speed-up"] == "2.00x (1.90-2.10)"
    assert table["magnitude"]["speed-up"] == "no measurable difference (0.98-1.04)"
    assert table["random"]["speed-up"] == "1.50 ± 0.71x, no measurable difference in 1 of 2"
    assert table["l2"]["params %"] == "failed"
    text = (tmp_path / "finetuned_summary.md").read_text()
    assert "* l2 at 0.1, seed 0: out of channels | [red]" in text
    assert "](finetuned_summary.png)" in text
    assert "* torch: 2.13.0" in text
    assert "gpu" not in text


def test_plot_is_a_readable_picture_and_the_same_each_time(tmp_path):
    rows = [row(method, ratio, seed) for method in ("l1", "random") for ratio in (0.1, 0.5) for seed in range(2)]
    plot = tmp_path / "benchmark_summary.png"
    write_summary(tmp_path, BASELINE, rows, PROVENANCE)
    first = plot.read_bytes()
    with Image.open(plot) as image:
        assert image.width >= 900
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels[0, 0] == 255).all()
    colours = {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}
    looks = [look_of(method).colour.lstrip("#") for method in ("l1", "random")]
    assert {tuple(bytes.fromhex(look)) for look in looks} <= colours
    write_summary(tmp_path, BASELINE, rows, PROVENANCE)
    assert plot.read_bytes() == first


def test_summary_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot write to"):
        write_summary(tmp_path / "file", BASELINE, [row("l1", 0.5)], PROVENANCE)


TWO = Classes(names=("sky", "road"), palette=((10, 20, 200), (200, 100, 50)), outputs=3, ignore_index=2)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_prediction_picture_shows_the_maps_in_the_classes_colours(tmp_path, convert):
    image = np.zeros((3, 12, 16), dtype=np.uint8)
    image[1] = 255
    label = np.zeros((12, 16), dtype=np.uint8)
    label[6:] = 1
    label[:, 12:] = 2
    prediction = np.ones((12, 16), dtype=np.int64)
    prediction[:, 8:] = 255
    maps = {"label": convert(label), "taylor at 0.3": convert(prediction)}
    prediction_picture(tmp_path / "picture.png", convert(image), maps, TWO)
    with Image.open(tmp_path / "picture.png") as picture:
        pixels = np.asarray(picture)
    height = PANEL_WIDTH * 12 // 16

    def panel(position: int) -> np.ndarray:
        left = 12 + position * (PANEL_WIDTH + 12)
        return pixels[35 : 35 + height, left : left + PANEL_WIDTH]

    assert (panel(0) == (0, 255, 0)).all()
    assert (panel(1)[: height // 2, : PANEL_WIDTH * 12 // 16] == TWO.palette[0]).all()
    assert (panel(1)[height // 2 :, : PANEL_WIDTH * 12 // 16] == TWO.palette[1]).all()
    assert (panel(1)[:, PANEL_WIDTH * 12 // 16 :] == 0).all()
    assert (panel(2)[:, : PANEL_WIDTH // 2] == TWO.palette[1]).all()
    assert (panel(2)[:, PANEL_WIDTH // 2 :] == 0).all()
    # Below the panels, the legend: both classes and black.
    legend = {tuple(colour) for colour in np.unique(pixels[35 + height + 12 :].reshape(-1, 3), axis=0).tolist()}
    assert {*TWO.palette, (0, 0, 0)} <= legend


def test_prediction_picture_wraps_panels_and_shortens_captions(tmp_path):
    image = np.zeros((3, 5, 9), dtype=np.uint8)
    maps = {f"{number} " + "long " * 50: np.zeros((5, 9), dtype=np.uint8) for number in range(4)}
    prediction_picture(tmp_path / "wide.png", image, maps, TWO)
    prediction_picture(tmp_path / "single.png", image, {}, TWO)
    with Image.open(tmp_path / "wide.png") as wide, Image.open(tmp_path / "single.png") as single:
        assert wide.width == 12 + 3 * (PANEL_WIDTH + 12)
        assert single.width == 12 + PANEL_WIDTH + 12
        assert wide.height > 2 * (single.height - 12)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "right after the cut, after recalibration, after fine-tuning"),
        ({"miou_finetuned": None, "miou_repaired": 0.4}, "right after the cut, after recalibration, after repair"),
        ({"miou_finetuned": None, "miou_recalibrated": None}, "right after the cut"),
    ],
)
def test_the_text_names_the_stages_that_were_measured(tmp_path, changes: dict, said: str) -> None:
    write_summary(tmp_path, BASELINE, [row("taylor", 0.5, **changes)], PROVENANCE)
    text = (tmp_path / "benchmark_summary.md").read_text(encoding="utf-8")
    assert f"over the whole split: {said}. Parameters" in text
