"""The shared command line: flags from option groups, the config file under them, listings, one-line errors."""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from option_groups import GROUPS

from bench.cli.parser import Parser, collect, require_flags, run
from bench.config.declare import default_of
from bench.datasets.options import DataOptions
from bench.engine.options import PruneOptions
from bench.errors import BenchError, UsageError
from bench.jobs.options import GridOptions, SensitivityOptions
from bench.measure.options import Int8Options, ScoringOptions, TimingOptions
from bench.models import MODELS
from bench.models.options import ModelOptions
from bench.oracle.options import OracleOptions
from bench.pruners import methods
from bench.report.options import PageOptions
from bench.system.options import RunOptions
from bench.training.options import DistillOptions, FinetuneOptions, TrainOptions

SCRIPTS = ("train.py", "prune.py", "eval.py", "benchmark.py", "finetune_batch.py")

# Where a script's default differs from the group's.
OWN_DEFAULTS = {
    "train.py": {},
    "prune.py": {"model": None},
    "eval.py": {"model": None},
    "benchmark.py": {},
    "finetune_batch.py": {"model": None, "finetune_epochs": 20},
}
GROUPS_OF = {
    "train.py": {DataOptions, ModelOptions, TrainOptions, ScoringOptions, RunOptions},
    "prune.py": set(GROUPS) - {GridOptions, OracleOptions, PageOptions, Int8Options},
    "eval.py": {DataOptions, ModelOptions, ScoringOptions, TimingOptions, PageOptions, Int8Options, RunOptions},
    "benchmark.py": set(GROUPS) - {SensitivityOptions, PageOptions, Int8Options},
    "finetune_batch.py": {
        DataOptions,
        ModelOptions,
        FinetuneOptions,
        TrainOptions,
        DistillOptions,
        ScoringOptions,
        TimingOptions,
        RunOptions,
    },
}
# Fields a script has no flag for, on purpose.
WITHOUT_FLAG = {
    "train.py": set(),
    "prune.py": {"per_layer", "pretrained_backbone", "finetune_epochs", "epochs", "lr", "eval_every", "tensorboard"},
    "eval.py": {"pretrained_backbone"},
    "benchmark.py": {"per_layer"},
    "finetune_batch.py": {"per_layer", "pretrained_backbone", "epochs", "lr"},
}


def parser_of(*groups: type) -> Parser:
    parser = Parser("x.py", "for tests")
    for group in groups or GROUPS:
        parser.add_options(group.__name__, group)
    parser.add_setting(parser, "--opt")
    parser.add_argument("--overwrite", action="store_true")
    return parser


def script_parser(script: str, monkeypatch: pytest.MonkeyPatch, project_root: Path) -> Parser:
    monkeypatch.syspath_prepend(project_root)
    return importlib.import_module(f"bench.commands.{script.removesuffix('.py')}").build_parser()


def other_value(spec: Any) -> tuple[list[str], Any]:
    """The text after a flag and the value it means, not the default."""
    if spec.metadata["choices"]:
        text = spec.metadata["choices"][-1]
        return [text], text
    parse = spec.metadata["parse"] or type(default_of(spec))
    for text in ("7", "0.25", "36,48", "10MB", "head*=0.25"):
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
        if isinstance(default_of(spec), bool):
            cases = [([f"--{name}"], True), ([f"--no-{name}"], False)]
        else:
            texts, value = other_value(spec)
            cases = [([f"--{name}", *texts], value)]
            assert value != default_of(spec)
        for words, value in cases:
            found = asdict(collect(group, parser_of(group).parse(words)))
            assert found == {**asdict(group()), spec.name: value}


@pytest.mark.parametrize("group", GROUPS)
def test_no_flags_give_the_defaults(group):
    assert collect(group, parser_of().parse([])) == group()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_has_a_flag_for_every_field_of_its_groups(script, monkeypatch, project_root):
    arguments = script_parser(script, monkeypatch, project_root).parse([])
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
def test_the_folder_of_results_has_one_more_name(script, monkeypatch, project_root):
    parser = script_parser(script, monkeypatch, project_root)
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


# --- the config file

FULL = """\
dataset: camvid              # text
input-size: [180, 240]       # a list
crop_size: 96x128            # text, and the underscore of a field
methods: [l1, taylor]
ratios: [0.1, 0.5]
seeds: 3                     # a list of one
lr: 1e-3                     # text to YAML 1.1
latency: false
overwrite: true
cache: true
evaluate: null               # as if it were not there
threads:
workers: 0                   # an alias
j: 1
opt: {term: gamma, taylor: {alpha: 0.5, steps: 1e-3, exact: true, cap: null, name: "a b"}}
"""


def configured(tmp_path: Path, text: str, *words: str) -> Any:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return parser_of().parse(["--config", str(path), *words])


def test_a_config_key_is_a_flag(tmp_path):
    arguments = configured(tmp_path, FULL)
    assert collect(DataOptions, arguments) == DataOptions("camvid", input_size=(180, 240), cache=True, num_workers=1)
    assert collect(GridOptions, arguments) == GridOptions(["l1", "taylor"], [0.1, 0.5], [3])
    assert collect(TrainOptions, arguments) == TrainOptions(lr=0.001, crop_size=(96, 128))
    assert collect(PruneOptions, arguments) == PruneOptions()
    assert collect(RunOptions, arguments) == RunOptions()
    assert arguments.latency is False
    assert arguments.overwrite is True
    assert arguments.opt == {
        "term": "gamma",
        "taylor.alpha": 0.5,
        "taylor.steps": 0.001,
        "taylor.exact": True,
        "taylor.cap": None,
        "taylor.name": "a b",
    }


