"""Commands take from a checkpoint what their flags leave open, data set, folder, size, network, and contradict none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from bench.datasets.synthetic import draw_dataset
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import load_model
from bench.system.files import read_json

IN_ONE_PROCESS = ("--num-workers", 0)
QUICK = ("--epochs", 1, "--batch-size", 4, *IN_ONE_PROCESS)


@pytest.fixture(scope="module")
def trained(tiny_camvid, tmp_path_factory) -> Path:
    """A network trained on CamVid at 48x64 from a folder of its own."""
    from scripts import run_script

    folder = tmp_path_factory.mktemp("trained")
    flags = ["--dataset", "camvid", "--data-root", tiny_camvid, "--model", "unet_small", "--input-size", "48,64"]
    result = run_script("train.py", *flags, *QUICK, "--save", folder, folder=folder)
    assert (result.code, result.err) == (0, "")
    return folder / "best.pt"


def says(tiny_camvid: Path, path: Path) -> str:
    return f"as {path} says: --dataset camvid --data-root {tiny_camvid} --input-size 48,64"


@pytest.fixture
def type_in(call, tmp_path):
    """Types a command in an empty folder."""

    def type_command(script, *flags):
        return call(script, *flags, *IN_ONE_PROCESS, folder=tmp_path)

    return type_command


def test_training_writes_where_its_images_lie(trained, tiny_camvid):
    meta = load_model(trained).meta
    assert (meta["dataset"], meta["data_root"]) == ("camvid", str(tiny_camvid))


def test_a_checkpoint_is_pruned_scored_and_compared_on_its_own_data(trained, tiny_camvid, type_in, tmp_path):
    flags = ["--method", "l1", "--global-ratio", 0.3, "--no-latency", "--save", "p"]
    result = type_in("prune.py", "--ckpt", trained, *flags)
    assert (result.code, result.err) == (0, "")
    assert result.out.count("says:") == 1 and says(tiny_camvid, trained) in result.out
    report = read_json(tmp_path / "p" / "report.json")
    assert (report["dataset"], report["input_size"]) == ("camvid", [48, 64])
    # A pruned network says the same.
    pruned = tmp_path / "p" / "pruned_model.pt"
    assert load_model(pruned).meta["data_root"] == str(tiny_camvid)
    result = type_in("eval.py", "--baseline", pruned, "--report", "e/r.json", "--no-latency", "--no-html")
    assert (result.code, result.err) == (0, "")
    assert says(tiny_camvid, pruned) in result.out
    assert read_json(tmp_path / "e" / "r.json")["dataset"] == "camvid"
    # No set was drawn for want of a name.
    assert {path.name for path in tmp_path.iterdir()} == {"p", "e"}


def test_a_benchmark_reads_network_and_data_from_the_baseline(trained, tiny_camvid, type_in, tmp_path):
    flags = ["--baseline", trained, "--methods", "l1", "--ratios", 0.3, "--no-latency", "--out-dir", "b"]
    result = type_in("benchmark.py", *flags)
    assert (result.code, result.err) == (0, "")
    assert says(tiny_camvid, trained) in result.out
    baseline = read_json(tmp_path / "b" / "benchmark_summary.json")["baseline"]
    assert (baseline["model"], baseline["dataset"]) == ("unet_small", "camvid")
    assert baseline["input_size"] == [48, 64]


def test_training_goes_on_with_the_network_and_data_of_a_file(trained, tiny_camvid, type_in, tmp_path):
    result = type_in("train.py", "--ckpt", trained, *QUICK, "--save", "t")
    assert (result.code, result.err) == (0, "")
    config = read_json(tmp_path / "t" / "config.json")
    assert (config["model"], config["dataset"]) == ("unet_small", "camvid")
    assert load_model(tmp_path / "t" / "best.pt").meta["input_size"] == [48, 64]


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("prune.py", ["--method", "l1", "--global-ratio", 0.3, "--save", "p", "--ckpt"]),
        ("eval.py", ["--report", "r.json", "--baseline"]),
        ("benchmark.py", ["--methods", "l1", "--ratios", 0.3, "--out-dir", "b", "--baseline"]),
    ],
)
def test_a_flag_that_contradicts_the_file_is_refused(script, flags, trained, type_in, tmp_path):
    result = type_in(script, *flags, trained, "--dataset", "synthetic")
    assert result.code == 1
    assert f"{trained} was trained on camvid, not on synthetic; pass --dataset camvid" in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "datasets").exists()


@pytest.mark.parametrize("script", ["prune.py", "eval.py", "benchmark.py", "train.py"])
def test_a_file_that_does_not_say_its_data_needs_the_flag(script, shallow_baseline, type_in):
    flags = {
        "prune.py": ["--method", "l1", "--global-ratio", 0.3, "--save", "p", "--ckpt"],
        "eval.py": ["--report", "r.json", "--baseline"],
        "benchmark.py": ["--methods", "l1", "--ratios", 0.3, "--out-dir", "b", "--baseline"],
        "train.py": ["--save", "t", "--ckpt"],
    }
    result = type_in(script, *flags[script], shallow_baseline)
    assert result.code == 2
    assert f"{shallow_baseline} does not say which data set it was trained on; pass --dataset NAME" in result.err


def test_a_candidate_of_other_data_is_refused(trained, tiny_camvid, type_in, tmp_path):
    draw_dataset(tmp_path / "scenes", images={"train": 2, "val": 1, "test": 1}, size=(48, 64))
    flags = ["--dataset", "synthetic", "--data-root", "scenes", "--model", "unet_small", "--input-size", "48,64"]
    assert type_in("train.py", *flags, "--epochs", 1, "--batch-size", 2, "--save", "other").code == 0
    files = ["--baseline", trained, "--candidate", "other/best.pt", "--report", "r.json", "--no-latency"]
    result = type_in("eval.py", *files)
    assert result.code == 1
    assert "other/best.pt was trained on synthetic, not on camvid" in result.err


# --- the jobs of a benchmark


@pytest.fixture(scope="module")
def compared(trained, tiny_camvid, tmp_path_factory) -> Path:
    """A benchmark of two jobs at another size, on another split and with other scoring than would be by default."""
    from scripts import run_script

    folder = tmp_path_factory.mktemp("compared")
    flags = ["--methods", "l1,random", "--ratios", 0.3, "--no-latency", "--out-dir", folder / "out"]
    how = ["--input-size", "32,48", "--split", "val", "--flip", "--scales", "0.5,1", *IN_ONE_PROCESS]
    result = run_script("benchmark.py", "--baseline", trained, *flags, *how, folder=folder)
    assert (result.code, result.err) == (0, "")
    return folder / "out"


@pytest.fixture
def finetune(type_in, compared, trained, tmp_path):
    """Types finetune_batch.py for a copy of the benchmark."""
    out = shutil.copytree(compared, tmp_path / "benchmark")

    def type_command(*flags):
        how = ["--finetune-epochs", 1, "--batch-size", 4, "--no-latency", "--benchmark-dir", out]
        return type_in("finetune_batch.py", "--baseline", trained, *how, *flags)

    return type_command


def test_finetuning_repeats_how_the_jobs_were_measured(finetune, tiny_camvid, tmp_path):
    result = finetune()
    assert (result.code, result.err) == (0, "")
    says = (
        f"as {tmp_path / 'benchmark'} says: --dataset camvid --input-size 32,48 --data-root {tiny_camvid} --split val "
        "--scales 0.5,1.0 --flip\n"
    )
    assert result.out.startswith(says)
    reports = [read_json(path) for path in (tmp_path / "benchmark").glob("*/finetuned_report.json")]
    assert [report["input_size"] for report in reports] == [[32, 48]] * 2
    assert {report["split"] for report in reports} == {"val"}
    assert all(report["scoring"]["flip"] and report["scoring"]["scales"] == [0.5, 1.0] for report in reports)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dataset", "synthetic"], "with --dataset camvid; pass that too"),
        (["--input-size", "48,64"], "with --input-size 32,48; pass that too"),
        (["--split", "test"], "with --split val; pass that too"),
        (["--no-flip"], "with --flip; pass that too"),
        (["--boundary-width", 2], "without --boundary-width; leave that out too"),
    ],
)
def test_a_flag_that_contradicts_the_jobs_fails_once(flags, says, finetune, tmp_path):
    before = sorted((tmp_path / "benchmark").rglob("*"))
    result = finetune(*flags)
    assert result.code == 1 and len(result.err.splitlines()) == 1
    assert f"was measured {says}, or its numbers do not compare" in result.err
    assert sorted((tmp_path / "benchmark").rglob("*")) == before


def test_jobs_of_two_kinds_are_told_apart(finetune, type_in, trained, tmp_path):
    out = tmp_path / "benchmark"
    flags = ["--baseline", trained, "--methods", "l2", "--ratios", 0.3, "--no-latency", "--out-dir", out]
    assert type_in("benchmark.py", *flags).code == 0
    result = finetune()
    assert result.code == 1 and "were measured in several ways: l1_r0.3_s0_" in result.err
    assert "with --input-size 32,48, l2_r0.3_s0_" in result.err and "with --input-size 48,64; say which" in result.err
    result = finetune("--input-size", "48,64")
    assert (result.code, result.err) == (0, "")
    assert (
        "left out, of the pruned networks in" in result.out
        and ": 2 of 3 was measured with --input-size 32,48" in result.out
    )
    assert [path.parent.name[:2] for path in out.glob("*/finetuned_report.json")] == ["l2"]


# --- public files, whose outputs are others


@pytest.fixture
def public(tmp_path) -> Path:
    """A plain state dict of 21 outputs."""
    torch.save(build_model(ModelSpec("unet_small", 21)).state_dict(), tmp_path / "public.pth")
    return tmp_path / "public.pth"


@pytest.mark.parametrize("flag", [[], ["--reset-head"]])
def test_training_begins_from_a_public_file(flag, public, tiny_camvid, type_in, tmp_path):
    data = ["--dataset", "camvid", "--data-root", tiny_camvid, "--input-size", "48,64", "--model", "unet_small"]
    result = type_in("train.py", "--ckpt", public, *flag, *data, *QUICK, "--save", "t")
    assert (result.code, result.err) == (0, "")
    assert f"final_conv of {public} begin anew, with 12 outputs" in result.out
    assert load_model(tmp_path / "t" / "best.pt").spec == ModelSpec("unet_small", 12)
    assert read_json(tmp_path / "t" / "config.json")["reset_head"] is bool(flag)


def test_only_training_gives_a_file_new_outputs(public, tiny_camvid, type_in):
    data = ["--dataset", "camvid", "--data-root", tiny_camvid, "--model", "unet_small"]
    for script, flags in (
        ("prune.py", ["--method", "l1", "--global-ratio", 0.3, "--save", "p", "--ckpt", public]),
        ("eval.py", ["--report", "r.json", "--baseline", public]),
    ):
        result = type_in(script, *data, *flags)
        assert result.code == 1
        assert f"{public} has 21 outputs, the data set needs 12; use a checkpoint trained on it, or" in result.err
        assert f"train.py --ckpt {public} --reset-head" in result.err


def test_groups_are_listed_whatever_the_outputs(public, type_in, trained):
    for flags in (["--ckpt", public, "--model", "unet_small"], ["--ckpt", trained]):
        result = type_in("prune.py", "--list-groups", *flags)
        assert (result.code, result.err) == (0, "")
        assert "bottleneck.conv.0" in result.out and "says:" not in result.out


def test_a_new_head_is_in_place_of_a_file(type_in):
    result = type_in("train.py", "--reset-head", "--save", "t")
    assert result.code == 2
    assert "--reset-head begins with new output layers in place of a checkpoint's; pass --ckpt FILE" in result.err
