"""What a user can get wrong: one line on stderr that helps, the right exit status, nothing half-written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.pruners.norm.pruner import L1

USAGE, FAILURE = 2, 1
WITH_CHECKPOINT = {
    "prune.py": "--ckpt",
    "eval.py": "--baseline",
    "benchmark.py": "--baseline",
    "finetune_batch.py": "--baseline",
    "train.py": "--ckpt",
}
SCRIPTS = tuple(WITH_CHECKPOINT)


class Commands:
    """Commands that would succeed, to be spoilt by one more flag: the last of its name counts."""

    def __init__(self, call: Callable[..., Any], data_root: Path, baseline: Path, out: Path):
        self._call, self.baseline, self.out = call, baseline, out
        data = ["--dataset", "camvid", "--data-root", data_root, "--num-workers", 0, "--model", "unet_small"]
        short = ["--epochs", 1, "--batch-size", 2, "--input-size", "48,64"]
        finetune = ["--benchmark-dir", out, "--baseline", baseline, "--finetune-epochs", 1, "--batch-size", 2]
        evaluation = ["--baseline", baseline, "--candidate", baseline, "--report", out / "report.json", "--no-latency"]
        self.flags = {
            "train.py": [*data, *short, "--save", out],
            "prune.py": [*data, "--ckpt", baseline, "--method", "l1", "--global-ratio", 0.1, "--save", out],
            "benchmark.py": [*data, "--baseline", baseline, "--methods", "l1", "--ratios", 0.1, "--out-dir", out],
            "finetune_batch.py": [*data, *finetune],
            "eval.py": [*data, *evaluation],
        }

    def run(self, script: str, *flags: object) -> Any:
        """How a command with further flags ended."""
        return self._call(script, *self.flags[script], *flags)

    def refused(self, script: str, *flags: object, code: int, says: str | Iterable[str]) -> None:
        """Asserts that a command ends as a user's error should."""
        result = self.run(script, *flags)
        check_error(script, result.code, result.err, code, says)
        left = {path.name for path in self.out.rglob("*")} if self.out.is_dir() else set()
        assert left <= {"failed"}

    def accepted(self, script: str, *flags: object) -> None:
        """Asserts that a command succeeds."""
        result = self.run(script, *flags)
        assert (result.code, result.err) == (0, "")


def check_error(script: str, found: int, err: str, code: int, says: str | Iterable[str]) -> None:
    assert err.endswith("\n")
    (line,) = err.splitlines()
    assert line.startswith(f"{script}: error: ")
    for words in [says] if isinstance(says, str) else says:
        assert words in line
    assert "Traceback" not in err
    assert found == code
    assert line.endswith(f"(see {script} --help)") == (code == USAGE)


@pytest.fixture
def commands(call, tiny_camvid, shallow_baseline, tmp_path):
    return Commands(call, tiny_camvid, shallow_baseline, tmp_path / "out")


