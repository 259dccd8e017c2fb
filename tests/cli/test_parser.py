"""The shared command line: flags from option groups and back."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import pytest
from option_groups import GROUPS, SCRIPTS, parser_of, script_parser

from bench.cli.checks import require_flags
from bench.cli.parser import Parser, collect
from bench.config.declare import default_of
from bench.datasets.options import DataOptions
from bench.errors import UsageError
from bench.jobs.options import ControlOptions, GridOptions, SensitivityOptions
from bench.measure.options import Int8Options, RobustnessOptions, ScoringOptions, TimingOptions
from bench.models.options import ModelOptions
from bench.oracle.options import OracleOptions
from bench.report.options import PageOptions
from bench.sweep.options import SweepOptions
from bench.system.options import RunOptions
from bench.training.options import DistillOptions, FinetuneOptions, TrainOptions

# Of `python -m bench.NAME`.
OF_OTHER_COMMANDS = {
    group for group in GROUPS if group.__module__ in ("bench.specialists.options", "bench.export.options")
}

# Where a script's default differs from the group's.
OWN_DEFAULTS = {
    "train.py": {},
    "prune.py": {},
    "eval.py": {},
    "benchmark.py": {},
    "finetune_batch.py": {"finetune_epochs": 20, "methods": []},
}
GROUPS_OF = {
    "train.py": {DataOptions, ModelOptions, TrainOptions, ScoringOptions, RunOptions},
    "prune.py": set(GROUPS)
    - {GridOptions, SweepOptions, ControlOptions, RobustnessOptions, OracleOptions, PageOptions, Int8Options}
    - OF_OTHER_COMMANDS,
    "eval.py": {
        DataOptions,
        ModelOptions,
        ScoringOptions,
        RobustnessOptions,
        TimingOptions,
        PageOptions,
        Int8Options,
        RunOptions,
    },
    "benchmark.py": set(GROUPS) - {SensitivityOptions, PageOptions, Int8Options} - OF_OTHER_COMMANDS,
    "finetune_batch.py": {
        DataOptions,
        ModelOptions,
        GridOptions,
        FinetuneOptions,
        TrainOptions,
        DistillOptions,
        ScoringOptions,
        RobustnessOptions,
        TimingOptions,
        RunOptions,
    },
}
# Fields a script has no flag for, on purpose.
WITHOUT_FLAG = {
    "train.py": set(),
    "prune.py": {
        "per_layer",
        "pretrained_backbone",
        "finetune_epochs",
        "epochs",
        "lr",
        "eval_every",
        "tensorboard",
        "freeze_backbone_epochs",
        "warmup_epochs",
        "unweighted_epochs",
    },
    "eval.py": {"pretrained_backbone"},
    "benchmark.py": {"per_layer"},
    "finetune_batch.py": {"per_layer", "pretrained_backbone", "epochs", "lr", "report_only"},
}


def other_value(spec: Any) -> tuple[list[str], Any]:
    """The text after a flag and the value it means, not the default."""
    if spec.metadata["choices"]:
        text = spec.metadata["choices"][-1]
        return [text], text
    parse = spec.metadata["parse"] or type(default_of(spec))
    for text in ("7", "0.25", "36,48", "10MB", "head*=0.25", "18", "onnx", "l1@macs0.5@1", "scratch"):
        try:
            return [text], parse(text)
        except ValueError:
            pass
    raise AssertionError(f"no sample value for {spec.name}")


ALL_FIELDS = [pytest.param(group, spec, id=spec.name) for group in GROUPS for spec in fields(group)]


@pytest.mark.parametrize(("group", "spec"), ALL_FIELDS)
def test_every_field_is_a_flag_and_reaches_the_options(group, spec):
    names = [spec.name.replace("_", "-"), *spec.metadata["aliases"]]
    for name in names:
        if spec.type.startswith("bool"):
            cases = [([f"--{name}"], True), ([f"--no-{name}"], False)]
        else:
            texts, value = other_value(spec)
            cases = [([f"{'--' if len(name) > 1 else '-'}{name}", *texts], value)]
            assert value != default_of(spec)
        for words, value in cases:
            found = asdict(collect(group, parser_of(group).parse(words)))
            assert found == {**asdict(group()), spec.name: value}


@pytest.mark.parametrize("group", GROUPS)
def test_no_flags_give_the_defaults(group):
    assert collect(group, parser_of().parse([])) == group()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_has_a_flag_for_every_field_of_its_groups(script):
    arguments = script_parser(script).parse([])
    known = vars(arguments)
    # prune.py takes one target where benchmark.py takes a list, under the same name.
    own = {name for name in known if not name.startswith("target_")}
    assert {group for group in GROUPS if any(spec.name in own for spec in fields(group))} == GROUPS_OF[script]
    wanted = {spec.name for group in GROUPS_OF[script] for spec in fields(group)}
    assert wanted - known.keys() == WITHOUT_FLAG[script]
    for group in GROUPS_OF[script]:
        changes = {name: value for name, value in OWN_DEFAULTS[script].items() if name in asdict(group())}
        assert collect(group, arguments) == group(**changes)


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--data-path", "d"], "data_root", "d"),
        (["-j", "4"], "num_workers", 4),
        (["-j4"], "num_workers", 4),
        (["--workers", "4"], "num_workers", 4),
        (["--wd", "0.5"], "weight_decay", 0.5),
        (["--input-size", "180,240"], "input_size", (180, 240)),
        (["--input-size=180x240"], "input_size", (180, 240)),
        (["--no-latency"], "latency", False),
        (["--seed", "1", "--seed", "2"], "seed", 2),
    ],
)
def test_spellings(words, field, value):
    assert getattr(parser_of().parse(words), field) == value


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_folder_of_results_has_one_more_name(script):
    parser = script_parser(script)
    field = {"train.py": "save", "prune.py": "save", "benchmark.py": "out_dir"}.get(script)
    if field is None:
        with pytest.raises(UsageError, match="unrecognized arguments: --output-dir x"):
            parser.parse(["--output-dir", "x"])
    else:
        assert getattr(parser.parse(["--output-dir", "x"]), field) == "x"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sede", "1"], "unrecognized arguments: --sede 1"),
        (["--see", "1"], "unrecognized arguments: --see 1"),
        (["--epochs"], "argument --epochs: expected one argument"),
        (["--epochs", "0"], "argument --epochs: 0 is too small; at least 1"),
        (["--input-size", "360"], "'360' is not a size; write height,width such as 360,480"),
        (["--optimizer", "adam"], "argument --optimizer: invalid choice: 'adam'"),
        (["--config"], "--config needs a file"),
    ],
)
def test_wrong_flags_are_usage_errors(words, message):
    with pytest.raises(UsageError) as caught:
        parser_of().parse(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_required_flags():
    arguments = Parser("x.py", "").parse([])
    arguments.out_dir, arguments.save = None, "x"
    require_flags(arguments, "save")
    with pytest.raises(UsageError, match=r"^--out-dir is missing$"):
        require_flags(arguments, "save", "out_dir")


def test_words_without_some_fields_keep_the_others():
    parser = script_parser("benchmark.py")
    words = ["--ratios", "0.1,0.2", "--model=unet", "-v", "--no-latency", "--opt", "a.b=1"]
    words += ["--input-size", "8,8", "--wd=0"]
    assert parser.without(words, "ratios", "opt", "verbose", "weight_decay") == [
        "--model=unet", "--no-latency", "--input-size", "8,8",
    ]  # fmt: skip
    assert parser.without(words, "model", "latency", "input_size") == [*words[:2], "-v", *words[5:7], words[-1]]
    assert parser.without(["--lr", "-1", "--seed", "3"], "seed") == ["--lr", "-1"]
    assert script_parser("prune.py").without(["--classes", "0", "3", "--alpha", "1"], "classes") == ["--alpha", "1"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_only_what_trains_together_runs_in_several_processes(script, monkeypatch):
    for variable, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(variable, value)
    if script in ("train.py", "benchmark.py", "finetune_batch.py"):
        script_parser(script).parse([])
    else:
        with pytest.raises(UsageError, match=f"^{script} runs in one process; torchrun is for train.py, benchmark.py"):
            script_parser(script).parse([])
