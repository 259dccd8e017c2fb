"""The config file: its keys are flags, and it is found from anywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from option_groups import parser_of, script_parser

from bench.cli.parser import collect
from bench.config import shipped
from bench.data import SegmentationData
from bench.datasets.options import DataOptions
from bench.datasets.synthetic import draw_dataset
from bench.engine.options import PruneOptions
from bench.errors import UsageError
from bench.jobs.options import GridOptions
from bench.pruners import methods
from bench.system.options import RunOptions
from bench.training.options import TrainOptions

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
        ("help-all: true", "unknown key 'help-all'"),
        ("latency: 1", "latency must be true or false, not 1"),
        ("overwrite: 'yes'", "overwrite must be true or false, not 'yes'"),
        ("model: {name: unet}", "model must be a value or a list, not a mapping"),
        ("- l1\n- l2\n", "must be a mapping of flag names to values"),
        ("just words", "must be a mapping of flag names to values"),
        ("a: b\nmethods: [l1, l2\n", "is not YAML in line 3"),
        ("a: \0", "is not YAML"),
        ("opt: &a {b: *a}", "is nested too deeply"),
        (f"seed: {'[' * 3000}{']' * 3000}", "is nested too deeply"),
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


def test_the_configs_that_come_along_are_known_to_their_script(project_root):
    arguments = script_parser("benchmark.py").parse(["--config", str(project_root / "configs" / "quick.yaml")])
    assert len(arguments.methods) == 5
    assert len(arguments.ratios) == 2
    assert set(arguments.methods) <= set(methods())
    assert arguments.finetune_epochs > 0
    assert arguments.train_baseline


# --- where it lies


def test_a_config_of_the_project_is_found_from_another_folder(
    project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--config", "configs/quick.yaml"]
    monkeypatch.chdir(project_root)
    here = script_parser("benchmark.py").parse(words)
    monkeypatch.chdir(tmp_path)
    assert vars(script_parser("benchmark.py").parse(words)) == vars(here)
    command = [sys.executable, project_root / "benchmark.py", *words, "--list-models"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_working_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, folder = tmp_path / "project", tmp_path / "folder"
    for place, seed in ((project, 1), (folder, 2)):
        place.mkdir()
        (place / "c.yaml").write_text(f"seed: {seed}\n")
    monkeypatch.setattr(shipped, "PACKAGE", project / "bench")
    monkeypatch.chdir(folder)
    assert parser_of().parse(["--config", "c.yaml"]).seed == 2
    (folder / "c.yaml").unlink()
    assert parser_of().parse(["--config=c.yaml"]).seed == 1
    (project / "c.yaml").write_text("sede: 1\n")
    with pytest.raises(UsageError, match=f"^config {project / 'c.yaml'}: unknown key 'sede'"):
        parser_of().parse(["--config", "c.yaml"])
    (project / "c.yaml").unlink()
    with pytest.raises(UsageError, match=r"^cannot read config c\.yaml: No such file"):
        parser_of().parse(["--config", "c.yaml"])


def test_data_and_results_stay_with_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_dataset(tmp_path / "datasets" / "synthetic", images={"train": 1, "val": 1, "test": 1}, size=(24, 32))
    arguments = script_parser("benchmark.py").parse(["--config", "configs/quick.yaml"])
    data = SegmentationData(collect(DataOptions, arguments))
    assert data.dataset.root == Path("datasets/synthetic")
    assert not Path(arguments.out_dir).is_absolute()


PATH_FLAGS = {
    "train": ("save", "ckpt", "data-root", "pretrained-backbone"),
    "prune": ("save", "ckpt", "data-root"),
    "eval": ("baseline", "candidate", "report", "picture", "predict", "data-root"),
    "benchmark": ("baseline", "out-dir", "data-root", "pretrained-backbone"),
    "finetune_batch": ("benchmark-dir", "baseline", "data-root"),
}


@pytest.mark.parametrize("script", PATH_FLAGS)
@pytest.mark.parametrize("by_config", [False, True])
def test_paths_may_begin_at_home_or_in_a_variable(script, by_config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUN", "a b")
    flags = PATH_FLAGS[script]
    words = [f"--{flag}=~/$RUN/{flag}" for flag in flags]
    if by_config:
        (tmp_path / "my.YML").write_text("".join(f"{flag}: ~/$RUN/{flag}\n" for flag in flags), encoding="utf-8")
        words = ["--config", "~/my.YML"]
    arguments = vars(script_parser(script).parse(words))
    assert {flag: arguments[flag.replace("-", "_")] for flag in flags} == {
        flag: f"{tmp_path}/a b/{flag}" for flag in flags
    }
    monkeypatch.delenv("RUN")
    with pytest.raises(UsageError, match=r"argument --.*\$RUN, which is not set"):
        script_parser(script).parse(words)
    with pytest.raises(UsageError, match=r"--config .*not set"):
        script_parser(script).parse(["--config=$RUN/my.yaml"])
