"""Exact filters of finished jobs: what fits, and what is said of names that no job has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import BenchError, UsageError
from bench.jobs.selection import EVERYTHING, Selection, chosen_jobs
from bench.plan.target import Goal


def info(method: str, value: float, seed: int, kind: str = "channels") -> dict[str, Any]:
    return {"method": method, "seed": seed, "target": {"kind": kind, "value": value, "within": None}}


JOBS = {
    "a": info("l1", 0.3, 0),
    "b": info("l1", 0.35, 1),
    "c": info("l1_global", 0.3, 10),
    "d": info("magnitude", 0.3, 0, "sparsity"),
    "e": info("taylor", 0.3, 0, "macs"),
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return written(tmp_path, JOBS)


def written(out: Path, jobs: Mapping[str, Any]) -> Path:
    for name, record in jobs.items():
        (out / name).mkdir()
        for file in ("done", "pruned_model.pt"):
            (out / name / file).touch()
        (out / name / "pruning_info.json").write_text(record if isinstance(record, str) else json.dumps(record))
    return out


def names(out: Path, selection: Selection) -> str:
    return "".join(folder.name for folder in chosen_jobs(out, selection))


@pytest.mark.parametrize(
    ("selection", "meant"),
    [
        (EVERYTHING, "abcde"),
        (Selection(["l1"]), "ab"),
        (Selection(["l1", "taylor"]), "abe"),
        (Selection(goals=[Goal("channels", 0.3)]), "acd"),
        (Selection(goals=[Goal("channels", 0.35), Goal("macs", 0.3)]), "be"),
        (Selection(seeds=[1]), "b"),
        (Selection(["l1"], [Goal("channels", 0.3)], [0]), "a"),
    ],
)
def test_what_is_named_is_meant_exactly(out, selection, meant):
    assert names(out, selection) == meant


def test_what_is_typed_must_be_there(out, capsys):
    def refused(**named: Any) -> str:
        with pytest.raises(BenchError) as caught:
            chosen_jobs(out, Selection(**named))
        return str(caught.value).removeprefix(f"no pruned network in {out} is ")

    assert refused(methods=["l1", "fpgm"]) == "of method fpgm; there are l1, l1_global, magnitude, taylor"
    assert refused(goals=[Goal("channels", 0.03)]) == "of goal 0.03; there are 0.3, 0.35, macs 0.3"
    assert refused(seeds=[1, 7]) == "of seed 7; there are 0, 1, 10"
    assert refused(methods=["taylor"], seeds=[1]) == "all that was named at once; leave some of it out"
    with pytest.raises(UsageError, match="unknown method 'tylor'; did you mean taylor"):
        Selection(["tylor"])
    # A file for several commands may name what failed; nothing at all is too little all the same.
    of_a_file = Selection(["l1", "fpgm"], typed=())
    assert names(out, of_a_file) == "ab"
    assert capsys.readouterr().out == f"no pruned network in {out} is of method fpgm\n"
    with pytest.raises(BenchError, match="of method fpgm; there are"):
        chosen_jobs(out, replace(of_a_file, methods=["fpgm"]))


def test_records_that_say_nothing_are_left_to_be_told_of(tmp_path):
    out = written(tmp_path, {"a": info("l1", 0.3, 0), "b": "{", "c": "{}", "d": info("l2", 0.3, 0)})
    assert chosen_jobs(out, Selection(["l1"])) == {out / "a": info("l1", 0.3, 0), out / "b": None, out / "c": {}}
