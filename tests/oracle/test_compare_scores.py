"""Methods' scores beside the oracle: on a bench, and on the command line."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_networks as toys
from scripts import Outcome

from bench.channels.groups import prunable
from bench.datasets.options import DataOptions
from bench.engine.options import PruneOptions
from bench.engine.session import Session
from bench.errors import UsageError
from bench.measure.baseline import Baseline
from bench.measure.options import ScoringOptions, TimingOptions
from bench.oracle import ablation
from bench.oracle.agreement import agreement
from bench.oracle.agreement_record import CSV, RECORD
from bench.oracle.compare_scores import measure_agreement
from bench.oracle.loss_changes import sampled_channels
from bench.oracle.options import OracleOptions
from bench.plan.target import Goal
from bench.pruners import make_pruner, make_pruners
from bench.system.files import file_digest
from bench.training.losses import segmentation_loss

GOAL = Goal("channels", 0.3)
OPTIONS = OracleOptions(oracle_images=3, oracle_units=4, oracle_ratios=[0.25, 0.5])


@pytest.fixture(scope="module")
def scores_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scores")


@pytest.fixture(scope="module")
def bench(tiny_camvid: Path, tiny_baseline: Path, scores_folder: Path) -> Session:
    data = DataOptions(dataset="camvid", data_root=str(tiny_camvid), num_workers=0)
    timing = TimingOptions(latency=False)
    reference = Baseline(tiny_baseline, data, ScoringOptions(), timing, device=torch.device("cpu"))
    toys.settled(reference.saved.model)
    return Session(reference, PruneOptions(calib_images=4), scores_folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("agreement")


@pytest.fixture(scope="module")
def record(bench: Session, folder: Path) -> dict[str, Any]:
    return measure_agreement(bench, make_pruners(["taylor", "l1", "random"], {}), GOAL, [0, 1], OPTIONS, folder)


def test_channels_are_drawn_from_every_group(bench: Session) -> None:
    groups = prunable(bench.groups)
    drawn = sampled_channels(groups, 20, seed=3)
    assert list(drawn) == groups
    for group, channels in drawn.items():
        assert channels == sorted(set(channels))
        assert len(channels) == min(20, group.channels)
        assert set(channels) <= set(range(group.channels))
    assert sampled_channels(groups, 20, seed=3) == drawn != sampled_channels(groups, 20, seed=4)


def test_the_record_holds_a_row_for_each_method_and_seed(
    record: dict[str, Any], bench: Session, folder: Path, tiny_baseline: Path
) -> None:
    assert [(row["method"], row["seed"], row["status"]) for row in record["rows"]] == [
        (method, seed, "done") for method in ("taylor", "l1", "random") for seed in (0, 1)
    ]
    assert json.loads((folder / RECORD).read_text()) == record
    assert record["format"] == "oracle-agreement/1"
    assert record["baseline"]["sha256"] == file_digest(tiny_baseline)
    oracle = record["oracle"]
    assert (oracle["images"], oracle["most_channels_of_a_group"], oracle["input_size"]) == (3, 4, [48, 64])
    assert list(oracle["groups"]) == [group.name for group in prunable(bench.groups)]
    for group in oracle["groups"].values():
        assert len(group["channels"]) == len(group["loss_change"]) == 4
    for kind in ("absolute", "signed"):
        assert record["ceiling"][kind]["groups"] == len(oracle["groups"])


def test_the_scores_judged_are_the_methods_own(record: dict[str, Any], scores_folder: Path) -> None:
    for row in record["rows"]:
        saved = torch.load(scores_folder / row["scores"], weights_only=True)["scores"]
        groups = record["oracle"]["groups"]
        scores = {name: saved[name][group["channels"]] for name, group in groups.items()}
        signed = {name: torch.tensor(group["loss_change"], dtype=torch.float64) for name, group in groups.items()}
        absolute = {name: change.abs() for name, change in signed.items()}
        for kind, truth in (("absolute", absolute), ("signed", signed)):
            wanted = agreement(scores, truth, [0.25, 0.5])
            for key in ("spearman", "kendall", "spearman_pooled", "kendall_pooled"):
                assert row[kind][key] == pytest.approx(wanted[key])
            for ratio in (0.25, 0.5):
                found = row[kind]["overlap"][str(ratio)]
                assert found["standard_error"] >= 0
                for key, value in wanted["overlap"][ratio].items():
                    assert found[key] == pytest.approx(value)


def test_the_set_test_removes_whole_sets(
    record: dict[str, Any], bench: Session, scores_folder: Path, tmp_path: Path
) -> None:
    """What it reports for a method is the mean loss of networks that were really cut."""
    row = next(row for row in record["rows"] if row["method"] == "l1")
    scores = torch.load(scores_folder / row["scores"], weights_only=True)["scores"]
    model, total = bench.baseline.saved.model, 0.0
    batches = bench.batches(OPTIONS.oracle_images, OPTIONS.oracle_seed)
    for name, group in record["oracle"]["groups"].items():
        order = scores[name][group["channels"]].argsort(stable=True)[:2]
        gone = {group["channels"][position] for position in order.tolist()}
        kept = [channel for channel in range(group["of"]) if channel not in gone]
        cut = toys.cut_copy(model, bench.groups, toys.plan_keeping(bench.groups, {name: kept}))
        images, labels = (torch.cat(side) for side in zip(*batches, strict=True))
        with torch.inference_mode():
            total += float(segmentation_loss(cut(images), labels, bench.baseline.data.classes.ignore_index))
    found = row["set_test"]["0.5"]
    assert found["method"] == pytest.approx(total / len(record["oracle"]["groups"]), rel=1e-5)
    assert found["gain"] == pytest.approx(
        (found["random"] - found["method"]) / (found["random"] - found["oracle"]), rel=1e-9
    )


def test_the_table_as_a_file(record: dict[str, Any], folder: Path) -> None:
    with (folder / CSV).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == ["(ceiling)", *(row["method"] for row in record["rows"])]
    for line, row in zip(lines[1:], record["rows"], strict=True):
        assert float(line["absolute.overlap.0.25.mean"]) == row["absolute"]["overlap"]["0.25"]["mean"]
        assert float(line["set_test.0.5.gain"]) == row["set_test"]["0.5"]["gain"]
    assert float(lines[0]["signed.spearman"]) == record["ceiling"]["signed"]["spearman"]


@pytest.fixture
def known(record: dict[str, Any], folder: Path, tmp_path: Path) -> Path:
    """Another folder, with the losses that were measured for the record."""
    (losses,) = folder.glob("oracle_losses_*.json")
    shutil.copy(losses, tmp_path)
    return tmp_path


def test_losses_are_measured_once_for_all_methods(
    record: dict[str, Any], bench: Session, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(ablation, "IncrementalForward", refuse)
    again = measure_agreement(bench, make_pruners(["l1", "taylor"], {}), GOAL, [1], OPTIONS, known)
    rows = {row["method"]: row for row in record["rows"] if row["seed"] == 1}
    assert again["rows"] == [rows["l1"], rows["taylor"]]


def test_a_method_that_cannot_score_is_a_failed_row(
    bench: Session, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slimming = make_pruner("slimming")
    monkeypatch.setattr(type(slimming), "score", lambda *_: {})
    found = measure_agreement(bench, {"slimming": slimming, "l1": make_pruner("l1")}, GOAL, [0], OPTIONS, known)
    assert [row["status"] for row in found["rows"]] == ["failed", "done"]
    assert "can score no channel" in found["rows"][0]["error"]


def test_one_image_has_no_halves(bench: Session, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 2"):
        measure_agreement(bench, {}, GOAL, [0], OracleOptions(oracle_images=1), tmp_path)


def test_the_command_prints_the_table(
    call: Callable[..., Outcome], tiny_camvid: Path, tiny_baseline: Path, tmp_path: Path
) -> None:
    flags = ["--dataset", "camvid", "--data-root", tiny_camvid, "--model", "unet_small", "--baseline", tiny_baseline]
    flags += ["--methods", "l1,random", "--ratios", "0.3", "--out-dir", tmp_path, "--num-workers", "0"]
    flags += ["--no-latency", "--no-evaluate", "--no-recalibrate", "--reconstruction-images", "0"]
    oracle = ["--oracle", "--oracle-images", "2", "--oracle-units", "2", "--oracle-ratios", "0.5"]
    done = call("benchmark.py", *flags, *oracle)
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert [line[0] for line in lines if line and line[0] in ("chance", "ceiling", "l1", "random")][-4:] == [
        "chance", "ceiling", "l1", "random",
    ]  # fmt: skip
    assert (tmp_path / RECORD).is_file()
    assert call("benchmark.py", *flags, "--oracle", "--oracle-ratios", "0").code == 2
