"""How far a sweep is, and how long the rest may take."""

from __future__ import annotations

import io

import pytest

from bench.sweep.progress import SweepProgress, duration
from bench.system import console


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (86400, "24.0 h")],
)
def test_a_duration_is_for_people(seconds, text):
    assert duration(seconds) == text


def test_the_time_left_is_judged_by_the_cells_that_were_run(capsys):
    progress = SweepProgress(5, workers=2)
    progress.finish("a: done before", None)
    progress.finish("b: run", 10.0)
    progress.finish("c: run", 30.0)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "[1/5] a: done before",
        "[2/5] b: run; 3 left, about 15 s",
        "[3/5] c: run; 2 left, about 20 s",
    ]


def test_a_terminal_has_a_bar_over_all_cells(monkeypatch, capsys):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(console.sys, "stderr", terminal)
    with SweepProgress(2).shown() as progress:
        progress.finish("a: run", 1.0)
        assert progress._bar.n == 1
        assert "[1/2] a: run; 1 left, about 1 s" in capsys.readouterr().out
    assert "sweep:" in terminal.getvalue() and "0/2" in terminal.getvalue()
