"""Launchers: command lines in processes of their own, and how they end."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import time
from types import SimpleNamespace

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from bench.errors import UsageError
from bench.launchers import make_launcher, slurm, together
from bench.launchers.base import Ended, Launching, run_command
from bench.launchers.local import Local

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


def test_processes_together_see_their_own_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7,8")
    launcher = Local(Launching("bench.launchers.together", 2, 2, 2, tmp_path))
    words = [launcher._words(["2", "bench.commands.benchmark"], slot) for slot in range(2)]
    assert words == [[f"gpus={named}", "2", "bench.commands.benchmark"] for named in ("5,6", "7,8")]
    started = []
    monkeypatch.setattr(together.run, "main", started.extend)
    assert together.main(*words[1]) == 0
    assert {"--nproc_per_node=2", "CUDA_VISIBLE_DEVICES=7,8"} <= {*started}


@pytest.mark.parametrize(
    ("codes", "expected"), [([2, -15], 2), ([1, 1], 1), ([-15, -9], -9), ([1, -9], -9), ([-11, 1], -11)]
)
def test_processes_together_end_as_the_one_that_failed(monkeypatch, codes, expected):
    failures = {rank: ProcessFailure(rank, 100 + rank, code, "") for rank, code in enumerate(codes)}
    started, signals = [], []

    def run(words):
        started.append(words)
        raise ChildFailedError("cell", failures)

    monkeypatch.setattr(together.run, "main", run)
    monkeypatch.setattr(os, "kill", lambda _pid, number: signals.append(-number))
    monkeypatch.setattr(together.signal, "signal", lambda *_: None)
    assert together.main("2", "bench.commands.benchmark", "--cells=l1@0.5@0") == expected
    assert signals == [code for code in [expected] if code < 0]
    assert started[0][:3] == ["--standalone", "--nproc_per_node=2", "--no-python"]
    assert started[0][-3:] == ["-m", "bench.commands.benchmark", "--cells=l1@0.5@0"]


def test_jobs_of_slurm_are_looked_up_in_its_queue(monkeypatch):
    jobs = {number: SimpleNamespace(job_id=f"7_{number}") for number in range(4)}
    queue = [(0, "7_0 RUNNING\n7_1 CANCELLED\n7_2 PENDING\n"), (1, "")]
    monkeypatch.setattr(slurm.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], *queue.pop(0)))
    assert slurm.gone(jobs) == {1: "CANCELLED", 3: "GONE"}
    # A queue that says nothing says nothing of them.
    assert slurm.gone(jobs) == {} and not queue


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
        (Ended(0, 130, "x.py: interrupted"), "its process was interrupted from outside"),
        (Ended(0, None, "node died"), "its process was lost: node died"),
    ],
)
def test_the_reason_of_an_end_is_a_line(end, reason):
    assert end.reason == reason
    assert end.is_lost == (" was " in reason)


def test_there_is_no_other_launcher(tmp_path):
    with pytest.raises(UsageError, match="unknown launcher 'slrum'; did you mean slurm"):
        make_launcher("slrum", Launching("timeit", 1, 1, 0, tmp_path))
