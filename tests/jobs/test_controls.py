"""Controls: the shape of a pruned network from new weights, trained with the budgets it is to be compared by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from records import faults

from bench.errors import UsageError
from bench.jobs import finetuning, pruning
from bench.jobs.controls import anew, check_controls, recipe_of_baseline
from bench.models import ModelSpec
from bench.models.checkpoint import SavedModel, load_model
from bench.system.files import read_json, write_json
from bench.torch_utils.sparse_weights import SPARSE
from bench.training.options import TrainOptions


@pytest.fixture(scope="module")
def kept() -> dict[str, list[int]]:
    """Channels of a shallow U-Net that stay."""
    return {"downs.0.conv.0": [1, 2, 5, 6, 7]}


def pruned(kept: dict[str, list[int]], **meta: Any) -> SavedModel:
    """A network of which these channels are left, with weights that somebody trained."""
    from bench.cut.network import fresh_network

    spec = ModelSpec("unet_small", 12, {"width": 8, "depth": 1})
    return SavedModel(fresh_network(spec, kept, 7), spec, kept, meta)


def tensors(saved: SavedModel) -> dict[str, torch.Tensor]:
    return saved.model.state_dict()


def test_new_weights_have_the_shape_and_nothing_else(kept):
    before = pruned(kept, input_size=[48, 64], pruning=[{"method": "l1"}])
    after = anew(before, 0, check=True)
    shapes = [{name: tensor.shape for name, tensor in tensors(saved).items()} for saved in (before, after)]
    assert shapes[0] == shapes[1] and len(set(shapes[0].values())) > 3
    assert not torch.equal(tensors(before)["downs.0.conv.0.weight"], tensors(after)["downs.0.conv.0.weight"])
    assert after.meta == {"input_size": [48, 64]}, "it was never pruned"

    def same(one: SavedModel, other: SavedModel) -> bool:
        return all(torch.equal(tensor, tensors(other)[name]) for name, tensor in tensors(one).items())

    assert same(anew(before, 0, check=True), after) and not same(anew(before, 1, check=True), after)
    # Of as many channels, whichever they were.
    assert same(anew(pruned({"downs.0.conv.0": [0, 2, 3, 4, 6]}), 0, check=True), after)


def test_zeros_of_a_sparse_network_stay():
    before = pruned({}, **{SPARSE: ["downs.0.conv.0.weight"]})
    with torch.no_grad():
        tensors(before)["downs.0.conv.0.weight"][:, 1] = 0
    after = tensors(anew(before, 0, check=True))["downs.0.conv.0.weight"]
    assert not after[:, 1].any() and (after[:, 0] != 0).all()


def test_a_baseline_is_trained_again_as_its_file_says():
    flags, path = TrainOptions(epochs=9, lr=0.5, batch_size=3), Path("b.pt")
    said = {"epochs": 40, "lr": 0.02, "batch_size": 8, "crop_size": [24, 32], "seed": 1, "option_of_later": 2}
    recipe = recipe_of_baseline({"options": said}, path, flags, ["batch_size"])
    assert recipe == TrainOptions(epochs=40, lr=0.02, batch_size=8, crop_size=(24, 32))
    assert recipe_of_baseline({"options": said}, path, replace(flags, lr=0.02), ["lr"]) == recipe
    with pytest.raises(UsageError, match=r"^b\.pt was trained with `epochs=40`, and so is .*; leave `epochs=9` out$"):
        recipe_of_baseline({"options": said}, path, flags, ["epochs", "lr"])
    # A file that says nothing.
    assert recipe_of_baseline({}, path, flags, ["epochs", "lr"]) == flags
    with pytest.raises(UsageError, match=r"^b\.pt does not say how it was trained; pass the `epochs` and `lr`"):
        recipe_of_baseline({}, path, flags, ["epochs"])


def test_a_control_like_finetuning_takes_finetuning():
    check_controls(["scratch-full"], None)
    check_controls(["scratch"], TrainOptions())
    with pytest.raises(UsageError, match="and there is none; pass `finetune_epochs`"):
        check_controls(["scratch", "scratch-full"], None)


def test_a_control_is_as_fast_as_the_network_of_its_shape(tmp_path, monkeypatch):
    monkeypatch.setattr(pruning, "latency_of", lambda report: report["latency"])
    write_json(tmp_path / "report.json", {"latency": [3.0]})
    for name in ("finetuned", "scratch"):
        write_json(tmp_path / f"{name}_report.json", {"latency": None, "of": name})
    baseline = SimpleNamespace(is_timed=True, times_alike=lambda latency: latency == [3.0])
    pruning.time_model(baseline, tmp_path)
    found = [read_json(tmp_path / f"{name}_report.json") for name in ("finetuned", "scratch")]
    assert found == [{"latency": [3.0], "of": name} for name in ("finetuned", "scratch")]
    assert not (tmp_path / "scratch_full_report.json").exists()


def test_controls_are_trained_once_and_stand_in_every_table(call, tiny_camvid, shallow_baseline, tmp_path, monkeypatch):
    trained, fit = [], finetuning.fit

    def noted(saved: SavedModel, data: Any, options: TrainOptions, *where: Any, **how: Any) -> Any:
        trained.append((how["label"], options.epochs, options.lr, options.freeze_backbone_epochs))
        return fit(saved, data, options, *where, **how)

    monkeypatch.setattr(finetuning, "fit", noted)
    out = tmp_path / "out"
    flags = ["--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0, "--baseline", shallow_baseline]
    flags += ["--no-latency", "--methods", "l1,random", "--ratios", 0.3, "--out-dir", out, "--batch-size", 4]
    flags += ["--no-evaluate", "--no-recalibrate", "--finetune-epochs", 1]

    def ran(*words: object) -> list[dict[str, Any]]:
        trained.clear()
        done = call("benchmark.py", *flags, *words)
        assert done.code == 0, done.err
        return read_json(out / "benchmark_summary.json")["rows"]

    refused = call("benchmark.py", *flags, "--controls", "scratch-full")
    assert refused.code == 2 and "does not say how it was trained; pass the --epochs and --lr" in refused.err
    both = ["--controls", "scratch,scratch-full", "--epochs", 2, "--lr", 0.02]
    rows = ran(*both)
    # Both networks have one shape, and so the same control.
    tuned, scratch, full = (
        ("fine-tuning", 1, 0.005, 0),
        ("control scratch", 1, 0.005, 0),
        ("control scratch-full", 2, 0.02, 0),
    )
    assert trained == [tuned, scratch, full, tuned]
    assert [row["method"] for row in rows] == ["l1", "random"]
    assert faults(read_json(out / "benchmark_summary.json")) == []
    for row in rows:
        assert (row["scratch_epochs"], row["scratch_full_epochs"]) == (1, 2)
        assert row["miou_scratch"] == rows[0]["miou_scratch"]
        widths = read_json(out / row["folder"] / "report.json")["candidate"]["widths"]
        for name in ("scratch", "scratch_full"):
            report = read_json(out / row["folder"] / f"{name}_report.json")
            assert faults(report) == [] and report["candidate"]["widths"] == widths
            assert report["candidate"]["path"] == str(out / row["folder"] / f"{name}_model.pt")
            assert report["candidate"]["quality"]["miou"] == row[f"miou_{name}"]
            assert (
                load_model(out / row["folder"] / f"{name}_model.pt").meta["options"]["epochs"] == row[f"{name}_epochs"]
            )
    text = (out / "benchmark_summary.md").read_text()
    assert "| mIoU tuned | mIoU scratch | mIoU scratch full |" in text
    assert "## Against the same shape from new weights, trained as fine-tuning is" in text
    assert (
        f"| l1 | 0.3 | 1 | {100 * (rows[0]['miou_finetuned'] - rows[0]['miou_scratch']):+.1f} | not told apart |"
        in text
    )
    assert ",miou_scratch,scratch_epochs,miou_scratch_full," in (out / "benchmark_summary.csv").read_text()

    # From the records alone the summary is the same.
    assert call("benchmark.py", "--out-dir", out, "--report-only").code == 0
    assert read_json(out / "benchmark_summary.json")["rows"] == rows

    # What is done is not done again, and stays in the tables.
    without = [{**row, "seconds": 0} for row in rows]
    assert [{**row, "seconds": 0} for row in ran(*both)] == without and trained == []
    assert [{**row, "seconds": 0} for row in ran()] == without and trained == []
    # Beside a fine-tuning of another budget it is no control; that of the baseline's budget is.
    other = ran("--finetune-lr", 0.01)
    assert trained == [(tuned[0], 1, 0.01, 0)] * 2
    assert "miou_scratch" not in other[0] and other[0]["miou_scratch_full"] == rows[0]["miou_scratch_full"]
    # One that was lost is made again, and is the same.
    (lost,) = out.glob("l1_*")
    before = json.loads((lost / "scratch_full_report.json").read_text())["candidate"]["quality"]
    for path in out.glob("*/scratch_full_model.pt"):
        path.unlink()
    again = ran("--finetune-lr", 0.01, "--controls", "scratch-full", "--epochs", 2, "--lr", 0.02)
    assert trained == [full] and again[0]["miou_scratch_full"] == rows[0]["miou_scratch_full"]
    assert read_json(lost / "scratch_full_report.json")["candidate"]["quality"] == before
