"""A network of the user's own through all commands: the page docs/own-network.md, as it is written, on tiny images."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from scripts import ROOT, run_script

import bench
from bench.errors import BenchError
from bench.models import own_network
from bench.models.checkpoint import load_model, save_model

pytestmark = pytest.mark.slow

NAME = "examples/own_network.py:make"


def commands() -> list[list[str]]:
    text = (ROOT / "docs" / "own-network.md").read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_camvid: Path) -> Path:
    """A folder in which all commands of the page were typed, on tiny images and with one epoch."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "own_network.py", folder / "examples")
    common = ["--dataset", "camvid", "--data-root", tiny_camvid, "--input-size", "44,60"]
    small = {"train.py": ["--epochs", "1", "--batch-size", "2"], "finetune_batch.py": ["--batch-size", "2"]}
    (folder / "said.txt").touch()
    for script, *words in commands():
        extra = [] if "--check" in words else ["--num-workers", "0", *small.get(script, [])]
        extra += [] if "--check" in words or script == "train.py" else ["--no-latency"]
        done = run_script(script, *words, *common, *extra, folder=folder)
        assert (done.code, done.err) == (0, ""), f"{script}: {done.out}{done.err}"
        with (folder / "said.txt").open("a", encoding="utf-8") as said:
            said.write(done.out)
    return folder


def test_all_commands_of_the_page_take_it(place: Path) -> None:
    assert [words[0] for words in commands()] == [
        "prune.py",
        "train.py",
        "prune.py",
        "benchmark.py",
        "finetune_batch.py",
        "eval.py",
    ]
    said = (place / "said.txt").read_text()
    assert "saved and reopened in a new process  the same logits" in said
    assert "channels that may go                 72 of 72: 100%" in said


def test_files_say_the_factory_and_its_arguments(place: Path) -> None:
    spec = {"name": NAME, "outputs": 12, "kwargs": {"args": {"width": 8}}}
    assert torch.load(place / "runs/own/best.pt", weights_only=True)["model"] == spec
    info = json.loads((place / "runs/own_half/pruning_info.json").read_text())
    assert {key: info["model"][key] for key in spec} == spec
    assert info["options"]["check"] is None
    assert 0.4 < info["plan"]["predicted"]["macs"] / info["plan"]["before"]["macs"] < 0.6
    rows = json.loads((place / "runs/own_benchmark/finetuned_summary.json").read_text())["rows"]
    assert [(row["method"], row["status"]) for row in rows] == [("l1", "done"), ("taylor", "done")]


def test_no_command_imports_it_unasked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_network, "_named", [])
    words = ["--baseline", "runs/own/best.pt", "--report", "r.json", "--no-latency", "--num-workers", "0"]
    done = run_script("eval.py", *words, folder=place)
    assert done.code == 1
    assert f"pass --model {NAME} to have it imported" in done.err
    monkeypatch.chdir(place)
    with pytest.raises(BenchError, match="to have it imported"):
        bench.load("runs/own/best.pt")
    assert bench.load("runs/own_half/pruned_model.pt", model=NAME)(torch.zeros(1, 3, 30, 40)).shape == (1, 12, 30, 40)


def test_a_pruning_without_the_trial_says_so(place: Path) -> None:
    words = ["--ckpt", "runs/own/best.pt", "--model", NAME, "--save", "runs/unchecked", "--method", "l1"]
    words += ["--global-ratio", "0.3", "--no-check", "--no-latency", "--num-workers", "0", "--no-recalibrate"]
    done = run_script("prune.py", *words, "--no-evaluate", folder=place)
    assert (done.code, done.err) == (0, "")
    assert json.loads((place / "runs/unchecked/pruning_info.json").read_text())["options"]["check"] is False


def test_files_of_other_classes_are_told_apart(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    saved = load_model("runs/own/best.pt", name=NAME)
    saved.meta["classes"] = ["something else", *saved.meta["classes"][1:]]
    save_model("other.pt", saved)
    words = ["--baseline", "other.pt", "--model", NAME, "--report", "r.json", "--no-latency", "--num-workers", "0"]
    done = run_script("eval.py", *words, folder=place)
    assert done.code == 1
    assert "was trained on the classes something else" in done.err


def test_a_network_of_which_little_can_go_ends_with_status_1(tmp_path: Path) -> None:
    (tmp_path / "flat.py").write_text(
        "from torch import nn\ndef make(classes):\n    return nn.Sequential(nn.Conv2d(3, classes, 3, padding=1))\n"
    )
    done = run_script("prune.py", "--check", "--model", "flat.py:make", folder=tmp_path)
    assert done.code == 1
    assert "only 0% of the channels and 0% of the MACs of flat.py:make may be pruned" in done.err
    assert "network output: 0" in done.out


def test_a_cut_that_fails_ends_with_its_step(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        """
from torch import nn


class Odd(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, classes, 1)

    def forward(self, images):
        features = self.body(images)
        # What the trial of the groups, in single batches, does not meet.
        assert len(images) != 2 or self.training or features.shape[1] == 8 or features.dtype.itemsize == 8, "eight"
        return self.head(features)


def make(classes):
    return Odd(classes)
"""
    )
    done = run_script("prune.py", "--check", "--model", "odd.py:make", folder=tmp_path)
    assert done.code == 1
    assert "forward, evaluation: the cut network fails (AssertionError: eight)" in done.err


def test_what_fails_without_a_cut_too_is_not_said_to_fail_by_it(call, tmp_path: Path) -> None:
    path = tmp_path / "untrained.py"
    path.write_text(
        """
from torch import nn


class Untrained(nn.Sequential):
    def forward(self, images):
        assert not self.training or len(images) == 1, "one at a time"
        return super().forward(images)


def make(classes):
    return Untrained(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, classes, 1))
"""
    )
    done = call("prune.py", "--check", "--model", f"{path}:make")
    assert done.code == 1
    assert "training: the network, cut or not, fails (AssertionError: one at a time)" in done.err
