"""What several tests share: where the real data lies, and a tiny data set of the project's own."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from scripts import ROOT, Outcome, run_script


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests begin first, so that no process is left with one at the end; those of GPUs need one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    on_cuda = [item for item in items if item.get_closest_marker("cuda")]
    if on_cuda and not _has_gpu():
        for item in on_cuda:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def pytest_collection_finish() -> None:
    """All that was imported and collected stays: garbage collection, which sweeps ask for, need not look through it."""
    gc.collect()
    gc.freeze()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available() or "CUDA_TESTS_ON" in os.environ


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


def _untrained(folder: Path, **kwargs: int) -> Path:
    import torch

    from bench.models import ModelSpec, build_model
    from bench.models.checkpoint import SavedModel, save_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        spec = ModelSpec("unet_small", 12, kwargs)
        saved = SavedModel(build_model(spec), spec, meta={"input_size": [48, 64]})
    save_model(folder / "best.pt", saved)
    return folder / "best.pt"


@pytest.fixture(scope="session")
def tiny_baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of an untrained `unet_small` for CamVid at 48x64."""
    return _untrained(tmp_path_factory.mktemp("baseline"))


@pytest.fixture(scope="session")
def shallow_baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with 6 convolutions of at most 16 channels, for tests of jobs to which the network is all one."""
    return _untrained(tmp_path_factory.mktemp("shallow"), width=8, depth=1)


@pytest.fixture
def call() -> Callable[..., Outcome]:
    """`call("prune.py", "--method", "l1", ...)` runs a script in this process and returns how it ended."""
    return run_script
