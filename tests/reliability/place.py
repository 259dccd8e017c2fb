"""Where a bad input is tried: a folder of its own, with tiny data and networks that a command would accept."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.datasets.synthetic import draw_dataset
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, save_model
from tests.scripts import run_script

SCRIPTS = ("train.py", "prune.py", "eval.py", "benchmark.py", "finetune_batch.py")
CHECKPOINT = {
    "train.py": "--ckpt",
    "prune.py": "--ckpt",
    "eval.py": "--baseline",
    "benchmark.py": "--baseline",
    "finetune_batch.py": "--baseline",
}
SIZE = (24, 32)


@dataclass(frozen=True)
class Store:
    """What all cases share and none may change: data, a network, a benchmark.

    Attributes:
        folder: holds `camvid/`, `best.pt`, `pruned.pt`, and `benchmark/` with one finished job.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Store:
        """Draws the data, and makes the networks."""
        store = cls(folder)
        draw_dataset(store.data, images={"train": 4, "val": 2, "test": 2}, size=SIZE)
        torch.manual_seed(0)
        spec = ModelSpec("unet_small", 12, {"width": 8, "depth": 1})
        meta = {"dataset": "camvid", "input_size": list(SIZE)}
        save_model(store.baseline, SavedModel(build_model(spec), spec, meta=meta))
        words = [*store.flags("benchmark.py", folder / "benchmark")]
        with contextlib.redirect_stdout(io.StringIO()):
            done = run_script("benchmark.py", *words)
        assert done.code == 0, done.err
        (job,) = (path.parent for path in (folder / "benchmark").glob("*/pruned_model.pt"))
        shutil.copy(job / "pruned_model.pt", store.pruned)
        return store

    @property
    def data(self) -> Path:
        """The data set, in CamVid's layout."""
        return self.folder / "camvid"

    @property
    def baseline(self) -> Path:
        """An untrained network."""
        return self.folder / "best.pt"

    @property
    def pruned(self) -> Path:
        """The network, pruned."""
        return self.folder / "pruned.pt"

    def flags(self, script: str, out: Path) -> list[Any]:
        """The flags of a command that would succeed; the last of a name counts, so that more of them spoil it."""
        data = ["--dataset", "camvid", "--data-root", self.data, "--num-workers", 0, "--threads", 1, "--device", "cpu"]
        short = ["--batch-size", 2, "--input-size", "24,32"]
        untimed = ["--no-latency"]
        return {
            "train.py": [*data, *short, "--model", "unet_small", "--ckpt", self.baseline, "--epochs", 1, "--save", out],
            "prune.py": [*data, *untimed, "--ckpt", self.baseline, "--method", "l1", "--global-ratio", 0.3,
                         "--save", out],
            "eval.py": [*data, *untimed, "--baseline", self.baseline, "--candidate", self.baseline,
                        "--report", out / "report.json"],
            "benchmark.py": [*data, *untimed, "--model", "unet_small", "--baseline", self.baseline, "--methods", "l1",
                             "--ratios", 0.3, "--out-dir", out],
            "finetune_batch.py": [*data, *short, *untimed, "--model", "unet_small", "--baseline", self.baseline,
                                  "--benchmark-dir", out, "--finetune-epochs", 1],
        }[script]  # fmt: skip


class Place:
    """The folder of one case."""

    def __init__(self, store: Store, folder: Path, script: str):
        self.store, self.folder, self.script = store, folder, script
        self.out = folder / "out"
        folder.mkdir(parents=True)
        if script == "finetune_batch.py":
            shutil.copytree(store.folder / "benchmark", self.out)

    @property
    def job(self) -> Path:
        """The folder of the benchmark's one job."""
        (job,) = (path.parent for path in self.out.glob("*/pruned_model.pt"))
        return job

    def ckpt(self, path: Path | str) -> list[Any]:
        """The flags that make another file the command's network."""
        return [CHECKPOINT[self.script], path]

    def data(self) -> Path:
        """A copy of the data set, to be spoilt."""
        return Path(shutil.copytree(self.store.data, self.folder / "data"))

    def file(self, name: str, content: bytes | str) -> Path:
        """A file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def changed(self, change: Callable[[dict[str, Any]], Any], source: Path | None = None) -> list[Any]:
        """The flags for a checkpoint in which something was changed."""
        content = torch.load(source or self.store.baseline, weights_only=True)
        content = change(content) or content
        path = self.folder / "changed.pt"
        torch.save(content, path)
        return self.ckpt(path)

    def spoilt(self, change: Callable[[Path], Any]) -> list[Any]:
        """The flags for data in which something was changed."""
        root = self.data()
        change(root)
        return ["--data-root", root]


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        kind: what is bad: flags, config, data, checkpoint, folder or environment.
        name: in words.
        script: the command it is sent to.
        words: makes what it takes; returns the further flags.
        without: flags of the command that would succeed which are left out, with their values.
        process: settings of a process of its own, where the environment is what is bad; see `Surroundings`.
        may_succeed: the input is not wrong but unusual, and the command may do what it was asked to.
    """

    kind: str
    name: str
    script: str
    words: Callable[[Place], list[Any]]
    without: tuple[str, ...] = ()
    process: Surroundings | None = None
    may_succeed: bool = False

    def command(self, place: Place) -> list[str]:
        """All words behind the script's name."""
        words = list(map(str, place.store.flags(self.script, place.out)))
        for flag in self.without:
            position = words.index(flag)
            del words[position : position + 2]
        return [*words, *map(str, self.words(place))]


@dataclass(frozen=True)
class Surroundings:
    """What a process finds.

    Attributes:
        set: environment variables.
        unset: those that are taken away.
        before: runs in the new process before the command, such as a limit that is set.
        stdout: a file to write to instead of a pipe.
        closed: file descriptors that are closed.
        silent: whether nothing can be said, so that the exit status alone counts.
    """

    set: dict[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    before: Callable[[], None] | None = None
    stdout: str | None = None
    closed: tuple[int, ...] = ()
    silent: bool = False

    def prepare(self) -> None:
        """What is done in the new process."""
        for descriptor in self.closed:
            os.close(descriptor)
        if self.before:
            self.before()


def image_of(root: Path, split: str = "test") -> Path:
    """The first image of a split."""
    return min(path for path in (root / split).iterdir() if path.suffix in (".png", ".jpg"))


def label_of(root: Path, split: str = "test") -> Path:
    """The first label of a split."""
    return min((root / f"{split}annot").glob("*.png"))


def write_label(path: Path, ids: np.ndarray) -> None:
    """Overwrites a label map."""
    Image.fromarray(ids).save(path)


def json_of(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def done(*_: Any) -> list[Any]:
    """No further flags, when that was done."""
    return []


def truncated(path: Path) -> None:
    """Cuts a file in half."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