def test_flags_override_the_config(tmp_path):
    words = ["--methods", "random", "--latency", "--input-size", "36,48", "--opt", "a=1"]
    arguments = configured(tmp_path, FULL, *words)
    assert arguments.methods == ["random"]
    assert arguments.latency is True
    assert arguments.input_size == (36, 48)
    assert arguments.opt == {"a": 1}
    assert arguments.ratios == [0.1, 0.5]


def test_a_flag_before_the_config_overrides_it_too(tmp_path):
    (tmp_path / "c.yaml").write_text("seed: 1\n")
    assert parser_of().parse(["--seed", "2", f"--config={tmp_path / 'c.yaml'}"]).seed == 2


def test_a_later_config_overrides_an_earlier_one(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1\nepochs: 5\n")
    (tmp_path / "b.yaml").write_text("seed: 2\n")
    arguments = parser_of().parse(["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml")])
    assert (arguments.seed, arguments.epochs) == (2, 5)


@pytest.mark.parametrize(
    ("text", "latency"),
    [("latency: true", True), ("latency: false", False), ("no-latency: true", False), ("no_latency: false", True)],
)
def test_a_switch_may_be_negated_in_the_config(tmp_path, text, latency):
    assert configured(tmp_path, text).latency is latency


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_an_empty_config_changes_nothing(tmp_path, text):
    assert vars(configured(tmp_path, text)) == {
        **vars(parser_of().parse([])),
        "config": str(tmp_path / "config.yaml"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_siz: 4", "unknown key 'batch_siz'; did you mean batch-size"),
        ("1: 4", "unknown key '1'"),
        ("debug: true", "unknown key 'debug'"),
        ("config: other.yaml", "unknown key 'config'"),
        ("help: true", "unknown key 'help'"),
        ("latency: 1", "latency must be true or false, not 1"),
        ("overwrite: 'yes'", "overwrite must be true or false, not 'yes'"),
        ("model: {name: unet}", "model must be a value or a list, not a mapping"),
        ("- l1\n- l2\n", "must be a mapping of flag names to values"),
        ("just words", "must be a mapping of flag names to values"),
        ("a: b\nmethods: [l1, l2\n", "is not YAML in line 3"),
        ("a: \0", "is not YAML"),
        ("epochs: 0", "argument --epochs: 0 is too small"),
        ("epochs: true", "argument --epochs: 'True' is not a whole number"),
        ("ratios: [0.1, 1.5]", "1.5 is not in [0, 1)"),
    ],
)
def test_a_wrong_config_is_a_usage_error(tmp_path, text, message):
    with pytest.raises(UsageError) as caught:
        configured(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreadable_config_is_a_usage_error(tmp_path):
    for path, reason in ((tmp_path / "no.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(UsageError, match=f"cannot read config {path}: {reason}"):
            parser_of().parse(["--config", str(path)])
    (tmp_path / "best.pt").write_bytes(b"PK\x03\x04\xff\xfe\x80")
    with pytest.raises(UsageError, match=r"best\.pt is not a text file"):
        parser_of().parse(["--config", str(tmp_path / "best.pt")])


def test_the_configs_that_come_along_are_known_to_their_script(monkeypatch, project_root):
    arguments = script_parser("benchmark.py", monkeypatch, project_root).parse(
        ["--config", str(project_root / "configs" / "quick.yaml")]
    )
    assert len(arguments.methods) == 5
    assert len(arguments.ratios) == 2
    assert set(arguments.methods) <= set(methods())
    assert arguments.finetune_epochs > 0
    assert arguments.train_baseline


# --- errors


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (BenchError("disk full"), 1, "x.py: error: disk full\n"),
        (UsageError("no such flag"), 2, "x.py: error: no such flag (see x.py --help)\n"),
        (KeyboardInterrupt(), 130, "x.py: interrupted\n"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_errors_end_in_one_line_and_a_status(monkeypatch, capsys, error, code, text):
    def main(argv: list[str]) -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["some/where/x.py"])
    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == code
    assert capsys.readouterr() == ("", text)


def test_a_defect_is_not_dressed_up(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py"])
    with pytest.raises(ZeroDivisionError):
        run(lambda argv: 1 // 0)


def test_debug_lets_the_error_through(monkeypatch):
    def main(argv: list[str]) -> None:
        raise BenchError("disk full")

    monkeypatch.setattr(sys, "argv", ["x.py", "--debug"])
    with pytest.raises(BenchError, match="disk full"):
        run(main)


# --- what must answer at once


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_within_a_second(script, project_root):
    # Processor time, because other work on the machine must not count.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run([sys.executable, project_root / script, "--help"], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert shown.returncode == 0
    assert f"usage: {script}" in shown.stdout
    assert "--num-workers" in shown.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize(
    ("script", "flag", "names"),
    [
        *((script, "--list-models", sorted(MODELS)) for script in SCRIPTS),
        *((script, "--list-methods", sorted(methods())) for script in SCRIPTS[1:]),
        ("prune.py", "--help", []),
    ],
)
def test_listings_name_everything_and_load_nothing_heavy(script, flag, names, project_root):
    command = [sys.executable, "-X", "importtime", project_root / script, flag]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0
    if names:
        assert sorted(line.split()[0] for line in shown.stdout.splitlines()) == names
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in shown.stderr.splitlines()}
    assert "argparse" in loaded
    assert not loaded & {"torch", "torchvision", "torch_pruning", "numpy", "matplotlib", "PIL"}
