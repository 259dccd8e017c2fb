"""Zeros that stay: through optimizers and averages, through files, and through the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_networks as toys
from records import faults
from toy_training import TOY, ToyData, new_network

from bench.channels.groups import find_groups
from bench.models import MODELS
from bench.models.checkpoint import load_model
from bench.torch_utils.sparse_weights import SPARSE, FixedZeros, set_to_zero
from bench.train_eval import fit
from bench.training.options import TrainOptions

CPU = torch.device("cpu")
WEIGHT = "body.0.weight"


@pytest.fixture
def sparse_network(monkeypatch: pytest.MonkeyPatch):
    """A toy network half of whose first weights are zero, and where."""
    monkeypatch.setitem(MODELS, "toy", TOY)
    saved = new_network()
    zeros = torch.rand(saved.model.get_parameter(WEIGHT).shape, generator=torch.Generator().manual_seed(2)) < 0.5
    set_to_zero(saved.model, {WEIGHT: zeros})
    saved.meta[SPARSE] = [WEIGHT]
    return saved, zeros


def test_setting_and_restoring_zeros() -> None:
    model = toys.Chain()
    weight = model.get_parameter("first.0.weight")
    zeros = weight.detach() > 0
    before = weight.detach().clone()
    set_to_zero(model, {"first.0.weight": zeros})
    assert torch.equal(weight, before.masked_fill(zeros, 0.0))
    fixed = FixedZeros(model, ["first.0.weight"])
    with torch.no_grad():
        weight.sub_(1.0)
    fixed.restore()
    assert torch.equal(weight == 0, zeros)
    # No negative zeros: they are other bytes.
    assert not torch.signbit(weight[zeros]).any()
    assert torch.equal(weight[~zeros], before[~zeros] - 1.0)


@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "sgd", "ema": 0.9, "grad_clip": 1.0},
    ],
    ids=["sgd", "adamw", "ema"],
)
def test_zeros_survive_training(sparse_network: Any, tmp_path: Path, recipe: dict[str, Any]) -> None:
    saved, zeros = sparse_network
    before = saved.model.get_parameter(WEIGHT).detach().clone()
    options = TrainOptions(epochs=2, batch_size=4, lr=0.1, **recipe)
    fit(saved, ToyData(), options, 0, tmp_path, device=CPU)
    files = [load_model(tmp_path / name) for name in ("best.pt", "last.pt")]
    assert [file.meta[SPARSE] for file in files] == [[WEIGHT]] * 2
    for model in (saved.model, *(file.model for file in files)):
        weight = model.get_parameter(WEIGHT)
        assert torch.equal(weight == 0, zeros)
        assert not torch.equal(weight, before)
    # Only what was sparse is held: the other tensors keep none of their accidental zeros.
    assert saved.model.body[1].bias.count_nonzero() == 8


def test_a_resumed_run_keeps_them_too(sparse_network: Any, tmp_path: Path) -> None:
    saved, zeros = sparse_network
    options = TrainOptions(epochs=2, batch_size=4, lr=0.1)

    class Killed(Exception):
        pass

    def kill(epoch: int, batch: int) -> None:
        if (epoch, batch) == (1, 1):
            raise Killed

    with pytest.raises(Killed):
        fit(saved, ToyData(watch=kill), options, 0, tmp_path, device=CPU)
    again = new_network()
    set_to_zero(again.model, {WEIGHT: zeros})
    again.meta[SPARSE] = [WEIGHT]
    fit(again, ToyData(), options, 0, tmp_path, resume=True, device=CPU)
    assert torch.equal(again.model.get_parameter(WEIGHT) == 0, zeros)


def test_cut_networks_keep_their_zeros() -> None:
    model = toys.Chain()
    groups = find_groups(model)
    weight = model.get_parameter("second.0.weight")
    zeros = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    set_to_zero(model, {"second.0.weight": zeros})
    kept = {"first.0": [0, 2, 3], "second.0": [1, 5]}
    smaller = toys.cut_copy(model, groups, toys.plan_keeping(groups, kept))
    fixed = FixedZeros(smaller, ["second.0.weight"])
    with torch.no_grad():
        smaller.second[0].weight.add_(1.0)
    fixed.restore()
    assert torch.equal(smaller.second[0].weight == 0, zeros[[1, 5]][:, [0, 2, 3]])


# --- the commands


@pytest.fixture
def flags(tiny_camvid: Path) -> list[object]:
    return ["--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0, "--no-latency", "--threads", 1]


def test_from_pruning_through_fine_tuning_to_the_report(call, flags, tiny_baseline: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = [*flags, "--baseline", tiny_baseline]
    ended = call(
        "benchmark.py",
        *flags,
        "--model",
        "unet_small",
        "--methods",
        "magnitude,random",
        "--ratios",
        0.5,
        "--out-dir",
        out,
    )
    assert (ended.code, ended.err.count("error")) == (0, 0)
    (folder,) = out.glob("magnitude_*")
    info = json.loads((folder / "pruning_info.json").read_text())
    assert faults(info) == []
    assert info["target"] == {"kind": "sparsity", "value": 0.5, "within": None}
    assert (info["plan"], info["scores"]) == (None, None)
    assert info["sparsity"]["reached"] == pytest.approx(0.5, abs=1e-6)
    after, before = info["cost"]["after"], info["cost"]["before"]
    assert before["nonzero_parameters"] - after["nonzero_parameters"] == info["sparsity"]["zeroed"]
    assert (after["parameters"], after["macs"]) == (before["parameters"], before["macs"])
    assert {"baseline", "cut", "recalibrated"} <= info["quality"].keys()

    tuned = call(
        "finetune_batch.py", "--benchmark-dir", out, *flags, "--finetune-epochs", 1, "--batch-size", 4, "--ema", 0.5
    )
    assert tuned.code == 0
    sparse, finished = (load_model(folder / f"{name}.pt") for name in ("pruned_model", "finetuned_model"))
    for name in sparse.meta[SPARSE]:
        old, new = (saved.model.get_parameter(name) for saved in (sparse, finished))
        assert torch.equal(old == 0, new == 0)
        assert not torch.equal(old, new)
    assert finished.meta[SPARSE] == sparse.meta[SPARSE]

    ended = call(
        "eval.py", *flags, "--candidate", folder / "finetuned_model.pt", "--report", tmp_path / "eval" / "report.json"
    )
    assert ended.code == 0
    report = json.loads((tmp_path / "eval" / "report.json").read_text())
    assert faults(report) == []
    dense, candidate = report["baseline"], report["candidate"]
    assert candidate["cost"]["parameters"] == dense["cost"]["parameters"]
    # Two thirds of the bytes: zeros are as long as other numbers until they are compressed.
    assert candidate["bytes_on_disk"] == pytest.approx(dense["bytes_on_disk"], rel=0.01)
    assert candidate["compressed_bytes"] < 0.7 * dense["compressed_bytes"]
    assert dense["compressed_bytes"] > 0.85 * dense["bytes_on_disk"]

    summary = json.loads((out / "finetuned_summary.json").read_text())
    row, control = sorted(summary["rows"], key=lambda row: row["method"])
    assert (row["target"], row["channel_ratio"], row["parameters_kept"], row["macs_kept"]) == (
        "sparsity",
        0.0,
        1.0,
        1.0,
    )
    assert 0.49 < row["nonzero_kept"] < 0.52
    assert (control["target"], control["nonzero_kept"] < 0.3) == ("channels", True)
    text = (out / "finetuned_summary.md").read_text()
    assert "| magnitude | sparsity 0.5 | 100.0 | 100.0 | 50." in text
    assert "Sparsity is unstructured" in text
    # It is in no comparison with the control, whose 0.5 is a share of the channels.
    assert "| magnitude | sparsity 0.5 |" not in text.partition("## Against")[2]


def test_what_makes_no_sense_is_refused_in_one_line(call, flags, tiny_baseline: Path, tmp_path: Path) -> None:
    pruning = ["prune.py", *flags, "--ckpt", tiny_baseline, "--save", tmp_path / "out", "--method", "magnitude"]
    for words, message in (
        (["--target-macs", 0.5], "leaves parameters, MACs and size as they are"),
        (["--global-ratio", 0.5, "--round-to", 8], "magnitude removes no channels; leave --round-to out"),
        (["--global-ratio", 0.5, "--scope", "local"], "magnitude removes no channels; leave --scope out"),
        (["--sensitivity"], "ranks no channels"),
        (["--global-ratio", 0.9999999], "of the weights cannot go"),
    ):
        ended = call(*pruning, *words)
        assert ended.code in (1, 2)
        assert message in ended.err
        assert ended.err.count("\n") == 1
    benchmark = ["benchmark.py", *flags, "--baseline", tiny_baseline, "--out-dir", tmp_path / "b"]
    ended = call(*benchmark, "--methods", "l1,magnitude", "--target-params", 0.5)
    assert (ended.code, "leaves parameters" in ended.err) == (2, True)
    assert not (tmp_path / "b").exists()
