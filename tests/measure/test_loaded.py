"""A network's file used by a program of one's own: opened, and asked about an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripts import run_script

import bench
from bench.data import SegmentationData
from bench.datasets.options import DataOptions
from bench.errors import BenchError, UsageError
from bench.measure.evaluation import predictions
from bench.models import ModelSpec, build_model


@pytest.fixture(scope="module")
def pruned(shallow_baseline: Path, tiny_camvid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network's file with classes in it, and what prune.py made of it."""
    folder = tmp_path_factory.mktemp("pruned")
    data = ["--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0, "--input-size", "24,32"]
    train = run_script("train.py", *data, "--ckpt", shallow_baseline, "--epochs", 1, "--batch-size", 4,
                       "--model", "unet_small", "--save", folder)  # fmt: skip
    prune = run_script("prune.py", *data, "--ckpt", folder / "best.pt", "--method", "l1", "--global-ratio", 0.5,
                       "--no-latency", "--save", folder)  # fmt: skip
    assert (train.code, prune.code) == (0, 0), train.err + prune.err
    return folder / "pruned_model.pt"


def test_one_line_opens_a_pruned_network(pruned: Path) -> None:
    network = bench.load(pruned)
    assert not network.training
    assert network.input_size == (24, 32)
    assert network.classes[3] == "road" and len(network.classes) == 11
    dense, state = bench.load(pruned.with_name("best.pt")), network.state_dict()
    assert sum(map(torch.numel, state.values())) < 0.5 * sum(map(torch.numel, dense.state_dict().values()))
    saved = bench.load_model(pruned)
    images = torch.randn(2, 3, 24, 32)
    with torch.inference_mode():
        assert torch.equal(network(images), saved.model(images))
    # What came along is no part of the weights.
    assert state.keys() == saved.model.state_dict().keys()


def test_an_image_is_predicted_as_it_is_scored(pruned: Path, tiny_camvid: Path) -> None:
    network = bench.load(pruned)
    options = DataOptions("camvid", str(tiny_camvid), input_size=(24, 32), num_workers=0)
    data = SegmentationData(options)
    scored = predictions(network, data.eval_loader("test", 1), device=torch.device("cpu"), label="test")
    for pair, (expected, _) in zip(data.dataset.pairs("test"), scored, strict=True):
        found = bench.predict(network, pair.image)
        assert found.shape == (48, 64) and found.dtype == torch.int64
        assert torch.equal(found, expected[0])
        assert torch.equal(bench.predict(network, np.array(Image.open(pair.image))), found)


def test_the_size_the_network_sees_may_be_another(pruned: Path) -> None:
    network, image = bench.load(pruned), np.zeros((40, 50, 3), np.uint8)
    seen: list[torch.Size] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    assert bench.predict(network, image, input_size=(16, 16)).shape == (40, 50)
    network.input_size = None
    assert bench.predict(network, image).shape == (40, 50)
    assert [tuple(shape[2:]) for shape in seen] == [(16, 16), (40, 50)]


def test_a_plain_state_dict_has_no_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = build_model(ModelSpec("unet_small", 5)).state_dict()
    torch.save(weights, tmp_path / "plain.pt")
    network = bench.load(tmp_path / "plain.pt", model="unet_small", outputs=5)
    assert (network.classes, network.input_size) == ((), None)
    assert network(torch.zeros(1, 3, 16, 16)).shape == (1, 5, 16, 16)
    with pytest.raises(BenchError, match="say with `model` which network"):
        bench.load(tmp_path / "plain.pt")


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_an_array_that_is_no_image_is_refused(pruned: Path, image: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"an image is uint8 \[H, W, 3\], not "):
        bench.predict(bench.load(pruned), image)


def test_a_file_that_is_not_there_is_named(pruned: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no\.pt does not exist"):
        bench.load(tmp_path / "no.pt")
    with pytest.raises(BenchError, match=r"no\.png"):
        bench.predict(bench.load(pruned), tmp_path / "no.png")
