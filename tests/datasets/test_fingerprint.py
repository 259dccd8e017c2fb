"""What tells that the files of a data set have changed, and what does not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data import SegmentationData
from bench.datasets.camvid import VOID
from bench.datasets.options import DataOptions
from bench.errors import BenchError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images of each split with labels of class 2."""
    root = tmp_path / "camvid"
    for split in ("train", "val", "test"):
        for folder, pixels in ((split, np.full((4, 6, 3), 90)), (f"{split}annot", np.full((4, 6), 2))):
            (root / folder).mkdir(parents=True)
            for name in "abc":
                Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{name}.png")
    return root


@pytest.fixture(autouse=True)
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """No split is small enough to be read unasked."""
    monkeypatch.setattr("bench.datasets.fingerprint._READ_AT_ONCE", 0)


def opened(root: Path, check: str = "stat") -> SegmentationData:
    return SegmentationData(DataOptions("camvid", str(root), num_workers=0, data_check=check))


def changed(root: Path, before: dict, check: str = "stat", splits: tuple[str, ...] = ("train", "val")) -> list[str]:
    return opened(root, check).files(*splits).changed_since(before)


def record(root: Path, check: str = "stat") -> dict:
    return opened(root, check).files("train", "val").record()


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))


def rewrite_unseen(path: Path) -> None:
    """Other bytes of the same number and time."""
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_files_that_stay_are_the_same(root):
    before = record(root)
    assert before["train"]["files"] == 6 and before["train"]["content"] is None
    assert changed(root, before) == []
    shutil.move(root, root.with_name("moved"))
    shutil.copytree(root.with_name("moved"), root)  # with their times, as cp -a does
    assert changed(root, before) == changed(root.with_name("moved"), before) == []


@pytest.mark.parametrize("folder", ["val", "valannot"])
def test_a_rewritten_image_or_label_is_seen_in_its_split(root, folder):
    before = record(root)
    touch(root / folder / "b.png")
    assert changed(root, before) == ["val"]


def test_files_that_come_go_or_are_called_otherwise_are_seen(root):
    before = record(root)
    for folder in ("val", "valannot"):
        (root / folder / "c.png").rename(root / folder / "d.png")
    assert changed(root, before) == ["val"]
    for folder in ("val", "valannot"):
        (root / folder / "d.png").unlink()
    assert changed(root, before) == ["val"]


def test_splits_and_times_of_which_nothing_is_known_count_as_the_same(root):
    assert changed(root, None) == changed(root, {}) == []
    before = record(root)
    touch(root / "testannot" / "a.png")
    assert changed(root, before, splits=("train", "val", "test")) == []


def test_content_decides_where_it_was_noted(root, tmp_path):
    before = record(root, "content")
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)  # with times of their own, as cp -r does
    assert changed(copy, record(root)) == ["train", "val"]
    # Of equal names and content, whether it is asked for again or not.
    assert changed(copy, before) == changed(copy, before, "content") == []
    rewrite_unseen(copy / "valannot" / "a.png")
    assert changed(copy, before) == changed(copy, before, "content") == ["val"]


def test_small_splits_are_known_by_their_content(root, tmp_path, monkeypatch):
    size = max(
        sum(path.stat().st_size for folder in (split, f"{split}annot") for path in (root / folder).iterdir())
        for split in ("train", "val")
    )
    monkeypatch.setattr("bench.datasets.fingerprint._READ_AT_ONCE", size - 1)
    assert None in [split["content"] for split in record(root).values()]
    monkeypatch.setattr("bench.datasets.fingerprint._READ_AT_ONCE", size)
    before = record(root)
    assert before == record(root, "content")
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    assert changed(copy, before) == []
    rewrite_unseen(copy / "valannot" / "a.png")
    assert changed(copy, before) == ["val"]


def test_only_content_sees_what_keeps_size_and_time(root):
    before, by_content = record(root), record(root, "content")
    rewrite_unseen(root / "valannot" / "a.png")
    assert changed(root, before) == changed(root, before, "content") == changed(root, by_content) == []
    assert changed(root, by_content, "content") == ["val"]


def test_a_change_is_said_in_a_line(root, capsys):
    before = record(root)
    assert opened(root).files("train", "val").fits(before, "it was made") and not capsys.readouterr().out
    touch(root / "train" / "a.png")
    touch(root / "val" / "a.png")
    assert not opened(root).files("train", "val").fits(before, "scores.pt was computed")
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "images or labels of train and val changed since scores.pt was computed: done again"


def test_a_split_of_void_alone_is_refused(root):
    data = opened(root)
    data.check_labelled("train", "val")
    for name in "abc":
        label = np.full((4, 6), VOID, np.uint8)
        label[3, 5] = 2 if name == "c" else VOID
        Image.fromarray(label).save(root / "valannot" / f"{name}.png")
    opened(root).check_labelled("train", "val")
    shutil.copy(root / "valannot" / "a.png", root / "valannot" / "c.png")
    with pytest.raises(BenchError, match="no pixel of camvid's val split is labelled"):
        opened(root).check_labelled("train", "val")
