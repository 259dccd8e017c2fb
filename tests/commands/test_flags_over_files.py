"""What is typed counts more than a config file, whatever that says; and one file serves several commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from option_groups import script_parser

from bench.cli.method_flags import method_settings, settings_of_methods
from bench.cli.target_flags import chosen_goal, chosen_goals
from bench.errors import UsageError
from bench.plan.target import Goal
from bench.system.files import read_json

QUICK = ("--config", "configs/quick.yaml")

SHARED = """\
dataset: camvid
num-workers: 0
model: unet_small
input-size: [48, 64]
latency: false
# of training
epochs: 1
batch-size: 4
# of benchmark.py
methods: [l1, slimming]
ratios: [0.3]
opt: {slimming.sparse_epochs: 0, taylor.term: gamma}
# of prune.py
method: taylor
global-ratio: 0.5
"""


def parsed(script: str, *words: str):
    return script_parser(script).parse([*words])


def written(folder: Path, text: str) -> tuple[str, str]:
    (folder / "c.yaml").write_text(text)
    return "--config", str(folder / "c.yaml")


# --- methods and their options


def test_options_of_methods_that_are_not_compared_are_left_out(call, tmp_path):
    files = ["--baseline", tmp_path / "best.pt", "--no-train-baseline", "--out-dir", tmp_path / "out"]
    result = call("benchmark.py", *QUICK, "--methods", "taylor,l1", *files)
    says = "config: left out what concerns other methods than taylor, l1: slimming.sparse_epochs\n"
    assert result.out == says
    # The next thing that is wrong.
    assert "best.pt does not exist" in result.err


def test_the_options_of_methods_that_are_compared_stay(capsys):
    arguments = parsed("benchmark.py", *QUICK)
    assert settings_of_methods(arguments, arguments.methods) == {"slimming.sparse_epochs": 0}
    assert capsys.readouterr().out == ""


def test_what_is_typed_or_means_nothing_is_not_left_out(tmp_path):
    arguments = parsed("benchmark.py", *QUICK, "--methods", "l1", "--opt", "slimming.sparse_epochs=1")
    assert settings_of_methods(arguments, ["l1"]) == {"slimming.sparse_epochs": 1}
    arguments = parsed("benchmark.py", *written(tmp_path, "opt: {sliming.sparse_epochs: 1}"))
    assert settings_of_methods(arguments, ["l1"]) == {"sliming.sparse_epochs": 1}


def test_prune_takes_its_methods_options_from_a_file_for_several(tmp_path, capsys):
    arguments = parsed("prune.py", *written(tmp_path, SHARED))
    assert method_settings(arguments) == {"term": "gamma"}
    assert "left out what concerns other methods than taylor: slimming.sparse_epochs" in capsys.readouterr().out
    arguments = parsed("prune.py", "--method", "taylor", "--opt", "taylor.term=gamma")
    assert method_settings(arguments) == {"term": "gamma"}


# --- one of several


@pytest.mark.parametrize(
    ("words", "goals"),
    [
        ([], [Goal("channels", 0.3), Goal("channels", 0.5)]),
        (["--target-macs", "0.5"], [Goal("macs", 0.5)]),
        (["--target-latency", "12ms"], [Goal("milliseconds", 12)]),
    ],
)
def test_a_typed_target_takes_the_place_of_another_in_the_file(words, goals):
    assert chosen_goals(parsed("benchmark.py", *QUICK, *words), "ratios") == goals


def test_of_files_the_later_one_says_the_target(tmp_path):
    later = written(tmp_path, "target-params: 0.25\n")
    assert chosen_goals(parsed("benchmark.py", *QUICK, *later), "ratios") == [Goal("params", 0.25)]


def test_two_targets_of_one_file_or_one_command_are_still_too_many(tmp_path):
    with pytest.raises(UsageError, match="pass exactly one of"):
        chosen_goals(parsed("benchmark.py", *written(tmp_path, "target-params: 0.5\nratios: 0.1\n")), "ratios")
    with pytest.raises(UsageError, match="pass exactly one of"):
        chosen_goals(parsed("benchmark.py", *QUICK, "--ratios", "0.1", "--target-macs", "0.5"), "ratios")


@pytest.mark.parametrize(
    ("script", "file", "typed", "field", "gone"),
    [
        ("prune.py", "global-ratio: 0.5", ["--sensitivity"], "global_ratio", None),
        ("prune.py", "sensitivity: true", ["--target-macs", "0.5"], "sensitivity", False),
        ("prune.py", "target-macs: 0.5", ["--params-reduction", "0.5"], "target_macs", None),
        ("train.py", "overwrite: true", ["--resume"], "overwrite", False),
        ("train.py", "pretrained-backbone: b.pth", ["--ckpt", "a.pt"], "pretrained_backbone", None),
        # What a file switches on can be switched off.
        ("train.py", "resume: true", ["--no-resume"], "resume", False),
        ("benchmark.py", "train-baseline: true", ["--no-train-baseline"], "train_baseline", False),
        ("prune.py", "sensitivity: true", ["--no-sensitivity"], "sensitivity", False),
    ],
)
def test_what_is_typed_takes_the_place_of_what_it_excludes(script, file, typed, field, gone, tmp_path):
    assert getattr(parsed(script, *written(tmp_path, file)), field) not in (gone, None, False)
    assert getattr(parsed(script, *written(tmp_path, file), *typed), field) is gone


# --- the baseline of a comparison


def test_a_baseline_that_was_trained_otherwise_is_not_taken_unasked(call, tiny_camvid, tmp_path):
    lines = f"dataset: camvid\ndata-root: {tiny_camvid}\nepochs: 1\nbatch-size: 4\nmodel: unet_small\n"
    config = written(tmp_path, lines + "train-baseline: true\nmethods: l1\nratios: 0.3\nlatency: false\n")
    baseline = tmp_path / "baseline" / "best.pt"
    fixed = [*config, "--baseline", baseline, "--out-dir", tmp_path / "out", "--num-workers", 0]

    def compare(*flags):
        return call("benchmark.py", *fixed, *flags)

    assert compare("--input-size", "48,64").code == 0
    for flags, says in (
        (["--input-size", "32,48"], "--input-size 48,64, not --input-size 32,48"),
        (["--epochs", 2], "--epochs 1, not --epochs 2"),
        (["--model", "unet"], "--model unet_small, not --model unet"),
        (["--channels-last"], "--no-channels-last, not --channels-last"),
    ):
        result = compare(*flags)
        assert result.code == 1
        assert f"{baseline} was trained with {says}; name another --baseline" in result.err
        assert "or pass --no-train-baseline" in result.err
    # Without a word on the size it is the baseline's; with the word to take it, it is scored at another size.
    assert compare().code == 0
    result = compare("--input-size", "32,48", "--no-train-baseline")
    assert (result.code, result.err) == (0, "")
    assert read_json(tmp_path / "out" / "benchmark_summary.json")["baseline"]["input_size"] == [32, 48]


# --- one file for all


@pytest.mark.parametrize(
    ("script", "left_out"),
    [
        ("train.py", "methods, ratios, opt, method, global-ratio, latency"),
        ("prune.py", "methods, ratios, epochs"),
        ("eval.py", "methods, ratios, opt, method, global-ratio, epochs, batch-size"),
        ("benchmark.py", "method, global-ratio"),
        ("finetune_batch.py", "opt, method, global-ratio, epochs"),
    ],
)
def test_keys_of_other_commands_are_left_out_and_named(script, left_out, tmp_path, capsys):
    arguments = parsed(script, *written(tmp_path, SHARED))
    (line,) = capsys.readouterr().out.splitlines()
    begin = f"config {tmp_path / 'c.yaml'}: left out what only other commands have: "
    assert line.startswith(begin)
    assert sorted(line.removeprefix(begin).split(", ")) == sorted(left_out.split(", "))
    assert (arguments.dataset, arguments.input_size, arguments.model) == ("camvid", (48, 64), "unet_small")


def test_a_key_of_no_command_is_refused(tmp_path):
    for script in ("train.py", "eval.py"):
        with pytest.raises(UsageError, match="unknown key 'epohcs'"):
            parsed(script, *written(tmp_path, "epohcs: 3\n"))


def test_a_file_for_all_prunes(tmp_path):
    assert chosen_goal(parsed("prune.py", *written(tmp_path, SHARED))) == Goal("channels", 0.5)
