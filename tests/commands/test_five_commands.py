"""The five commands, end to end and as a user types them, on a tiny data set in CamVid's layout.

Each runs once as a process of its own; what follows runs in this one.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from records import faults
from scripts import run_script

from bench.datasets.camvid import CamVid
from bench.measure.cost import measure_cost
from bench.metrics import ConfusionMatrix
from bench.models.checkpoint import load_model

pytestmark = pytest.mark.slow
TIMES = ("seconds", "baseline_latency_ms", "latency_ms", "speedup", "speedup_low", "speedup_high", "latency_format")
"""What is measured by the clock; the memory format is chosen by it."""

IN_ONE_PROCESS = " --num-workers 0"
TIMING = " --latency-warmup 1 --latency-runs 10"
DATA = "--dataset camvid --data-root ./datasets/camvid --model unet_small"
TRAIN = f"train.py {DATA} --epochs 1 --batch-size 2 --save ./runs/baseline --input-size 48,64"
PRUNE = (
    f"prune.py {DATA} --ckpt ./runs/baseline/best.pt --method taylor --global-ratio 0.1 "
    f"--save ./runs/taylor_pruned --input-size 48,64{TIMING}"
)
BENCHMARK = (
    f"benchmark.py {DATA} --baseline ./runs/baseline/best.pt --methods taylor,l1,random --ratios 0.1 "
    f"--out-dir ./runs/benchmark{TIMING}"
)
FINETUNE = (
    f"finetune_batch.py --benchmark-dir ./runs/benchmark {DATA} --baseline ./runs/baseline/best.pt "
    f"--finetune-epochs 1 --batch-size 2{TIMING}"
)
EVAL = (
    f"eval.py {DATA} --baseline ./runs/baseline/best.pt --candidate ./runs/taylor_pruned/pruned_model.pt "
    f"--report ./runs/taylor_pruned/eval/report.json{TIMING}"
)


class Place:
    """A folder to type commands in."""

    def __init__(self, folder: Path, project_root: Path):
        self.runs, self._folder, self._root = folder / "runs", folder, project_root

    def types(self, line: str) -> str:
        """Runs `SCRIPT FLAGS` in this process and returns its stdout."""
        script, *flags = shlex.split(line)
        result = run_script(script, *flags, folder=self._folder)
        assert (result.code, result.err) == (0, ""), result.out + result.err
        return result.out

    def starts(self, line: str) -> str:
        """Runs `SCRIPT FLAGS` as a process of its own and returns its stdout."""
        script, *flags = shlex.split(line)
        result = subprocess.run(
            [sys.executable, self._root / script, *flags],
            cwd=self._folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def json(self, name: str) -> Any:
        return json.loads((self.runs / name).read_text(encoding="utf-8"))

    def written(self, *names: str) -> dict[str, int]:
        """When the files of these names in the jobs' folders were last written, in nanoseconds."""
        paths = [path for name in names for path in (self.runs / "benchmark").glob(f"*/{name}")]
        return {str(path.relative_to(self.runs)): path.stat().st_mtime_ns for path in paths}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what no two runs have in common, in one order."""
    kept = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
    return sorted(kept, key=lambda row: row["method"])


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_camvid, project_root) -> Place:
    folder = tmp_path_factory.mktemp("place")
    (folder / "datasets").mkdir()
    (folder / "datasets" / "camvid").symlink_to(tiny_camvid)
    return Place(folder, project_root)


@pytest.fixture(scope="module")
def trained(place) -> str:
    return place.starts(TRAIN)


@pytest.fixture(scope="module")
def pruned(place, trained) -> str:
    return place.starts(PRUNE)


@pytest.fixture(scope="module")
def compared(place, trained) -> dict[str, Any]:
    """The summary of the first benchmark."""
    place.starts(BENCHMARK)
    return place.json("benchmark/benchmark_summary.json")


@pytest.fixture(scope="module")
def finetuned(place, compared) -> dict[str, Any]:
    """The summary of the first fine-tuning."""
    place.starts(FINETUNE + IN_ONE_PROCESS)
    return place.json("benchmark/finetuned_summary.json")


def test_train(place, trained):
    assert {"best.pt", "last.pt", "config.json", "done"} <= names(place.runs / "baseline")
    config = place.json("baseline/config.json")
    assert (config["dataset"], config["model"], config["epochs"]) == ("camvid", "unet_small", 1)
    assert (config["batch_size"], config["input_size"]) == (2, [48, 64])
    assert config["provenance"]["command"].endswith(TRAIN.removeprefix("train.py"))
    report = place.json("baseline/report.json")
    assert report["input_size"] == [48, 64]
    assert 0 < report["test"]["miou"] < 1
    assert f"test mIoU {report['test']['miou']:.2%}" in trained


def test_prune(place, pruned):
    assert {"pruned_model.pt", "pruning_info.json", "report.json", "done"} <= names(place.runs / "taylor_pruned")
    info = place.json("taylor_pruned/pruning_info.json")
    assert (info["method"], info["seed"], info["target"]["value"]) == ("taylor", 0, 0.1)
    assert info["plan"]["channel_ratio"] == pytest.approx(0.1, abs=0.005)
    baseline = load_model(place.runs / "baseline" / "best.pt")
    candidate = load_model(place.runs / "taylor_pruned" / "pruned_model.pt")
    for saved, stage in ((baseline, "before"), (candidate, "after")):
        counted = sum(parameter.numel() for parameter in saved.model.parameters())
        assert info["cost"][stage]["parameters"] == counted
        assert info["cost"][stage]["macs"] == measure_cost(saved.model, (48, 64)).macs
    assert info["cost"]["after"]["parameters"] < info["cost"]["before"]["parameters"]
    assert info["cost"]["after"]["macs"] < info["cost"]["before"]["macs"]
    assert f"parameters {info['cost']['change']['parameters_percent']:+.1f} %" in pruned


def test_prune_to_a_size_with_all_limits(place, trained):
    (place.runs / "limits.yaml").write_text(
        "target-size: 1.2MB\nscope: isomorphic\nround-to: 8\nmax-ratio: 0.9\n"
        "ratio-of: {downs: {'0.conv.3': 0.5}, 'ups.5*': 0}\nabsorb-bias: true\nlatency: false\nevaluate: false\n"
    )
    line = PRUNE.replace(" --global-ratio 0.1", " --config ./runs/limits.yaml").replace("taylor_pruned", "sized")
    shown = place.types(line)
    info = place.json("sized/pruning_info.json")
    assert (info["target"]["kind"], info["target"]["value"]) == ("size", 1_200_000)
    size = info["cost"]["after"]["state_bytes"]
    assert 1_100_000 < size <= 1_200_000
    assert f"size {size / 1e6:.2f} MB" in shown
    kept = {name: len(channels) for name, channels in info["plan"]["kept"].items()}
    assert (kept["downs.0.conv.3"], kept["ups.5.conv.0"], kept["ups.5.conv.3"]) == (8, 16, 16)
    assert {count % 8 for count in kept.values()} == {0}
    assert info["bias_absorption"]["absorbed"]
    listed = place.types("prune.py --list-groups --ckpt ./runs/sized/pruned_model.pt --dataset camvid --ignore downs*")
    assert ["downs.0.conv.3", "8", "2", "1", "ignored", "by", "'downs*'"] in [
        row.split() for row in listed.splitlines()
    ]


def test_a_pruned_file_gives_the_same_output_in_another_process(place, pruned, project_root, tmp_path):
    program = (
        "import sys, torch; from bench.models.checkpoint import load_model; "
        "torch.save(load_model(sys.argv[1]).model(torch.linspace(-1, 1, 3 * 48 * 64).view(1, 3, 48, 64)), sys.argv[2])"
    )
    path, output = place.runs / "taylor_pruned" / "pruned_model.pt", tmp_path / "output.pt"
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(project_root)}
    subprocess.run([sys.executable, "-c", program, path, output], env=env, check=True)
    images = torch.linspace(-1, 1, 3 * 48 * 64).view(1, 3, 48, 64)
    assert torch.equal(load_model(path).model(images), torch.load(output, weights_only=True))


def test_benchmark(place, compared):
    cells = {(row["method"], row["ratio"]): row for row in compared["rows"]}
    assert cells.keys() == {("taylor", 0.1), ("l1", 0.1), ("random", 0.1)}
    for row in cells.values():
        assert row["status"] == "done"
        assert 0 < row["macs_kept"] < 1
        assert row["latency_ms"] > 0
        assert {"pruned_model.pt", "pruning_info.json", "done"} <= names(place.runs / "benchmark" / row["folder"])
    with (place.runs / "benchmark" / "benchmark_summary.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["method"], row["target_kind"], float(row["target_value"])) for row in table] == [
        (method, "channels", ratio) for method, ratio in cells
    ]
    assert {(row["model"], row["input_size"], row["method_options"] != "") for row in table} == {
        ("unet_small", "48x64", True)
    }
    text = (place.runs / "benchmark" / "benchmark_summary.md").read_text(encoding="utf-8")
    assert all(f"| {method} | 0.1 |" in text for method, _ in cells)


def test_prune_and_benchmark_agree(place, pruned, compared):
    info = place.json("taylor_pruned/pruning_info.json")
    (row,) = (row for row in compared["rows"] if row["method"] == "taylor")
    other = place.json(f"benchmark/{row['folder']}/pruning_info.json")
    assert (info["plan"], info["quality"], info["cost"]) == (other["plan"], other["quality"], other["cost"])


def test_benchmark_again(place, compared):
    before = place.written("pruned_model.pt", "pruning_info.json", "report.json", "done")
    assert len(before) == 12
    place.types(BENCHMARK)
    assert place.written("pruned_model.pt", "pruning_info.json", "report.json", "done") == before
    rows = place.json("benchmark/benchmark_summary.json")["rows"]
    assert [row["latency_ms"] for row in rows] == [row["latency_ms"] for row in compared["rows"]]
    keys = ("method", "ratio", "folder", "macs", "miou_cut", "miou_recalibrated")
    assert [[row[key] for key in keys] for row in rows] == [[row[key] for key in keys] for row in compared["rows"]]


def test_finetune(place, finetuned):
    assert {row["method"] for row in finetuned["rows"]} == {"taylor", "l1", "random"}
    for row in finetuned["rows"]:
        folder = place.runs / "benchmark" / row["folder"]
        assert {"finetuned_model.pt", "finetuned_report.json"} <= names(folder)
        report = place.json(f"benchmark/{row['folder']}/finetuned_report.json")
        assert report["candidate"]["quality"]["miou"] == row["miou_finetuned"]
        assert report["candidate"]["cost"]["parameters"] == row["parameters"]
        assert report["finetune"]["recipe"]["epochs"] == 1


def test_finetune_again(place, finetuned):
    before = place.written("finetuned_model.pt", "finetuned_report.json")
    assert len(before) == 6
    place.types(FINETUNE + IN_ONE_PROCESS)
    assert place.written("finetuned_model.pt", "finetuned_report.json") == before
    assert numbers(place.json("benchmark/finetuned_summary.json")["rows"]) == numbers(finetuned["rows"])


def test_one_more_method(place, finetuned):
    before = place.written("pruned_model.pt", "finetuned_model.pt")
    place.types(BENCHMARK.replace("taylor,l1,random", "taylor,l1,random,l2") + IN_ONE_PROCESS)
    after = place.written("pruned_model.pt", "finetuned_model.pt")
    assert {name: after[name] for name in before} == before
    (new,) = after.keys() - before.keys()
    assert new.startswith("benchmark/l2_r0.1_s0_")
    rows = place.json("benchmark/benchmark_summary.json")["rows"]
    assert [row["method"] for row in rows] == ["taylor", "l1", "random", "l2"]


def test_eval(place, pruned):
    shown = place.starts(EVAL)
    report, known = (place.json(f"taylor_pruned/{name}") for name in ("eval/report.json", "report.json"))
    for side in ("baseline", "candidate"):
        for key in ("quality", "cost", "sha256", "bytes_on_disk"):
            assert report[side][key] == known[side][key]
    assert report["change"] == known["change"]
    assert report["latency"]["networks"]["candidate"]["median_ms"] > 0
    assert f"{100 * report['candidate']['quality']['miou']:.2f}" in shown


def test_eval_of_a_finetuned_network(place, finetuned):
    row = finetuned["rows"][0]
    folder = f"./runs/benchmark/{row['folder']}"
    place.types(
        f"eval.py {DATA} --baseline ./runs/baseline/best.pt --candidate {folder}/finetuned_model.pt "
        f"--report ./runs/eval/report.json --picture ./runs/eval/picture.png --no-latency --num-workers 0"
    )
    report = place.json("eval/report.json")
    assert report["candidate"]["quality"]["miou"] == row["miou_finetuned"]
    assert report["latency"] is None
    assert (place.runs / "eval" / "picture.png").stat().st_size > 1000


def test_eval_of_a_baseline_alone(place, trained):
    shown = place.types(
        f"eval.py {DATA} --baseline ./runs/baseline/best.pt --report ./runs/alone/report.json "
        "--picture ./runs/alone/picture.png --no-latency --num-workers 0 --boundary-width 1 --flip"
    )
    report = place.json("alone/report.json")
    assert (report["candidate"], report["change"]) == (None, None)
    quality = report["baseline"]["quality"]
    assert 0 < quality["miou"] < 1 and quality["boundary"]["width"] == 1
    assert report["scoring"]["flip"] is True
    assert "candidate" not in shown and f"{100 * quality['miou']:.2f}" in shown
    assert (place.runs / "alone" / "picture.png").stat().st_size > 1000


def test_predictions_score_what_the_report_says(place, pruned, tiny_camvid):
    line = EVAL.replace("/eval/", "/predicted/")
    shown = place.types(f"{line} --no-latency --num-workers 0 --predict ./runs/predictions")
    assert "4 predictions of test -> ./runs/predictions" in shown
    images = sorted((tiny_camvid / "test").iterdir())
    assert names(place.runs / "predictions") == {path.name for path in images}
    confusion = ConfusionMatrix(CamVid.classes)
    for path in images:
        predicted = Image.open(place.runs / "predictions" / path.name)
        palette = np.array(predicted.getpalette("RGB")).reshape(-1, 3)
        assert palette[:11].tolist() == [*map(list, CamVid.classes.palette)]
        label = np.array(Image.open(tiny_camvid / "testannot" / path.name))
        confusion.update(torch.from_numpy(np.array(predicted))[None], torch.from_numpy(label)[None])
    report = place.json("taylor_pruned/predicted/report.json")
    assert confusion.quality().miou == report["candidate"]["quality"]["miou"] != report["baseline"]["quality"]["miou"]


def test_predictions_need_no_report(place, trained):
    files = "--baseline ./runs/baseline/best.pt --predict ./runs/only/predictions"
    place.types(f"eval.py {DATA} {files} --split val --num-workers 0")
    assert names(place.runs / "only") == {"predictions"}
    assert len(names(place.runs / "only" / "predictions")) == 4


def test_a_pruned_network_is_trained_on(place, pruned):
    place.types(
        f"train.py {DATA} --ckpt ./runs/taylor_pruned/pruned_model.pt --epochs 1 --batch-size 2 "
        "--save ./runs/continued --num-workers 0"
    )
    before = load_model(place.runs / "taylor_pruned" / "pruned_model.pt")
    after = load_model(place.runs / "continued" / "best.pt")
    assert after.channels == before.channels
    assert after.meta["input_size"] == [48, 64]
    pairs = list(zip(before.model.parameters(), after.model.parameters(), strict=True))
    assert all(old.shape == new.shape for old, new in pairs)
    assert any(not torch.equal(old, new) for old, new in pairs)


def test_the_same_numbers_in_another_folder_and_in_one_command(place, finetuned):
    """Pruned and fine-tuned by one command, elsewhere: all but the times is the same."""
    line = BENCHMARK.replace("./runs/benchmark", "./runs/again") + IN_ONE_PROCESS
    place.types(f"{line} --finetune-epochs 1 --batch-size 2")
    again = place.json("again/benchmark_summary.json")
    assert numbers(again["rows"]) == numbers(finetuned["rows"])
    assert again["baseline"]["quality"] == finetuned["baseline"]["quality"]


def test_every_record_is_as_documented(place, pruned, finetuned):
    paths = [path for path in place.runs.rglob("*.json") if path.name != "config.json"]
    found = {path.name for path in paths}
    assert {"report.json", "pruning_info.json", "finetuned_report.json", "finetuned_summary.json"} <= found
    for path in paths:
        assert faults(json.loads(path.read_text(encoding="utf-8"))) == [], path


def test_every_file_is_plain_data(place, pruned, finetuned):
    paths = list(place.runs.rglob("*.pt"))
    assert {"best.pt", "last.pt", "pruned_model.pt", "finetuned_model.pt"} <= {path.name for path in paths}
    for path in paths:
        assert isinstance(torch.load(path, map_location="cpu", weights_only=True), dict), path


def test_nothing_half_written_is_left(place, pruned, finetuned):
    left = [path for path in place.runs.rglob("*") if path.name.startswith(".") or path.name == "failed"]
    assert left == []
