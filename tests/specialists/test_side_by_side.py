"""Several specialists at once: how many run, and what is said of those that fail."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from bench.errors import BenchError
from bench.specialists import side_by_side
from bench.specialists.side_by_side import prune_in_processes

GROUPS = [(0, 1), (7,), (3, 5)]


@pytest.fixture
def stand_ins(monkeypatch):
    """Starts programs that only say their words in place of the command; notes the words, and how many ran at once."""
    seen, running = [], []

    def started(words, stdout, **settings):
        running[:] = [process for process in running if process.poll() is None]
        seen.append((words[2:], len(running) + 1))
        code = "import sys, time; time.sleep(0.3); sys.exit('group 7 is bad' if '7' in sys.argv[1:] else 0)"
        running.append(subprocess.Popen([sys.executable, "-c", code, *words], stdout=stdout, **settings))
        return running[-1]

    class Stand:
        Popen, DEVNULL, STDOUT = staticmethod(started), subprocess.DEVNULL, subprocess.STDOUT

    monkeypatch.setattr(side_by_side, "subprocess", Stand)
    return seen, running


def test_each_group_has_a_process_and_only_so_many_run_at_once(stand_ins, tmp_path, capsys):
    seen, _ = stand_ins
    words = ["--out-dir", "x", "--processes", "2"]
    prune_in_processes([(0, 1), (3, 5)], words, 2, tmp_path)
    command = ["bench.specialists", "prune", *words, "--groups"]
    assert [found for found, _ in seen] == [[*command, group, "--processes", "1"] for group in ("0-1", "3+5")]
    assert capsys.readouterr().out.count("done") == 2
    prune_in_processes([(0,), (1,), (4,)], [], 2, tmp_path)
    assert max(at_once for _, at_once in seen) == 2


def test_one_that_fails_does_not_end_the_others_and_is_named(stand_ins, tmp_path):
    seen, _ = stand_ins
    with pytest.raises(
        BenchError, match=r"^1 of 3 specialists failed: 7; .*class7_prune.log ends with: group 7 is bad$"
    ):
        prune_in_processes(GROUPS, [], 1, tmp_path)
    assert len(seen) == 3


def test_an_interrupt_ends_all(stand_ins, tmp_path, monkeypatch):
    _, running = stand_ins

    def interrupted(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(side_by_side, "time", type("Clock", (), {"sleep": staticmethod(interrupted)}))
    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        prune_in_processes(GROUPS, [], 3, tmp_path)
    assert [process.poll() is not None for process in running] == [True] * 3
    assert time.perf_counter() - began < 30