@pytest.mark.parametrize("script", ["train.py", "prune.py", "eval.py"])
def test_the_unspoilt_commands_work(commands, script):
    commands.accepted(script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_data_set(commands, script):
    commands.refused(script, "--dataset", "camvd", code=USAGE, says="unknown data set 'camvd'; did you mean camvid")


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_model(commands, script):
    commands.refused(
        script, "--model", "resnet50seg", code=USAGE, says="unknown model 'resnet50seg'; did you mean resnet50_seg"
    )


def test_unknown_model_without_a_checkpoint(commands):
    commands.refused("train.py", "--model", "zzz", code=USAGE, says=["unknown model 'zzz'; known: ", "unet_small"])


@pytest.mark.parametrize(("script", "flag"), [("prune.py", "--method"), ("benchmark.py", "--methods")])
def test_unknown_method(commands, script, flag):
    commands.refused(script, flag, "tailor", code=USAGE, says="unknown method 'tailor'; did you mean taylor")


@pytest.mark.parametrize(("script", "flag"), [("prune.py", "--global-ratio"), ("benchmark.py", "--ratios")])
@pytest.mark.parametrize("ratio", ["1", "-0.1", "1.5", "nan"])
def test_ratio_out_of_range(commands, script, flag, ratio):
    commands.refused(script, f"{flag}={ratio}", code=USAGE, says=f"argument {flag}: {ratio} is not in [0, 1)")


@pytest.mark.parametrize("script", SCRIPTS)
def test_malformed_input_size(commands, script):
    commands.refused(script, "--input-size", "360", code=USAGE, says=["--input-size", "such as 360,480"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_wrong_config(commands, script, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("data-rot: ./datasets\n")
    commands.refused(
        script, "--config", config, code=USAGE, says=[str(config), "unknown key 'data-rot'; did you mean data-root"]
    )


@pytest.mark.parametrize(
    ("script", "flags", "says"),
    [
        ("train.py", ["--batch-size", 0], "argument --batch-size: 0 is too small; at least 1"),
        ("finetune_batch.py", ["--batch-size", 0], "argument --batch-size: 0 is too small; at least 1"),
        ("benchmark.py", ["--seeds", "abc"], "argument --seeds: 'abc' is not a whole number"),
        ("prune.py", ["--seed", "abc"], "argument --seed: 'abc' is not a whole number"),
        ("benchmark.py", ["--ratios", ","], "argument --ratios: the list is empty"),
        ("finetune_batch.py", ["--finetune-epochs", 0], "--finetune-epochs 0 fine-tunes nothing"),
        ("prune.py", ["--opt", "term"], "argument --opt: 'term' is not KEY=VALUE"),
        ("prune.py", ["--opt", "term=["], "argument --opt: 'term=[' is not KEY=VALUE"),
        ("prune.py", ["--opt", "term=gamma"], "l1 has no options; 'term' is not one"),
        ("prune.py", ["--method", "taylor", "--opt", "trem=gamma"], "unknown option of taylor 'trem'; did you mean"),
        ("prune.py", ["--method", "taylor", "--opt", "term=alpha"], "must be gate or gamma, not 'alpha'"),
        ("prune.py", ["--method", "taylor", "--opt", "term=3"], "option term of taylor must be str, not 3"),
        ("benchmark.py", ["--opt", "term=gamma"], "'term' is not METHOD.KEY with one of the methods l1"),
        ("benchmark.py", ["--opt", "taylor.term=gamma"], "'taylor.term' is not METHOD.KEY with one of the methods l1"),
        ("eval.py", ["--split", "tset"], "argument --split: invalid choice: 'tset'"),
        ("eval.py", ["--picture", "p.png", "--picture-index", 4], "--picture-index 4 is not one of the 4 images"),
        ("eval.py", ["--predict-ids", "label"], "--predict is missing"),
        (
            "eval.py",
            ["--predict", "p", "--predict-ids", "label"],
            "camvid has no label ids but",
        ),
        ("eval.py", ["--stride", "8,8"], "--stride is the step of --sliding-window; pass that too"),
        ("train.py", ["--sliding-window", "8,8", "--stride", "9,9"], "--stride 9,9 leaves gaps between windows of 8,8"),
        ("prune.py", ["--scales", "1,0"], "argument --scales: 0 is too small; above 0"),
        ("eval.py", ["--boundary-width", "1.5"], "argument --boundary-width: 1.5 is neither whole pixels nor"),
        ("train.py", ["--resume", "--overwrite"], "--resume and --overwrite contradict each other"),
        ("train.py", ["--device", "gpu"], "unknown device 'gpu'; write auto, cpu, cuda or cuda:N"),
        ("benchmark.py", ["--device", "cuda:99"], "device cuda:99 does not exist"),
        ("benchmark.py", ["--train-baseline", "--baseline", "x.pt"], "--train-baseline writes a best.pt"),
        ("prune.py", ["--target-macs", 0.5], "pass exactly one of --global-ratio, --target-macs, --target-params"),
        ("benchmark.py", ["--target-size", "10MB"], ", not --ratios, --target-size"),
        ("prune.py", ["--target-size", "10"], "argument --target-size: '10' is not a size"),
        ("benchmark.py", ["--target-params", "0.5,1.5"], "argument --target-params: 1.5 is not in (0, 1]"),
        (
            "prune.py",
            ["--target-latency", "12"],
            "argument --target-latency: 12 is not in (0, 1], or write a time",
        ),
        ("benchmark.py", ["--target-latency", "0.5,9ms"], ", not --ratios, --target-latency"),
        ("prune.py", ["--round-to", 0], "argument --round-to: 0 is too small; at least 1"),
        ("prune.py", ["--ratio-of", "layer4*"], "argument --ratio-of: 'layer4*' is not PATTERN=R"),
        ("prune.py", ["--ratio-of", "layer4*=0.5"], "--ratio-of pattern 'layer4*' fits no group that may be pruned"),
        ("prune.py", ["--sensitivity"], "--sensitivity has ratios of its own; leave --global-ratio out"),
        ("prune.py", ["--sensitivity-ratios", "0.5,1"], "argument --sensitivity-ratios: 1 is not in [0, 1)"),
        ("prune.py", ["--iterations", 0], "argument --iterations: 0 is too small; at least 1"),
        ("prune.py", ["--finetune-between", 5], "--finetune-between trains between cuts; pass --iterations 2 or more"),
        ("benchmark.py", ["--finetune-between", 5], "--finetune-between trains between cuts; pass --iterations 2"),
        (
            "prune.py",
            ["--iterations", 2, "--method", "slimming"],
            "slimming trains the network before it scores it; leave --iterations out",
        ),
        (
            "benchmark.py",
            ["--iterations", 2, "--methods", "l1,magnitude"],
            "magnitude zeroes single weights and cuts nothing; leave --iterations out",
        ),
        ("prune.py", ["--distill-weight", 1], "--distill-weight acts in fine-tuning, and there is none"),
        ("benchmark.py", ["--distill-weight", 1], "--distill-weight acts in fine-tuning, and there is none"),
        ("finetune_batch.py", ["--distill-weight=-1"], "argument --distill-weight: -1 is too small; at least 0"),
        ("finetune_batch.py", ["--distill-temperature", 0], "argument --distill-temperature: 0 is too small; above 0"),
        ("train.py", ["--distill-weight", 1], "unrecognized arguments: --distill-weight 1"),
        ("prune.py", ["--ratio", "0.1"], "unrecognized arguments: --ratio 0.1"),
    ],
)
def test_usage(commands, script, flags, says):
    commands.refused(script, *flags, code=USAGE, says=says)


def test_what_is_found_when_training_begins_leaves_a_mark(commands):
    result = commands.run("train.py", "--amp", "fp16", "--device", "cpu")
    check_error("train.py", result.code, result.err, USAGE, "--amp fp16 needs a CUDA device")
    assert {path.name for path in commands.out.iterdir()} == {"config.json", "failed"}
    # The mended command needs no --overwrite.
    commands.accepted("train.py")


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("train.py", ["--save"]),
        ("prune.py", ["--ckpt", "--method", "--save"]),
        ("benchmark.py", ["--baseline", "--out-dir"]),
        ("finetune_batch.py", ["--benchmark-dir", "--baseline"]),
        ("eval.py", ["--baseline", "--report"]),
    ],
)
def test_missing_flag(commands, script, names):
    for name in names:
        flags = list(commands.flags[script])
        position = flags.index(name)
        commands.flags[script], whole = flags[:position] + flags[position + 2 :], flags
        commands.refused(script, code=USAGE, says=[name, "is missing"])
        commands.flags[script] = whole


@pytest.mark.parametrize("script", SCRIPTS)
def test_missing_checkpoint(commands, script, tmp_path):
    path = tmp_path / "no.pt"
    commands.refused(script, WITH_CHECKPOINT[script], path, code=FAILURE, says=f"{path} does not exist")


@pytest.mark.parametrize("script", SCRIPTS)
def test_damaged_checkpoint(commands, script, tmp_path):
    path = tmp_path / "half.pt"
    content = commands.baseline.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"not a checkpoint"):
        path.write_bytes(damaged)
        commands.refused(script, WITH_CHECKPOINT[script], path, code=FAILURE, says=str(path))


@pytest.mark.parametrize("script", SCRIPTS)
def test_checkpoint_of_another_class_count(commands, script):
    commands.refused(
        script,
        *("--dataset", "cityscapes", WITH_CHECKPOINT[script], commands.baseline),
        code=FAILURE,
        says=f"{commands.baseline} has 12 outputs, the data set needs 19",
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_checkpoint_of_another_network(commands, script):
    commands.refused(
        script,
        *("--model", "unet", WITH_CHECKPOINT[script], commands.baseline),
        code=FAILURE,
        says=f"{commands.baseline} holds a unet_small, not a unet; pass --model unet_small",
    )


def test_missing_candidate(commands, tmp_path):
    commands.refused("eval.py", "--candidate", tmp_path / "no.pt", code=FAILURE, says="no.pt does not exist")


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(("dataset", "folder"), [("camvid", "train"), ("cityscapes", "leftImg8bit")])
def test_missing_data_folder(commands, script, dataset, folder, tmp_path):
    root, checkpoint = tmp_path / "no data", []
    if dataset == "cityscapes":
        # The class count is checked before the images are looked for.
        checkpoint = [WITH_CHECKPOINT[script], other_outputs(commands.baseline, tmp_path / "19.pt", 19)]
    says = [str(root), "set --data-root"]
    commands.refused(script, "--dataset", dataset, "--data-root", root, *checkpoint, code=FAILURE, says=says)
    assert not root.exists()


def other_outputs(baseline: Path, path: Path, outputs: int) -> Path:
    content = torch.load(baseline, weights_only=True)
    content["model"]["outputs"] = outputs
    for name, tensor in content["state_dict"].items():
        if tensor.shape and tensor.shape[0] == 12:
            content["state_dict"][name] = tensor.new_zeros(outputs, *tensor.shape[1:])
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("script", "flag"),
    [
        ("train.py", "--save"),
        ("prune.py", "--save"),
        ("benchmark.py", "--out-dir"),
        ("eval.py", "--report"),
        ("eval.py", "--picture"),
        ("eval.py", "--predict"),
    ],
)
def test_output_folder_that_cannot_be_written(commands, script, flag, tmp_path):
    # Below a file, where root cannot write either.
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / "below"
    target = folder / "x.png" if flag in ("--report", "--picture") else folder
    commands.refused(script, flag, target, code=FAILURE, says=f"cannot write to {folder}: Not a directory")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("script", "flag"), [("prune.py", "--global-ratio"), ("benchmark.py", "--ratios")])
