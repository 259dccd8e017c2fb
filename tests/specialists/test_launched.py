"""Specialists that a launcher makes: their command lines, and what is said of those that fail."""

from __future__ import annotations

import pytest
import torch

from bench.errors import BenchError
from bench.launchers.base import Ended
from bench.specialists import launched
from bench.specialists.launched import launch_specialists
from bench.sweep.options import SweepOptions

GROUPS = [(0, 1), (7,), (3, 5)]


@pytest.fixture
def launchers(monkeypatch):
    """Launchers that run nothing: how each was made, its command lines, and how these are said to end."""
    made, ends = [], []

    class Stand:
        def run(self, commands):
            made.append([list(words) for words in commands])
            yield from ends or (Ended(number, 0, "") for number in reversed(range(len(commands))))

    monkeypatch.setattr(launched, "make_launcher", lambda name, launching: made.append((name, launching)) or Stand())
    return made, ends


def launch(folder, how, **settings):
    launch_specialists(
        GROUPS, ["--out-dir", "x"], how, folder, **{"device": torch.device("cpu"), "threads": 2, **settings}
    )


def test_each_group_is_a_command_line_of_its_own(launchers, tmp_path, capsys):
    made, _ = launchers
    launch(tmp_path, SweepOptions(launcher="local", jobs=2))
    (name, launching), commands = made
    assert (name, launching.module, launching.jobs, launching.gpus) == ("local", "bench.specialists", 2, 0)
    start = ["prune", "--out-dir", "x"]
    assert commands == [[*start, f"--groups={group}", "--threads=2"] for group in ("0-1", "7", "3+5")]
    assert capsys.readouterr().out.count("done") == 3


def test_those_that_fail_are_named_when_all_have_ended(launchers, tmp_path):
    _, ends = launchers
    ends += [Ended(1, 1, "specialists.py: error: no"), Ended(0, 0, ""), Ended(2, -9, "")]
    with pytest.raises(BenchError, match=r"^2 of 3 specialists failed: 7, 3\+5; that of 7: specialists.py: error: no$"):
        launch(tmp_path, SweepOptions(launcher="local"))


def test_a_lost_process_is_no_success(launchers, tmp_path):
    _, ends = launchers
    ends += [Ended(0, None, "node failure")]
    with pytest.raises(BenchError, match=r"failed: 0-1; .*its process was lost: node failure"):
        launch(tmp_path, SweepOptions(launcher="slurm"))
