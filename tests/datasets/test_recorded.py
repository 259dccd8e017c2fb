"""What a checkpoint says of the data it was trained on stands where a request leaves it open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.datasets.camvid import CamVid
from bench.datasets.options import DataOptions
from bench.datasets.recorded import settled
from bench.errors import BenchError, UsageError


def meta(root: Path, **changes: Any) -> dict[str, Any]:
    """What a network trained on CamVid in a folder says."""
    about = {"dataset": "camvid", "classes": list(CamVid.classes.names), "data_root": str(root)}
    return {**about, "input_size": [48, 64], **changes}


def test_what_is_left_open_is_as_the_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = settled(DataOptions(), meta(tmp_path), "best.pt")
    assert chosen == DataOptions("camvid", str(tmp_path), (48, 64))
    shown = f"as best.pt says: --dataset camvid --data-root {tmp_path} --input-size 48,64\n"
    assert capsys.readouterr().out == shown


def test_what_is_asked_for_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = DataOptions("camvid", "elsewhere", (96, 128))
    assert settled(asked, meta(tmp_path), "best.pt") == asked
    assert capsys.readouterr().out == ""


def test_nothing_is_said_of_what_would_have_been_so_anyway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "datasets" / "synthetic").mkdir(parents=True)
    usual = meta(tmp_path / "datasets" / "synthetic", dataset="synthetic", input_size=[144, 192])
    assert settled(DataOptions(), usual, "best.pt").dataset == "synthetic"
    assert capsys.readouterr().out == ""


def test_a_folder_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    assert settled(DataOptions(), meta(tmp_path / "gone"), "best.pt").data_root is None


@pytest.mark.parametrize("may_differ", [False, True])
def test_another_data_set_is_refused_unless_it_may_be(may_differ: bool, tmp_path: Path) -> None:
    asked = DataOptions("synthetic")
    if may_differ:
        # The folder is that of the other images.
        assert settled(asked, meta(tmp_path), "best.pt", may_differ=True) == DataOptions("synthetic", None, (48, 64))
        return
    with pytest.raises(BenchError) as caught:
        settled(asked, meta(tmp_path), "best.pt")
    assert str(caught.value).startswith("best.pt was trained on camvid, not on synthetic; pass `dataset=camvid`")


def test_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"best\.pt was trained on the classes cat, dog; camvid has sky, building"):
        settled(DataOptions(), meta(tmp_path, classes=["cat", "dog"]), "best.pt")


def test_a_file_that_does_not_say_needs_a_name() -> None:
    with pytest.raises(UsageError, match=r"x\.pt does not say which data set .* pass `dataset=NAME`"):
        settled(DataOptions(), {"input_size": [48, 64]}, "x.pt")
    assert settled(DataOptions("camvid"), {}, "x.pt") == DataOptions("camvid")


def test_a_data_set_that_is_not_registered_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"trained on the data set 'pets', which is not registered; known: camvid"):
        settled(DataOptions(), meta(tmp_path, dataset="pets"), "best.pt")
    with pytest.raises(UsageError, match="unknown data set 'camvd'"):
        settled(DataOptions("camvd"), meta(tmp_path), "best.pt")
