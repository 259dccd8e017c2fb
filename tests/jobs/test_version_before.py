"""Folders that the version before wrote: they open, and what is done in them is not done again.

How they were made is told in `tests/fixtures/version_before/README.md`.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from records import faults

from bench.datasets.synthetic import draw_dataset
from bench.errors import BenchError
from bench.models.checkpoint import load_model
from bench.torch_utils.sparse_weights import SPARSE

BEFORE = Path(__file__).resolve().parent.parent / "fixtures" / "version_before"
L1, TAYLOR = "l1_r0.3_s0_56656662", "taylor_r0.3_s0_17626adb"
ENDINGS = ("json", "csv", "md", "tex", "png", "svg")
SUMMARIES = {f"{name}_summary.{ending}" for name in ("benchmark", "finetuned") for ending in ENDINGS}
SUMMARIES.add("leaderboard.html")
ROUNDING = {"rtol": 1e-3, "atol": 1e-4}
"""What is computed again may differ by, as another processor rounds otherwise."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders with their tensor files uncompressed; to be copied by whoever writes."""
    folder = tmp_path_factory.mktemp("before") / "runs"
    shutil.copytree(BEFORE, folder)
    for packed in folder.rglob("*.pt.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    return folder


@pytest.fixture
def runs(unpacked: Path, tmp_path: Path) -> Path:
    """A copy of the folders, to go on in."""
    return shutil.copytree(unpacked, tmp_path / "runs")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of that time, drawn anew in another place."""
    root = tmp_path_factory.mktemp("data") / "camvid"
    draw_dataset(root, images={"train": 6, "val": 2, "test": 2}, size=(48, 64))
    return root


@pytest.fixture
def again(call, runs: Path, data_root: Path) -> Callable[..., Any]:
    """Types a command of that time once more; it must succeed."""
    data = ["--dataset", "camvid", "--data-root", data_root, "--num-workers", 0, "--device", "cpu", "--threads", 1]

    def type_command(script: str, *flags: object) -> Any:
        result = call(script, *data, "--model", "unet_small", *flags)
        assert (result.code, result.err) == (0, "")
        return result

    return type_command


@pytest.fixture
def compare(again, runs: Path) -> Callable[..., Any]:
    """The benchmark's command, with further flags."""
    files = ["--baseline", runs / "baseline" / "pruned_model.pt", "--out-dir", runs / "benchmark"]
    grid = ["--methods", "l1,taylor", "--ratios", 0.3, "--latency-warmup", 1, "--latency-runs", 3]
    return lambda *flags: again("benchmark.py", *files, *grid, *flags)


@pytest.fixture
def finetune(again, runs: Path) -> Callable[[], Any]:
    """The command that fine-tunes all of the benchmark as its first job was."""
    files = ["--baseline", runs / "baseline" / "pruned_model.pt", "--benchmark-dir", runs / "benchmark"]
    return lambda: again("finetune_batch.py", *files, "--finetune-epochs", 1, "--batch-size", 2)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file of a folder but the summaries: its bytes, and when it was written."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in SUMMARIES)
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["baseline", "sparse"])
def test_a_network_computes_what_it_did(unpacked, name):
    saved = load_model(unpacked / name / "pruned_model.pt", name="unet_small", outputs=12)
    logits = torch.load(unpacked / "logits.pt", weights_only=True)[name]
    images = torch.linspace(-2, 2, 3 * 8 * 16).reshape(1, 3, 8, 16)
    with torch.inference_mode():
        torch.testing.assert_close(saved.model(images), logits)
    assert saved.meta["input_size"] == [48, 64]
    (how,) = saved.meta["pruning"]
    assert how["method"] == {"baseline": "l1", "sparse": "magnitude"}[name]
    assert bool(saved.channels) == (name == "baseline")
    assert bool(saved.meta.get(SPARSE)) == (name == "sparse")


def test_an_int8_network_is_refused_by_its_name(unpacked):
    # Only the torch that wrote it could read it; it can be made again from the network it was made of.
    with pytest.raises(BenchError, match=r"int8_model\.pt has format 'segmentation-pruning-bench-int8/1'"):
        load_model(unpacked / "int8" / "int8_model.pt")


def test_every_record_is_as_documented():
    paths = [path for path in BEFORE.rglob("*.json") if path.name != "config.json"]
    formats = {read_json(path)["format"] for path in paths}
    kinds = ("benchmark-summary/1", "evaluation-report/1", "int8-report/1", "pruning-info/1", "training-report/1")
    assert formats == set(kinds)
    for path in paths:
        assert faults(read_json(path)) == [], path


