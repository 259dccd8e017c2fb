"""Fine-tuning the networks of a benchmark: once a recipe, with one outcome, by whichever command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_benchmarks import QUICK, RECIPE, Benchmark, numbers

from bench.errors import BenchError
from bench.jobs.selection import Selection
from bench.measure.options import ScoringOptions
from bench.models.checkpoint import SavedModel, load_model
from bench.plan.target import Goal
from bench.sweep.finetune_all import finetune_recipe
from bench.system.files import file_digest
from bench.training.options import DistillOptions, FinetuneOptions, TrainOptions


def test_the_recipe_of_finetuning_is_that_of_training_but_for_length_and_rate():
    training = TrainOptions(epochs=300, lr=0.01, batch_size=7)
    assert finetune_recipe(training, FinetuneOptions(3, 0.02)) == TrainOptions(epochs=3, lr=0.02, batch_size=7)
    assert finetune_recipe(training, FinetuneOptions(0)) is None


def test_a_backbone_has_a_rate_of_its_own_in_fine_tuning() -> None:
    training = TrainOptions(backbone_lr_factor=0.25)
    as_trained = finetune_recipe(training, FinetuneOptions(3, 0.02))
    of_its_own = finetune_recipe(training, FinetuneOptions(3, 0.02, finetune_backbone_lr_factor=1.0))
    assert (as_trained.backbone_lr_factor, of_its_own.backbone_lr_factor) == (0.25, 1.0)


def test_finetuning_is_done_once_for_each_recipe(bench):
    bench.run(["l1", "random"])
    pruned = bench.written("pruned_model.pt")
    rows = bench.finetune()
    assert all(0 <= row["miou_finetuned"] <= 1 for row in rows)
    first = bench.written("finetuned_model.pt")
    assert first.keys() == pruned.keys()
    assert numbers(bench.finetune()) == numbers(rows)
    assert bench.written("finetuned_model.pt") == first
    assert numbers(bench.summary("finetuned_summary")["rows"]) == numbers(rows)

    bench.finetune(replace(RECIPE, lr=0.02))
    second = bench.written("finetuned_model.pt")
    assert all(second[name] > first[name] for name in first)
    assert bench.written("pruned_model.pt") == pruned


def test_some_networks_are_finetuned_and_join_those_of_the_same_recipe(bench, capsys):
    bench.run(["l1", "l1_global"], [0.1], options=replace(QUICK, evaluate=False, recalibrate=False))
    rows = bench.finetune(selection=Selection(["l1"], [Goal("channels", 0.1)], [0]))
    assert [row["method"] for row in rows] == ["l1"], "and not all whose name begins so"
    assert {name.partition("_r")[0] for name in bench.written("finetuned_model.pt")} == {"l1"}
    assert [row["method"] for row in bench.finetune(selection=Selection(["l1_global"]))] == ["l1_global"]
    assert "holds 1 of 1 further jobs: those fine-tuned by the same recipe" in capsys.readouterr().out
    assert [row["method"] for row in bench.summary("finetuned_summary")["rows"]] == ["l1_global", "l1"]
    # Another budget is another comparison.
    bench.finetune(replace(RECIPE, lr=0.02), selection=Selection(["l1"]))
    assert [row["method"] for row in bench.summary("finetuned_summary")["rows"]] == ["l1"]


def test_a_teacher_is_part_of_the_recipe(bench):
    bench.run(["l1"], options=replace(QUICK, evaluate=False))
    bench.finetune()
    plain, before = bench.recipe(), bench.written("finetuned_model.pt")
    assert not {"distill_weight", "distill_temperature", "teacher"} & plain.keys()
    bench.finetune(distill=DistillOptions(0.0, 3.0))
    assert bench.written("finetuned_model.pt") == before, "without a weight there is no teacher"

    bench.finetune(distill=DistillOptions(2.0, 3.0))
    taught = {"distill_weight": 2.0, "distill_temperature": 3.0, "teacher": file_digest(bench.baseline)}
    assert bench.recipe() == {**plain, **taught}
    (name,) = before
    meta = load_model(bench.out / name / "finetuned_model.pt").meta
    assert meta["options"].items() >= taught.items()
    after = bench.written("finetuned_model.pt")
    assert after != before
    bench.finetune(distill=DistillOptions(2.0, 3.0))
    assert bench.written("finetuned_model.pt") == after


def test_the_commands_distil_alike_from_the_network_that_is_open(bench, call, monkeypatch):
    opened = []

    def noted(path: Path, **how: Any) -> SavedModel:
        opened.append(path)
        return load_model(path, **how)

    for module in ("measure.baseline", "jobs.finetuning", "jobs.pruning"):
        monkeypatch.setattr(f"bench.{module}.load_model", noted)
    flags = ["--dataset", "camvid", "--data-root", bench.data.data_root, "--num-workers", 0, "--model", "unet_small"]
    flags += ["--baseline", bench.baseline, "--no-latency", "--finetune-epochs", 1, "--batch-size", 4]
    flags += ["--distill-weight", 2, "--distill-temperature", 3]
    cut = ["--methods", "l1", "--ratios", 0.1, "--out-dir", bench.out, "--no-evaluate"]
    outcome = call("benchmark.py", *flags, *cut, "--recalibration-images", 2)
    assert outcome.code == 0, outcome.err
    assert opened.count(bench.baseline) == 1, "the teacher is the baseline as it was opened"
    first, (tuned,) = bench.recipe(), bench.out.glob("*/finetuned_model.pt")
    tensors = load_model(tuned).model.state_dict()
    assert (first["distill_weight"], first["distill_temperature"]) == (2.0, 3.0)
    for name in ("finetuned_model.pt", "finetuned_report.json"):
        (tuned.parent / name).unlink()
    outcome = call("finetune_batch.py", *flags, "--benchmark-dir", bench.out)
    assert outcome.code == 0, outcome.err
    assert bench.recipe() == first
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_model(tuned).model.state_dict().items())


def test_a_finetuned_network_is_as_narrow_as_the_pruned_one(bench):
    (row,) = bench.run(["l1"], [0.3], finetune=RECIPE)
    folder = bench.out / row["folder"]
    pruned, tuned = (load_model(folder / name) for name in ("pruned_model.pt", "finetuned_model.pt"))
    assert tuned.channels == pruned.channels
    shapes = [{name: tensor.shape for name, tensor in saved.model.state_dict().items()} for saved in (pruned, tuned)]
    assert shapes[0] == shapes[1]
    assert any(
        not torch.equal(before, after)
        for before, after in zip(pruned.model.parameters(), tuned.model.parameters(), strict=True)
    )


def test_benchmark_and_batch_finetune_alike_whatever_the_seed(bench, tmp_path):
    """A job is fine-tuned with its own seed, also in the order and augmentation of its images."""
    other = Benchmark(Path(bench.data.data_root), bench.baseline, tmp_path / "other")
    direct = bench.run(["l1"], seeds=[1], finetune=RECIPE)
    other.run(["l1"], seeds=[1], seed=5)
    batch = other.finetune(seed=5)
    assert numbers(direct) == numbers(batch)
    records = [
        json.loads((folder / row["folder"] / "finetuned_report.json").read_text())["finetune"]["history"]
        for folder, (row,) in ((bench.out, direct), (other.out, batch))
    ]
    assert records[0][0]["train_loss"] == records[1][0]["train_loss"]


def test_seeds_see_other_images_in_finetuning(bench):
    rows = bench.run(["l1"], seeds=[0, 1], options=replace(QUICK, recalibrate=False), finetune=RECIPE)
    losses = {
        json.loads((bench.out / row["folder"] / "finetuned_report.json").read_text())["finetune"]["history"][0][
            "train_loss"
        ]
        for row in rows
    }
    assert len(losses) == 2


def test_a_failed_finetuning_is_mended_without_pruning_again(bench):
    wild = replace(RECIPE, lr=1e30)
    rows = bench.run(["l1"], finetune=wild)
    assert [row["status"] for row in rows] == ["failed"]
    assert rows[0]["error"].startswith("the loss is nan in epoch 1")
    pruned = bench.written("pruned_model.pt")
    assert len(bench.written("failed")) == 1
    assert bench.written("finetuned_model.pt") == {}

    rows = bench.run(["l1"], finetune=RECIPE)
    assert [row["status"] for row in rows] == ["done"]
    assert bench.written("pruned_model.pt") == pruned
    assert bench.written("failed") == {}


def test_finetuning_refuses_what_does_not_compare(bench, shallow_baseline, tmp_path):
    bench.run(["l1"])

    def refused(**changes: Any) -> str:
        with pytest.raises(BenchError) as caught:
            bench.finetune(**changes)
        return str(caught.value)

    assert refused(scoring=ScoringOptions(split="val")) == (
        f"no pruned network in {bench.out} fits: "
        "1 of 1 was measured with --split test; pass that too, or its numbers do not compare"
    )
    bench.data = replace(bench.data, input_size=(32, 32))
    assert "was measured with --input-size 48,64" in refused()
    bench.data = replace(bench.data, input_size=None)
    for changes, says in (
        ({"scales": [0.5, 1.0]}, "with --scales 1.0; pass that too"),
        ({"flip": True}, "without --flip; leave that out too"),
        ({"sliding_window": (16, 16)}, "without --sliding-window; leave that out too"),
    ):
        assert f"was measured {says}, or its numbers do not compare" in refused(scoring=ScoringOptions(**changes))

    other = load_model(shallow_baseline)
    bench.baseline = tmp_path / "other.pt"
    torch.save(other.model.state_dict(), bench.baseline)
    with pytest.raises(BenchError, match="plain state_dict"):
        bench.finetune()
    bench.baseline.write_bytes(shallow_baseline.read_bytes() + b"\0")
    assert "pass that one as --baseline" in refused()
    # Found before the first job: nothing was begun, and there is no summary.
    assert bench.written("finetuned_model.pt") == bench.written("failed") == {}
    assert not list(bench.out.glob("finetuned_summary.*"))


def test_there_must_be_something_to_finetune(bench):
    with pytest.raises(BenchError, match=r"holds no pruned network; run benchmark\.py"):
        bench.finetune()
