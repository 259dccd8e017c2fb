"""A sample of `python -m tests.reliability.bad_inputs`, which tries them all."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import Outcome

from tests.reliability import bad_inputs
from tests.reliability.cases import CASES
from tests.reliability.place import SCRIPTS, Store

# Two of each command and more, of every kind that needs no process of its own.
SAMPLE = (
    ("train.py", "--lr inf"),
    ("train.py", "a label that is cut off in train"),
    ("train.py", "own images: a colour that is not described"),
    ("prune.py", "--min-keep 0.9"),
    ("prune.py", "a missing label in test"),
    ("eval.py", "an image that is text in test"),
    ("eval.py", "a report that is a folder"),
    ("benchmark.py", "a mapping for a value"),
    ("benchmark.py", "an output below a file"),
    ("finetune_batch.py", "an empty benchmark"),
    ("finetune_batch.py", "a pruned network of the benchmark that is cut off"),
    # Found by it.
    ("prune.py", "a value that contains itself"),
    ("eval.py", "deep nesting"),
)
KINDS = {"flags", "config", "data", "checkpoint", "folder", "environment"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.make(tmp_path_factory.mktemp("store"))


def test_there_are_hundreds_of_every_kind_for_every_command() -> None:
    names = [(case.kind, case.script, case.name) for case in CASES]
    assert len(set(names)) == len(names) >= 250
    assert {case.kind for case in CASES} == KINDS
    for script in SCRIPTS:
        assert len([case for case in CASES if case.script == script]) >= 20
    assert {script for script, _ in SAMPLE} == set(SCRIPTS)


@pytest.mark.parametrize(("script", "name"), SAMPLE, ids=lambda value: str(value))
def test_a_bad_input_ends_in_one_line(script: str, name: str, store: Store, tmp_path: Path) -> None:
    (case,) = [case for case in CASES if (case.script, case.name) == (script, name) and case.process is None]
    before = bad_inputs.contents(store.folder)
    verdict = bad_inputs.tried(case, store, tmp_path / "case")
    assert verdict and verdict.faults == [], verdict
    assert verdict.line.startswith(f"{script}: error: ")
    assert bad_inputs.contents(store.folder) == before


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome(0, "", "train.py: error: that was wrong\n"), "status 0"),
        (Outcome(-9, "", "train.py: error: that was wrong\n"), "status -9"),
        (Outcome(1, "", ""), "0 lines begin with"),
        (Outcome(1, "", "train.py: error: one thing\ntrain.py: error: another\n"), "2 lines begin with"),
        (Outcome(1, "", "train.py: error: that was wrong\nand more\n"), "not the last"),
        (Outcome(1, "", "train.py: error: \n"), "says nothing"),
        (Outcome(1, "", "x.py:3: UserWarning: hm\ntrain.py: error: that was wrong\n"), "'UserWarning:' is shown"),
        (Outcome(1, "", "Traceback (most recent call last):\ntrain.py: error: that was wrong\n"), "'Traceback' is"),
    ],
)
def test_a_bad_end_is_seen(outcome: Outcome, fault: str) -> None:
    (case,) = [case for case in CASES if (case.script, case.name) == ("train.py", "--epochs 0")]
    assert [found for found in bad_inputs.faults_of(case, outcome) if fault in found], outcome
    assert bad_inputs.faults_of(case, Outcome(2, "stage\n", "stage\ntrain.py: error: that was wrong\n")) == []


def test_what_is_left_half_written_is_seen(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{}")
    before = bad_inputs.contents(tmp_path)
    for name, text in {"a.json": "{", "b.pt": "x", ".c.pt.1.tmp": "", "d.csv": "a,b", "e.json": "[1]"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "mine.json").unlink()
    wrong = ["a.json is half-written", "b.pt is half-written", ".c.pt.1.tmp is left", "d.csv is half-written"]
    assert sorted(bad_inputs.traces(tmp_path, before)) == sorted([*wrong, "mine.json is gone"])
