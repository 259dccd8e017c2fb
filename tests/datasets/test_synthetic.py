"""The synthetic data set: the same bytes every time, every class in every split, safe against races."""

from __future__ import annotations

import hashlib
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.datasets import synthetic
from bench.datasets.camvid import VOID
from bench.datasets.scenes import draw_scene
from bench.datasets.synthetic import SIZE, Synthetic, draw_dataset
from bench.errors import BenchError

FEW = {"train": 3, "val": 2, "test": 2}


def digest_of(folder: Path) -> str:
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        sha.update(str(path.relative_to(folder)).encode())
        if path.is_file():
            sha.update(path.read_bytes())
    return sha.hexdigest()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Synthetic:
    """The whole data set."""
    return Synthetic(tmp_path_factory.mktemp("data") / "synthetic")


@pytest.mark.slow
def test_whole_set_is_there_in_camvids_layout(drawn):
    assert {split: len(drawn.pairs(split)) for split in ("train", "val", "test")} == synthetic.IMAGES
    for image, label in drawn.pairs("val"):
        with Image.open(image) as picture, Image.open(label) as ids:
            assert picture.size == ids.size == SIZE[::-1]
            assert (picture.mode, ids.mode) == ("RGB", "L")


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_class_is_present_often_enough(drawn, split):
    labels = [drawn.decode_label(pair.label) for pair in drawn.pairs(split)]
    counts = np.stack([np.bincount(label.ravel(), minlength=VOID + 1) for label in labels])
    assert (counts > 0).mean(axis=0).min() > 0.4
    shares = counts.sum(axis=0) / counts.sum()
    assert shares.min() > 0.003 and shares.max() < 0.4
    assert 0.005 < shares[VOID] < 0.06


@pytest.mark.slow
def test_nothing_is_left_beside_the_folder(drawn):
    assert [path.name for path in drawn.root.parent.iterdir()] == ["synthetic"]


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        draw_dataset(tmp_path / name, images=FEW, size=(48, 64), seed=seed)
    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "two")
    assert digest_of(tmp_path / "one" / "train") != digest_of(tmp_path / "other" / "train")


def test_scenes_differ_and_depend_on_their_generator_only():
    first, again, other = (draw_scene(np.random.default_rng(seed), (48, 64)) for seed in (0, 0, 1))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])
    assert first[0].shape == (48, 64, 3) and first[1].shape == (48, 64)
    assert first[0].dtype == first[1].dtype == np.uint8


@pytest.mark.slow
def test_a_drawn_folder_is_used_as_it_is(drawn, monkeypatch):
    def never(*_args, **_options):
        raise AssertionError("drawn again")

    monkeypatch.setattr(synthetic, "draw_dataset", never)
    assert len(Synthetic(drawn.root).pairs("test")) == synthetic.IMAGES["test"]


def test_an_empty_folder_is_filled(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "draw_dataset", lambda root: draw_dataset(root, images=FEW, size=(24, 32)))
    (tmp_path / "synthetic").mkdir()
    assert len(Synthetic(tmp_path / "synthetic").pairs("train")) == FEW["train"]


def _draw_few(root: Path) -> None:
    draw_dataset(root, images=FEW, size=(48, 64))


def test_processes_that_race_agree(tmp_path):
    root = tmp_path / "synthetic"
    racers = [multiprocessing.get_context("fork").Process(target=_draw_few, args=(root,)) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]
    assert len(Synthetic(root).pairs("train")) == FEW["train"]


def test_the_loser_of_a_race_keeps_the_winners_folder(tmp_path):
    root = tmp_path / "synthetic"
    draw_dataset(root, images=FEW, size=(24, 32), seed=0)
    before = digest_of(root)
    draw_dataset(root, images=FEW, size=(24, 32), seed=1)
    assert digest_of(root) == before


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BenchError, match="does not hold the synthetic data set"):
        Synthetic(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_of_another_version_is_refused(tmp_path, monkeypatch):
    draw_dataset(tmp_path / "synthetic", images=FEW, size=(24, 32))
    monkeypatch.setattr(synthetic, "VERSION", -1)
    with pytest.raises(BenchError, match="another version"):
        Synthetic(tmp_path / "synthetic")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot draw") as error:
        Synthetic(tmp_path / "file" / "synthetic")
    assert "\n" not in str(error.value)
