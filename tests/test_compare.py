"""Several benchmarks in one table and one plot: `python -m bench.compare`."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from scripts import Outcome, run_script

from bench.jobs.side_by_side import ENDINGS

BEFORE = Path(__file__).parent / "fixtures" / "version_before" / "benchmark"


def row(method: str, ratio: float = 0.3, **changes: Any) -> dict[str, Any]:
    told = {"method": method, "ratio": ratio, "target": "channels", "target_kind": "channels", "target_value": ratio}
    done = {"seed": 0, "status": "done", "error": None, "folder": f"{method}_{ratio}", "seconds": 1.0}
    kept = {"channels_removed": ratio, "parameters_kept": 1 - ratio, "macs_kept": 1 - ratio, "method_options": {}}
    timed = {"baseline_latency_ms": 9.0, "latency_ms": 4.5, "speedup": 2.0, "speedup_low": 1.9, "speedup_high": 2.1}
    return {**told, **done, **kept, **timed, "miou_cut": 0.25, "finetune_epochs": None, **changes}


def benchmark(folder: Path, *rows: dict[str, Any], name: str = "benchmark", made: dict | None = None, **changes: Any):
    """Writes the summary of a benchmark; returns its folder."""
    baseline = {"model": "unet", "dataset": "camvid", "split": "test", "input_size": [48, 64], "miou": 0.5}
    made = {"processor": "a processor", "time": "2026-01-01T00:00:00+00:00"} | (made or {})
    record = {"format": "benchmark-summary/1", "baseline": baseline | changes, "rows": rows, "provenance": made}
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{name}_summary.json").write_text(json.dumps(record))
    return folder


def compare(tmp_path: Path, *words: object) -> Outcome:
    return run_script("bench.compare", *words, "--out", tmp_path / "both")


def table(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "both.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_of_other_networks_data_and_sizes_are_told_apart(tmp_path):
    first = benchmark(tmp_path / "a", row("l1"), row("taylor", method_options={"term": "gate"}))
    second = benchmark(
        tmp_path / "b", row("l1", 0.5, target="macs", target_kind="macs"), model="segnet", input_size=[96, 128]
    )
    done = compare(tmp_path, first, second)
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert ["A", "l1", "0.3", "70.0", "70.0", "25.0", "4.50", "2.00x"] in lines
    assert ["B", "l1", "macs", "0.5", "50.0", "50.0", "25.0", "4.50", "2.00x"] in lines
    assert f"A = {first}: Pruning unet on camvid, test, 48x64" in done.out
    keys = (
        "benchmark",
        "model",
        "dataset",
        "input_size",
        "split",
        "method",
        "method_options",
        "target_kind",
        "target_value",
    )
    assert [tuple(line[key] for key in keys) for line in table(tmp_path)] == [
        (str(first), "unet", "camvid", "48x64", "test", "l1", "{}", "channels", "0.3"),
        (str(first), "unet", "camvid", "48x64", "test", "taylor", '{"term": "gate"}', "channels", "0.3"),
        (str(second), "segnet", "camvid", "96x128", "test", "l1", "{}", "macs", "0.5"),
    ]
    assert not {"ratio", "target"} & table(tmp_path)[0].keys()
    text = (tmp_path / "both.md").read_text()
    page = (tmp_path / "both.html").read_text()
    assert '"network":' not in page and '"model":"segnet"' in page and f'"path":"{first}"' in page
    assert "| B | segnet | 96x128 | l1 | macs 0.5 |" in text and "![mIoU against cost](both.png)" in text
    assert "not all of these compare, they differ in input size (A: 48x64; B: 96x128)" in done.out
    with Image.open(tmp_path / "both.png") as picture:
        assert picture.width > picture.height > 900, "a row of two panels for each"
    drawing = ElementTree.parse(tmp_path / "both.svg").getroot()
    texts = ["".join(part.itertext()) for part in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("l1") == 1, "one legend, in which a method stands once"
    assert {"Pruning unet on camvid, test, 48x64", "Pruning segnet on camvid, test, 96x128"} <= set(texts)


def test_benchmarks_of_the_same_data_share_their_panels(tmp_path):
    folders = [benchmark(tmp_path / name / "out", row("l1", 0.3), row("l1", 0.5)) for name in ("first", "second")]
    done = compare(tmp_path, *folders, folders[0])
    assert "not all of these compare" not in done.out and "C =" not in done.out
    texts = "".join((tmp_path / "both.svg").read_text())
    assert "l1 (first/out)" in texts and "l1 (second/out)" in texts
    first = (tmp_path / "both.svg").read_bytes()
    compare(tmp_path, *folders)
    assert (tmp_path / "both.svg").read_bytes() == first, "the same picture is the same file"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"split": "val"}, "split (A: test; B: val)"),
        ({"dataset": "cityscapes"}, "data set (A: camvid; B: cityscapes)"),
        ({"data_fingerprint": "2b"}, "data (A: 1a; B: 2b)"),
        ({"made": {"processor": "another"}}, "latency device (A: a processor; B: another)"),
        ({"made": {"gpu": "a GPU"}}, "latency device (A: a processor; B: a GPU)"),
    ],
)
def test_what_does_not_compare_is_said_in_one_line(tmp_path, changes, says):
    first = benchmark(tmp_path / "a", row("l1"), data_fingerprint="1a")
    second = benchmark(tmp_path / "b", row("l1"), **{"data_fingerprint": "1a"} | changes)
    done = compare(tmp_path, first, second)
    (line,) = (line for line in done.out.splitlines() if line.startswith("not all"))
    assert line == f"not all of these compare, they differ in {says}"
    assert f"**{line}**" in (tmp_path / "both.md").read_text()


def test_epochs_of_finetuning_and_devices_that_rows_name_are_compared(tmp_path):
    tuned = {"miou_finetuned": 0.4, "finetune_recipe": "abcdef"}
    first = benchmark(tmp_path / "a", row("l1", finetune_epochs=1, latency_device="x", **tuned))
    second = benchmark(tmp_path / "b", row("l1", finetune_epochs=5, latency_device="x", **tuned), made={"gpu": "y"})
    done = compare(tmp_path, first, second)
    assert "they differ in epochs of fine-tuning (A: 1; B: 5)\n" in done.out


def test_latencies_of_compiled_networks_do_not_compare_with_others(tmp_path):
    folders = [benchmark(tmp_path / name, row("l1", latency_compiled=name == "b")) for name in "ab"]
    assert "they differ in latency compiled (A: False; B: True)\n" in compare(tmp_path, *folders).out


def test_a_folder_of_the_version_before_is_read(tmp_path):
    new = benchmark(tmp_path / "new", row("l1"), model="unet_small")
    done = compare(tmp_path, BEFORE, new)
    assert done.code == 0, done.err
    assert [(line["method"], line["target_kind"], line["target_value"]) for line in table(tmp_path)] == [
        ("l1", "channels", "0.3"), ("taylor", "channels", "0.3"), ("l1", "channels", "0.3"),
    ]  # fmt: skip
    assert [line["channels_removed"][:4] for line in table(tmp_path)] == ["0.34", "0.29", "0.3"]


def test_the_later_of_two_summaries_of_a_folder_counts(tmp_path):
    folder = benchmark(tmp_path / "a", row("l1"), row("taylor"))
    later = {"time": "2026-02-01T00:00:00+00:00"}
    failed = {"status": "failed", "error": "no memory"}
    benchmark(folder, row("l1", miou_finetuned=0.45), row("taylor", **failed), name="finetuned", made=later)
    assert compare(tmp_path, folder).code == 0
    assert [(line["method"], line["miou_finetuned"]) for line in table(tmp_path)] == [("l1", "0.45"), ("taylor", "")]
    assert [line["status"] for line in table(tmp_path)] == ["done", "done"]


def test_an_ending_of_the_files_is_left_out_and_no_plot_is_left_over(tmp_path):
    folder = benchmark(tmp_path / "a", row("l1"))
    assert run_script("bench.compare", folder, "--out", tmp_path / "new" / "v1.2.csv").code == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {f"v1.2{ending}" for ending in ENDINGS}
    benchmark(folder, row("l1", miou_cut=None))
    assert run_script("bench.compare", folder, "--out", tmp_path / "new" / "v1.2").code == 0
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"v1.2.csv", "v1.2.md", "v1.2.html"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "holds no benchmark_summary.json or finetuned_summary.json; name the --out-dir of benchmark.py"),
        ("{", "is not a JSON file"),
        ("\xff", "is not a JSON file"),
        ("[]", "is not a summary"),
        ('{"format": "pruning-info/1"}', "is not a summary"),
        ('{"format": "benchmark-summary/1", "rows": []}', "lacks parts of a summary"),
        (
            '{"format": "benchmark-summary/1", "baseline": {}, "provenance": {}, "rows": [{}]}',
            "lacks parts of a summary",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, content, says):
    folder = tmp_path / "a"
    folder.mkdir()
    if content is not None:
        (folder / "benchmark_summary.json").write_text(content, encoding="latin-1")
    done = compare(tmp_path, folder, benchmark(tmp_path / "b", row("l1")))
    assert done.code == 1 and done.err.count("\n") == 1
    assert str(folder) in done.err and says in done.err
    assert not list(tmp_path.glob("both*"))


def test_what_is_not_there_is_one_line(tmp_path):
    done = compare(tmp_path, tmp_path / "gone")
    assert done.code == 1 and f"{tmp_path / 'gone'} does not exist" in done.err
    done = run_script("bench.compare")
    assert done.code == 2 and done.err.count("\n") == 1 and "DIR" in done.err


def test_help_answers_without_torch(project_root):
    program = (
        "import sys; from bench.compare import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=project_root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: python -m bench.compare" in done.stdout and "default: ./comparison" in done.stdout