def test_no_target(commands, script, flag):
    position = commands.flags[script].index(flag)
    del commands.flags[script][position : position + 2]
    commands.refused(
        script, code=USAGE, says=f"pass exactly one of {flag}, --target-macs, --target-params, --target-size"
    )


def test_groups_of_no_network(call):
    result = call("prune.py", "--list-groups")
    check_error(
        "prune.py", result.code, result.err, USAGE, "--list-groups needs a network; pass --ckpt FILE or --model"
    )


def test_a_benchmark_folder_with_nothing_to_finetune(commands):
    commands.refused("finetune_batch.py", code=FAILURE, says="holds no pruned network; run benchmark.py with")


def test_a_ratio_out_of_reach_fails_alone(commands):
    flags = ["--methods", "slimming", "--ratios", "0.1,0.99", "--min-keep", 0.5, "--no-latency"]
    result = commands.run("benchmark.py", *flags)
    check_error(
        "benchmark.py",
        result.code,
        result.err,
        FAILURE,
        ["1 of 2 jobs failed, the first with: cannot remove 99.0% of the channels", "run the command again"],
    )
    assert "failed: cannot remove 99.0% of the channels" in result.out
    (marker,) = commands.out.glob("slimming_r0.99_*/failed")
    assert marker.read_text().startswith("cannot remove 99.0%")
    assert {path.name for path in marker.parent.iterdir()} == {"failed", "cell.json"}
    assert len(list(commands.out.glob("slimming_r0.1_*/done"))) == 1
    assert all((commands.out / f"benchmark_summary.{ending}").is_file() for ending in ("json", "csv", "md", "png"))


