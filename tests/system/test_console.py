"""A log hears of each stage once, and of long ones now and then; terminals and libraries hear nothing."""

from __future__ import annotations

import io
import sys

import pytest

from bench.system import console
from bench.system.console import announce, progress, say, stages_told


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_a_stage_is_named_once_and_again_only_after_silence(capsys, clock):
    with stages_told():
        for step in range(4):
            announce(f"training {step + 1}/4")
            clock[0] += 6
        announce("timing")
    assert capsys.readouterr().out.splitlines() == ["training 1/4 ...", "training 3/4 ...", "timing ..."]


def test_long_work_is_heard_of(capsys, clock):
    with stages_told():
        for _ in progress(range(10), "timing"):
            clock[0] += 4
    assert capsys.readouterr().out.splitlines() == [
        "timing ...",
        "timing: 3 of 10",
        "timing: 6 of 10",
        "timing: 9 of 10",
    ]


def test_any_line_breaks_the_silence(capsys, clock):
    with stages_told():
        for _ in progress(iter("abcdef"), "timing"):
            clock[0] += 6
            say("a line")
    assert capsys.readouterr().out.splitlines() == ["timing ...", *["a line"] * 6]


def test_a_library_says_nothing(capsys, clock):
    for _ in progress(range(10), "timing"):
        clock[0] += 100
    announce("timing")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_bars(capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", Terminal())
    with stages_told():
        assert list(progress(range(3), "timing")) == [0, 1, 2]
    assert "timing" not in sys.stdout.getvalue() and "timing" in sys.stderr.getvalue()


def test_a_log_is_as_wide_as_its_tables(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    console.console.cache_clear()
    try:
        assert console.console().width >= 500
        monkeypatch.setenv("COLUMNS", "70")
        console.console.cache_clear()
        assert console.console().width == 70
    finally:
        console.console.cache_clear()
