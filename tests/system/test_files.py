"""Run folders: whole files, markers, digests, provenance."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from bench.errors import BenchError
from bench.system.files import (
    digest,
    file_digest,
    make_folder,
    plain,
    read_json,
    whole_file,
    write_csv,
    write_json,
    write_text,
)
from bench.system.provenance import provenance
from bench.system.run_folder import begin, fail, finish, is_done, run_folder


@dataclass
class Record:
    size: tuple[int, int]
    where: Path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    with whole_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names(tmp_path) == {"a.txt"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(error), whole_file(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.txt"}


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_writing_where_no_folder_is_names_the_file(tmp_path, folder):
    (tmp_path / "file").write_text("")
    path = tmp_path / folder / "a.json"
    with pytest.raises(BenchError, match=f"cannot write {path}: (No such file|Not a directory)"):
        write_json(path, {})


def test_a_table_has_its_columns_and_blanks_where_nothing_is_known(tmp_path):
    write_csv(tmp_path / "a.csv", ("name", "share"), [{"name": "x, y", "share": 0.5}, {"share": None}, {"name": "z"}])
    assert (tmp_path / "a.csv").read_bytes() == b'name,share\n"x, y",0.5\n,\nz,\n'
    with pytest.raises(ValueError, match="colour"):
        write_csv(tmp_path / "b.csv", ("name",), [{"colour": "red"}])
    assert names(tmp_path) == {"a.csv"}


def test_writing_onto_a_folder_is_refused(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(BenchError, match=r"cannot write .*a\.json: Is a directory"):
        write_json(tmp_path / "a.json", {})
    assert names(tmp_path) == {"a.json"}


def test_make_folder(tmp_path):
    assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert names(tmp_path / "a" / "b") == set()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BenchError, match=f"cannot write to {path}: .*; choose another output folder"):
            make_folder(path)


def test_plain_data():
    value = {
        1: Record((4, 5), Path("a/b")),
        "tensor": torch.tensor([1.5, float("nan")]),
        "scalar": torch.tensor(3),
        "set": {7},
        "nan": float("nan"),
        "none": None,
        "flag": True,
    }
    assert plain(value) == {
        "1": {"size": [4, 5], "where": "a/b"},
        "tensor": [1.5, None],
        "scalar": 3,
        "set": [7],
        "nan": None,
        "none": None,
        "flag": True,
    }


def test_json_goes_there_and_back(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"miou": float("nan"), "sizes": (1, 2), "name": "Straße"})
    # Strict JSON: what another language reads too.
    assert json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)["miou"] is None
    assert read_json(path) == {"miou": None, "sizes": [1, 2], "name": "Straße"}


def test_unreadable_json_names_the_file(tmp_path):
    with pytest.raises(BenchError, match=r"cannot read .*a\.json: No such file"):
        read_json(tmp_path / "a.json")
    for content in (b"{", b"\xff\xfe"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(BenchError, match=r"a\.json is not a JSON file"):
            read_json(tmp_path / "a.json")


def test_a_digest_names_content():
    # Held fast: folder names of earlier benchmarks must be found again.
    assert digest({"b": [1, 2.5], "a": None}) == "6b1d84977084"
    assert digest({"a": None, "b": (1, 2.5)}) == "6b1d84977084"
    assert digest({"a": None, "b": [1, 2.25]}) != "6b1d84977084"


def test_a_file_digest_is_its_sha256(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    assert file_digest(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_markers(tmp_path):
    folder = tmp_path / "run"
    begin(folder)
    assert names(folder) == set()
    assert not is_done(folder)

    finish(folder)
    assert is_done(folder)
    assert not is_done(folder, "pruned_model.pt")
    write_text(folder / "pruned_model.pt", "")
    assert is_done(folder, "pruned_model.pt")

    fail(folder, "out of luck\n")
    assert (folder / "failed").read_text() == "out of luck\n"
    begin(folder)
    assert names(folder) == {"pruned_model.pt"}
    assert not is_done(folder, "pruned_model.pt")


def test_a_run_folder_says_how_the_run_ended(tmp_path):
    with run_folder(tmp_path) as folder:
        assert not is_done(folder)
    assert is_done(tmp_path)

    with pytest.raises(BenchError), run_folder(tmp_path):
        raise BenchError("no such layer")
    assert not is_done(tmp_path)
    assert (tmp_path / "failed").read_text() == "BenchError: no such layer\n"

    with pytest.raises(KeyboardInterrupt), run_folder(tmp_path):
        raise KeyboardInterrupt
    assert names(tmp_path) == {"failed"}


def test_provenance_names_a_package_that_was_run_by_its_name(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/bench/export/__main__.py", "--ckpt", "a b.pt"])
    assert provenance()["command"] == "-m bench.export --ckpt 'a b.pt'"
    monkeypatch.setattr("sys.argv", ["eval.py", "--report", "r.json"])
    assert provenance()["command"] == "eval.py --report r.json"


def test_provenance_is_plain_data(tmp_path):
    record = provenance()
    torch.save(record, tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True) == record
    assert json.loads(json.dumps(record)) == record
    assert record["torch"] == torch.__version__
    assert type(record["torch"]) is str
    assert record["threads"] == torch.get_num_threads()


def test_provenance_without_git(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    assert provenance()["git"] is None


def test_provenance_names_the_commit(project_root):
    if not (project_root / ".git").exists():
        pytest.skip("not a git checkout")

    def commit(name: str) -> str:
        command = ["git", "rev-parse", name + "^{commit}"]
        return subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=True).stdout

    assert commit(provenance()["git"].removesuffix("-dirty")) == commit("HEAD")
