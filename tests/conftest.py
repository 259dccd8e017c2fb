"""What several tests share: where the real data lies, and a tiny data set of the project's own."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.cli.entry import run

ROOT = Path(__file__).resolve().parent.parent


class Outcome(NamedTuple):
    """How a script ended: exit status and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny images gain nothing from more, and lose much where the cores are shared."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Gives the networks of a test the same weights, whatever ran before it."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


def _real_data(name: str) -> Path:
    folder = Path(os.environ.get("VSS_DATA", ROOT.parent / "shared" / "datasets")) / name
    if not folder.is_dir():
        pytest.skip(f"real data not present: {folder} (set VSS_DATA to the folder that holds it)")
    return folder


@pytest.fixture(scope="session")
def camvid_root() -> Path:
    return _real_data("camvid")


@pytest.fixture(scope="session")
def cityscapes_root() -> Path:
    return _real_data("cityscapes_sample")


@pytest.fixture(scope="session")
def tiny_camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CamVid-like folder of 8, 4 and 4 drawn images, 48x64."""
    from bench.datasets.synthetic import draw_dataset

    root = tmp_path_factory.mktemp("data") / "camvid"
    draw_dataset(root, images={"train": 8, "val": 4, "test": 4}, size=(48, 64))
    return root


@pytest.fixture(scope="session")
def tiny_baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of an untrained `unet_small` for CamVid at 48x64."""
    import torch

    from bench.models import ModelSpec, build_model
    from bench.models.checkpoint import SavedModel, save_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        spec = ModelSpec("unet_small", 12)
        saved = SavedModel(build_model(spec), spec, meta={"input_size": [48, 64]})
    path = tmp_path_factory.mktemp("baseline") / "best.pt"
    save_model(path, saved)
    return path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """`call("prune.py", "--method", "l1", ...)` runs a script in this process and returns how it ended."""
    monkeypatch.syspath_prepend(ROOT)

    def run_script(script: str, *flags: object) -> Outcome:
        words = [str(flag) for flag in flags]
        monkeypatch.setattr(sys, "argv", [script, *words])
        capsys.readouterr()
        code = 0
        try:
            run(importlib.import_module(script.removesuffix(".py")).main)
        except SystemExit as end:
            code = end.code or 0
        return Outcome(code, *capsys.readouterr())

    return run_script
