"""Kept files that are damaged are made anew, with a line that says so."""

from __future__ import annotations

import pytest

from bench.errors import BenchError, DamagedFile
from bench.system.files import read_json, write_json
from bench.system.kept_files import read_kept, with_kept


def test_a_kept_file_is_read_a_damaged_one_is_not(tmp_path, capsys):
    path = tmp_path / "kept.json"
    assert read_kept(path, read_json) is None
    write_json(path, {"a": 1})
    assert read_kept(path, lambda kept: read_json(kept)["a"]) == 1
    assert capsys.readouterr().out == ""
    assert read_kept(path, lambda kept: read_json(kept)["b"]) is None
    path.write_text('{"a": 1')
    assert read_kept(path, read_json) is None
    assert capsys.readouterr().out.splitlines() == [f"{path} is damaged; it is made anew"] * 2


def test_work_is_done_again_without_the_files_that_are_damaged(tmp_path, capsys):
    def work():
        for name in ("a.json", "b.json"):
            if not (tmp_path / name).exists():
                write_json(tmp_path / name, {"made": name})
        return [read_json(tmp_path / name)["made"] for name in ("a.json", "b.json")]

    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    assert with_kept(work, tmp_path) == ["a.json", "b.json"]
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert with_kept(work, tmp_path) == ["a.json", "b.json"]
    assert capsys.readouterr().out == ""


def test_what_stays_damaged_or_is_somebody_elses_is_an_error(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "other.json").write_text("{")
    with pytest.raises(DamagedFile):
        with_kept(lambda: read_json(tmp_path / "other.json"), tmp_path / "mine")
    assert (tmp_path / "other.json").read_text() == "{"

    def always_broken():
        (tmp_path / "mine" / "a.json").write_text("{")
        return read_json(tmp_path / "mine" / "a.json")

    with pytest.raises(BenchError, match="not a JSON file"):
        with_kept(always_broken, tmp_path / "mine")