def test_a_finished_benchmark_is_not_done_again(runs, compare):
    before, summary = contents(runs / "benchmark"), read_json(runs / "benchmark" / "benchmark_summary.json")
    assert {f"{L1}/pruned_model.pt", f"{TAYLOR}/pruned_model.pt", f"{L1}/finetuned_model.pt"} <= before.keys()
    compare()
    after = contents(runs / "benchmark")
    # Since then what was measured on the baseline is kept.
    (evaluation,) = after.keys() - before.keys()
    assert evaluation.startswith("scores/evaluation_")
    assert {name: after[name] for name in before} == before
    now = read_json(runs / "benchmark" / "benchmark_summary.json")
    for row in (*now["rows"], *summary["rows"]):
        del row["seconds"]
    # All that rows said they still say; what they did not say was in the jobs' own records.
    assert [{key: row[key] for key in old} for row, old in zip(now["rows"], summary["rows"], strict=True)] == summary[
        "rows"
    ]
    assert {row["latency_format"] for row in now["rows"]} == {"contiguous"}
    tuned, plain = now["rows"]
    assert (tuned["target_kind"], tuned["target_value"], tuned["finetune_epochs"]) == ("channels", 0.3, 1)
    assert (plain["finetune_epochs"], plain["method_options"]) == (None, {"term": "gate"})
    assert {path.name for path in (runs / "benchmark").iterdir()} - SUMMARIES == {L1, TAYLOR, "scores"}
    # What is measured anew on the baseline may round otherwise.
    assert now["baseline"].keys() == summary["baseline"].keys() | {"scoring", "data_fingerprint"}
    for name in ("sha256", "model", "dataset", "split", "input_size", "parameters", "macs", "state_bytes"):
        assert now["baseline"][name] == summary["baseline"][name]
    assert now["baseline"]["miou"] == pytest.approx(summary["baseline"]["miou"], rel=0.05)


def test_only_what_was_not_finetuned_is(runs, finetune):
    before = contents(runs / "benchmark")
    finetune()
    now = contents(runs / "benchmark")
    added = {name.partition("/")[2].partition("/")[0] for name in now.keys() - before.keys()}
    assert {name.partition("/")[0] for name in now.keys() - before.keys()} == {TAYLOR}
    assert {"finetuned_model.pt", "finetuned_report.json", "worst_images.json"} < added and len(added) == 4
    assert {name: now[name] for name in before} == before
    finetune()
    assert contents(runs / "benchmark") == now


def test_a_job_that_is_not_done_finds_its_scores(unpacked, runs, compare):
    """Those of l1 depend on nothing but the baseline; Taylor's are those of images, which lie elsewhere now."""
    for job in (L1, TAYLOR):
        (runs / "benchmark" / job / "done").unlink()
    before = contents(runs / "benchmark")
    infos = {job: read_json(runs / "benchmark" / job / "pruning_info.json") for job in (L1, TAYLOR)}
    compare("--no-latency")
    now = contents(runs / "benchmark")
    made = {
        name for name in now.keys() - before.keys() if not name.endswith(("/done", "/cell.json", "/worst_images.json"))
    }
    evaluation, scores = sorted(made)
    assert (evaluation[:18], scores[:21]) == ("scores/evaluation_", "scores/scores_taylor_")
    assert all(now[name] == before[name] for name in before if name.startswith("scores/"))
    for job, info in infos.items():
        again = read_json(runs / "benchmark" / job / "pruning_info.json")
        # Another processor sums in another order: scores differ in the last digits of a float.
        threshold, earlier = (plan["search"].pop("threshold") for plan in (again["plan"], info["plan"]))
        assert threshold is earlier is None or threshold == pytest.approx(earlier, rel=1e-5)
        assert again["plan"] == info["plan"]
        assert again["cost"] == info["cost"]
        assert now[f"{job}/pruned_model.pt"][1] > before[f"{job}/pruned_model.pt"][1]
        cut, cut_before = (load_model(folder / "benchmark" / job / "pruned_model.pt") for folder in (runs, unpacked))
        assert cut.channels == cut_before.channels
        for tensor, tensor_before in zip(cut.model.parameters(), cut_before.model.parameters(), strict=True):
            assert torch.equal(tensor, tensor_before)


def test_an_interrupted_training_goes_on(runs, again):
    folder, whole = runs / "interrupted", runs / "uninterrupted"
    assert len((folder / "metrics.csv").read_text().splitlines()) == 2
    again(
        "train.py",
        *("--ckpt", runs / "baseline" / "pruned_model.pt", "--epochs", 2, "--batch-size", 2, "--ema", 0.5),
        *("--save", folder, "--resume"),
    )
    ended, wanted = (load_model(path / "best.pt").model.state_dict() for path in (folder, whole))
    assert ended.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(ended[name], tensor, **ROUNDING)
    rows, wanted_rows = (list(csv.DictReader((path / "metrics.csv").open())) for path in (folder, whole))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row, wanted_row in zip(rows, wanted_rows, strict=True):
        for name in ("lr", "train_loss"):
            assert float(row[name]) == pytest.approx(float(wanted_row[name]), rel=1e-3)
    report, wanted_report = (read_json(path / "report.json") for path in (folder, whole))
    assert (report["best_epoch"], report["epochs"]) == (wanted_report["best_epoch"], wanted_report["epochs"]) == (2, 2)
    assert report["val"]["miou"] == pytest.approx(wanted_report["val"]["miou"], abs=0.005)
    assert (folder / "done").is_file() and not (folder / "failed").exists()