def test_a_defect_of_a_method_ends_in_one_line_too(commands, monkeypatch):
    def defect(self: L1, *_: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(L1, "score", defect)
    result = commands.run("benchmark.py", "--no-latency")
    check_error("benchmark.py", result.code, result.err, FAILURE, "1 of 1 jobs failed, the first with: by nothing")
    (marker,) = commands.out.glob("l1_*/failed")
    assert "Traceback" in marker.read_text()


def test_a_finished_training_is_not_overwritten(commands):
    commands.accepted("train.py")
    before = {path: path.stat().st_mtime_ns for path in commands.out.iterdir()}
    result = commands.run("train.py")
    check_error("train.py", result.code, result.err, FAILURE, "already holds a finished run")
    assert {path: path.stat().st_mtime_ns for path in commands.out.iterdir()} == before


# --- as real processes


def process(project_root: Path, script: str, *flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project_root / script), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_usage_error_in_a_process(project_root):
    result = process(project_root, "benchmark.py", "--methods", "l1", "--ratios", "0.1,1.5")
    assert result.stdout == ""
    check_error("benchmark.py", result.returncode, result.stderr, USAGE, "1.5 is not in [0, 1)")


def test_a_failure_in_a_process(project_root, tmp_path):
    flags = ["--ckpt", tmp_path / "no.pt", "--method", "l1", "--global-ratio", 0.1, "--save", tmp_path / "out"]
    result = process(project_root, "prune.py", *flags)
    assert result.stdout == ""
    check_error("prune.py", result.returncode, result.stderr, FAILURE, "no.pt does not exist")
    assert list((tmp_path / "out").iterdir()) == []


def test_debug_shows_the_traceback(project_root):
    result = process(project_root, "prune.py", "--global-ratio", "2", "--debug")
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback")
    assert "bench.errors.UsageError: argument --global-ratio: 2 is not in [0, 1)" in result.stderr


@pytest.mark.parametrize("script", ["prune.py", "benchmark.py"])
def test_an_objective_that_cannot_be_is_refused_before_any_work(commands, script):
    flags = ("--objective", "macs")
    says = ("the scores of l1 only rank", "--objective macs compares layers", "--sensitivity-curves measure")
    commands.refused(script, *flags, code=USAGE, says=says)
    commands.refused(script, *flags, "--sensitivity-curves", "no.json", code=USAGE, says="there is no file no.json")
    commands.refused(script, "--refine", 3, code=USAGE, says="--refine varies how an objective weighs groups")
    commands.refused(script, "--objective", "speed", code=USAGE, says="invalid choice: 'speed'")
