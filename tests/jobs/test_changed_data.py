"""Images or labels that change between two commands: what was made from them is done again, and nothing is mixed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from records import faults

from bench.datasets.camvid import VOID

BENCHMARK = (
    "--methods",
    "l1,taylor",
    "--ratios",
    0.3,
    "--no-latency",
    "--calib-images",
    2,
    "--recalibration-images",
    2,
)
CHANGED = "images or labels of {} changed since"


@pytest.fixture
def root(tiny_camvid: Path, tmp_path: Path) -> Path:
    """The tiny data set, to be changed; its copies keep their times."""
    return shutil.copytree(tiny_camvid, tmp_path / "data" / "camvid")


@pytest.fixture
def type_command(call, root: Path) -> Callable[..., Any]:
    """Runs a command on the data set; it must succeed."""
    data = ["--dataset", "camvid", "--data-root", root, "--num-workers", 0, "--device", "cpu", "--model", "unet_small"]

    def run(script: str, *flags: object, code: int = 0) -> Any:
        result = call(script, *data, *flags)
        assert result.code == code and "Traceback" not in result.err, result
        return result

    return run


def correct_labels(root: Path, *splits: str) -> None:
    """Gives every pixel of some splits the next class."""
    for path in sorted(path for split in splits for path in (root / f"{split}annot").iterdir()):
        ids = np.array(Image.open(path))
        Image.fromarray(np.where(ids < VOID, (ids + 1) % VOID, ids).astype(np.uint8)).save(path)


def void_labels(root: Path, split: str) -> None:
    for path in (root / f"{split}annot").iterdir():
        Image.new("L", Image.open(path).size, VOID).save(path)


def touch(root: Path, split: str) -> None:
    for path in (root / f"{split}annot").iterdir():
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))


def summary(out: Path, name: str = "benchmark_summary") -> list[tuple[Any, ...]]:
    rows = json.loads((out / f"{name}.json").read_text())["rows"]
    keys = ("method", "status", "baseline_miou", "miou_cut", "miou_recalibrated", "miou_finetuned")
    return [tuple(row[key] for key in keys) for row in rows]


def written(out: Path, pattern: str) -> dict[str, int]:
    return {
        path.name if path.parent == out else path.parent.name: path.stat().st_mtime_ns for path in out.glob(pattern)
    }


def test_a_benchmark_is_done_again_on_corrected_labels(type_command, root, shallow_baseline, tmp_path):
    flags = ("--baseline", shallow_baseline, *BENCHMARK)
    type_command("benchmark.py", *flags, "--out-dir", tmp_path / "out")
    first, scores = summary(tmp_path / "out"), written(tmp_path / "out" / "scores", "*")
    again = type_command("benchmark.py", *flags, "--out-dir", tmp_path / "out")
    assert "changed since" not in again.out and summary(tmp_path / "out") == first
    assert written(tmp_path / "out" / "scores", "*") == scores

    correct_labels(root, "train", "test")
    said = type_command("benchmark.py", *flags, "--out-dir", tmp_path / "out").out
    assert said.count(CHANGED.format("train and test")) == 2 and CHANGED.format("train") + " scores_taylor_" in said
    type_command("benchmark.py", *flags, "--out-dir", tmp_path / "fresh")
    assert summary(tmp_path / "out") == summary(tmp_path / "fresh") != first
    # The scores of l1 depend on no image.
    now = written(tmp_path / "out" / "scores", "*")
    changed = {name.rpartition("_")[0] for name in now if now[name] != scores[name]}
    assert changed == {"evaluation", "scores_taylor"}
    for path in (tmp_path / "out").glob("*/report.json"):
        report = json.loads(path.read_text())
        assert set(report["data"]) == {"train", "test"} and faults(report) == []


def test_where_nothing_but_the_scored_split_changes_scores_stay(type_command, root, shallow_baseline, tmp_path):
    flags = ("--baseline", shallow_baseline, *BENCHMARK, "--out-dir", tmp_path / "out")
    type_command("benchmark.py", *flags)
    scores = written(tmp_path / "out" / "scores", "*")
    correct_labels(root, "test")
    # Both jobs, and what was measured on the baseline.
    assert type_command("benchmark.py", *flags).out.count(CHANGED.format("test")) == 3
    now = written(tmp_path / "out" / "scores", "*")
    assert [name for name in now if now[name] != scores[name]] == [
        name for name in scores if name[:11] == "evaluation_"
    ]


def test_files_of_equal_content_are_the_same_where_that_is_checked(type_command, root, shallow_baseline, tmp_path):
    flags = ("--baseline", shallow_baseline, *BENCHMARK, "--out-dir", tmp_path / "out", "--data-check", "content")
    type_command("benchmark.py", *flags)
    pruned = written(tmp_path / "out", "*/pruned_model.pt")
    touch(root, "test")
    type_command("benchmark.py", *flags)
    assert written(tmp_path / "out", "*/pruned_model.pt") == pruned
    touch(root, "train")
    type_command("benchmark.py", *flags[:-2])
    assert written(tmp_path / "out", "*/pruned_model.pt") == pruned


def test_prune_scores_again(type_command, root, shallow_baseline, tmp_path):
    flags = (
        "--ckpt",
        shallow_baseline,
        "--method",
        "taylor",
        "--global-ratio",
        0.3,
        "--no-latency",
        "--calib-images",
        2,
    )
    type_command("prune.py", *flags, "--save", tmp_path / "out")
    correct_labels(root, "train")
    assert CHANGED.format("train") in type_command("prune.py", *flags, "--save", tmp_path / "out").out
    type_command("prune.py", *flags, "--save", tmp_path / "fresh")
    kept, fresh = (json.loads((tmp_path / name / "pruning_info.json").read_text()) for name in ("out", "fresh"))
    assert kept["plan"] == fresh["plan"] and kept["quality"] == fresh["quality"]


def test_a_fine_tuning_is_done_again_and_never_shown_beside_others(type_command, root, shallow_baseline, tmp_path):
    out = tmp_path / "out"
    flags = ("--baseline", shallow_baseline, *BENCHMARK[2:], "--methods", "l1", "--out-dir", out)
    tuned = (*flags, "--finetune-epochs", 1, "--batch-size", 4)
    type_command("benchmark.py", *tuned)
    (row,) = summary(out)
    assert row[-1] is not None
    # What chooses the best epoch has changed: the pruned network stays, its fine-tuning is of other data.
    pruned, finetuned = written(out, "*/pruned_model.pt"), written(out, "*/finetuned_model.pt")
    correct_labels(root, "val")
    type_command("benchmark.py", *flags)
    assert [row[-1] for row in summary(out)] == [None]
    assert CHANGED.format("val") in type_command("benchmark.py", *tuned).out
    assert written(out, "*/pruned_model.pt") == pruned and written(out, "*/finetuned_model.pt") != finetuned
    assert summary(out)[0][-1] is not None
    # And where the pruned network itself is of other data, what came of it goes with it.
    correct_labels(root, "test")
    type_command("benchmark.py", *flags)
    assert not written(out, "*/finetuned_*")


def test_networks_pruned_on_other_data_are_not_fine_tuned(type_command, root, shallow_baseline, tmp_path):
    out = tmp_path / "out"
    type_command("benchmark.py", "--baseline", shallow_baseline, *BENCHMARK, "--out-dir", out)
    correct_labels(root, "test")
    flags = ("--baseline", shallow_baseline, "--benchmark-dir", out, "--finetune-epochs", 1, "--batch-size", 4)
    result = type_command("finetune_batch.py", *flags, code=1)
    assert "was pruned before images or labels of test changed" in result.err
    assert not written(out, "*/finetuned_model.pt")


def test_a_networks_own_training_is_done_again(type_command, root, shallow_baseline, tmp_path):
    flags = ("--ckpt", shallow_baseline, "--method", "slimming", "--opt", "sparse_epochs=1,sparse_batch_size=4")
    flags = (*flags, "--global-ratio", 0.3, "--no-latency", "--save", tmp_path / "out")
    type_command("prune.py", *flags)
    first = written(tmp_path / "out", "prepared_*/network.pt")
    type_command("prune.py", *flags)
    assert written(tmp_path / "out", "prepared_*/network.pt") == first
    correct_labels(root, "train")
    assert "was trained: done again" in type_command("prune.py", *flags).out
    assert written(tmp_path / "out", "prepared_*/network.pt") != first


def test_sensitivity_and_oracle_are_measured_again(type_command, root, shallow_baseline, tmp_path):
    flags = ("--ckpt", shallow_baseline, "--method", "l1", "--sensitivity", "--sensitivity-ratios", 0.5)
    flags = (*flags, "--sensitivity-images", 4, "--recalibration-images", 2, "--save", tmp_path / "out")
    oracle = ("--oracle", "--oracle-images", 2, "--oracle-units", 1, *BENCHMARK, "--out-dir", tmp_path / "bench")
    oracle = ("--baseline", shallow_baseline, *oracle)
    type_command("prune.py", *flags)
    type_command("benchmark.py", *oracle)
    rows, losses = (tmp_path / "out" / "sensitivity.json"), next((tmp_path / "bench").glob("oracle_losses_*.json"))
    before = [json.loads(path.read_text()) for path in (rows, losses)]
    correct_labels(root, "train")
    assert "sensitivity.json was measured: done again" in type_command("prune.py", *flags).out
    assert f"{losses.name} was measured: done again" in type_command("benchmark.py", *oracle).out
    after = [json.loads(path.read_text()) for path in (rows, losses)]
    assert before[0]["baseline"]["miou"] != after[0]["baseline"]["miou"]
    assert before[1]["identity"] == after[1]["identity"] and before[1]["images"] != after[1]["images"]


def test_a_training_does_not_go_on_with_other_labels(type_command, root, tmp_path):
    flags = ("--epochs", 1, "--batch-size", 4, "--input-size", "48,64", "--save", tmp_path / "run")
    type_command("train.py", *flags)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert set(report["data"]) == {"train", "val", "test"} and faults(report) == []
    assert "finished already" in type_command("train.py", *flags, "--resume").out
    correct_labels(root, "val")
    result = type_command("train.py", *flags, "--resume", code=1)
    assert "images or labels of val changed since the run was started" in result.err and "--overwrite" in result.err
    bench = ("--train-baseline", "--baseline", tmp_path / "run" / "best.pt", *BENCHMARK, "--out-dir", tmp_path / "out")
    assert (
        "images or labels of val changed since it was trained" in type_command("benchmark.py", *bench, *flags[:6]).out
    )
    type_command("train.py", *flags, "--overwrite")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_no_training_on_or_for_a_split_of_void(type_command, root, tmp_path, split):
    void_labels(root, split)
    flags = ("--epochs", 1, "--batch-size", 4, "--input-size", "48,64", "--save", tmp_path / "run")
    result = type_command("train.py", *flags, code=1)
    assert f"no pixel of camvid's {split} split is labelled" in result.err
    assert list((tmp_path / "run").iterdir()) == []


def test_nothing_is_scored_by_labels_of_void(type_command, root, shallow_baseline, tmp_path):
    void_labels(root, "train")
    flags = ("--ckpt", shallow_baseline, "--global-ratio", 0.3, "--no-latency", "--calib-images", 2)
    result = type_command("prune.py", *flags, "--method", "taylor", "--save", tmp_path / "taylor", code=1)
    assert "train split is labelled" in result.err
    assert not list((tmp_path / "taylor").glob("*.pt"))
    type_command("prune.py", *flags, "--method", "l1", "--save", tmp_path / "l1")


def test_nothing_is_pruned_for_a_split_of_void(type_command, root, shallow_baseline, tmp_path):
    void_labels(root, "test")
    prune = ("--ckpt", shallow_baseline, "--method", "l1", "--global-ratio", 0.3, "--save", tmp_path / "out")
    assert "test split is labelled" in type_command("prune.py", *prune, code=1).err
    assert list((tmp_path / "out").iterdir()) == []
    benchmark = ("--baseline", shallow_baseline, *BENCHMARK, "--out-dir", tmp_path / "bench")
    assert "test split is labelled" in type_command("benchmark.py", *benchmark, code=1).err
    assert list((tmp_path / "bench").iterdir()) == []
    # Predictions need no label.
    type_command("eval.py", "--baseline", shallow_baseline, "--predict", tmp_path / "predictions")
    assert len(list((tmp_path / "predictions").iterdir())) == 4
