"""Launchers: command lines in processes of their own, and how they end."""

from __future__ import annotations

import multiprocessing
import time

import pytest

from bench.errors import UsageError
from bench.launchers import make_launcher
from bench.launchers.base import Ended, Launching, run_command

END = {"well": "pass", "badly": "raise SystemExit('no such thing')", "killed": "import os; os.kill(os.getpid(), 9)"}


def timed(name: str) -> list[str]:
    """Words behind `python -m timeit` that run a statement once."""
    return ["-n1", "-r1", END[name]]


def test_processes_of_this_machine_end_each_in_its_way(tmp_path):
    launcher = make_launcher("local", Launching("timeit", 2, 1, 0, tmp_path))
    ends = {end.number: end for end in launcher.run([timed(name) for name in END])}
    assert [ends[number].code for number in range(3)] == [0, 1, -9]
    assert ends[1].said == "SystemExit: no such thing"
    assert [end.is_lost for _, end in sorted(ends.items())] == [False, False, True]
    assert list(tmp_path.iterdir()) == []


def test_what_becomes_of_the_processes_of_a_killed_fork_server_is_not_known(tmp_path):
    kill = "import os, signal, time; os.kill(os.getppid(), signal.SIGKILL); time.sleep(0.5)"
    launcher = make_launcher("local", Launching("timeit", 1, 1, 0, tmp_path))
    (first,) = launcher.run([["-n1", "-r1", kill]])
    assert first.is_lost and first.code is None
    # The new one is there once the old one is found dead.
    for _ in range(100):
        (end,) = launcher.run([timed("well")])
        if not end.is_lost:
            break
        time.sleep(0.05)
    assert end == Ended(0, 0, "")


def test_a_process_that_cannot_be_started_is_lost(tmp_path, monkeypatch):
    starts = []

    def start(process):
        starts.append(process)
        if len(starts) == 1:
            raise EOFError("unexpected EOF")
        unpatched(process)

    kind = multiprocessing.get_context("forkserver").Process
    unpatched = kind.start
    monkeypatch.setattr(kind, "start", start)
    launcher = make_launcher("local", Launching("timeit", 1, 1, 0, tmp_path))
    first, second = launcher.run([timed("well"), timed("well")])
    assert first == Ended(0, None, "it could not be started (unexpected EOF)") and first.is_lost
    assert second == Ended(1, 0, "")


def test_a_launcher_that_is_stopped_stops_its_processes(tmp_path):
    launcher = make_launcher("local", Launching("timeit", 2, 1, 0, tmp_path))
    slow = ["-n1", "-r1", f"import pathlib, time; time.sleep(30); pathlib.Path({str(tmp_path / 'late')!r}).touch()"]
    ends = launcher.run([timed("well"), slow])
    assert next(ends).number == 0
    ends.close()
    assert not (tmp_path / "late").exists()


def test_a_command_line_tells_its_last_line(tmp_path):
    assert run_command("timeit", timed("well"), str(tmp_path)) == (0, "")
    assert run_command("timeit", timed("badly"), str(tmp_path)) == (1, "SystemExit: no such thing")


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (Ended(0, 1, "x.py: error: no"), "x.py: error: no"),
        (Ended(0, 3, ""), "its process ended with status 3"),
        (Ended(0, -9, "half a line"), "its process was killed (SIGKILL), most likely because memory ran out"),
        (Ended(0, -15, ""), "its process was ended by SIGTERM"),
        (Ended(0, None, "node died"), "its process was lost: node died"),
    ],
)
def test_the_reason_of_an_end_is_a_line(end, reason):
    assert end.reason == reason


def test_there_is_no_other_launcher(tmp_path):
    with pytest.raises(UsageError, match="unknown launcher 'slrum'; did you mean slurm"):
        make_launcher("slrum", Launching("timeit", 1, 1, 0, tmp_path))
