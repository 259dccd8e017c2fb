"""Locks: held by one process at a time, named after it, and free again however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.system import locks
from bench.system.files import host_name, whole_file
from bench.system.locks import is_held, lock_of, locked, owner_of, remove_unfinished, this_process, try_lock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return lock_of(tmp_path / "scores.pt")


def forked(work) -> int:
    """Does something in a process of its own, which ends as if it had been killed; its number."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(9)
    return pid


def written(path: Path, owner: locks.Owner | None, age: float = 0.0) -> None:
    path.write_text(json.dumps(asdict(owner)) if owner else "")
    os.utime(path, times=(time.time() - age,) * 2)


def test_a_lock_says_whose_it_is_and_is_gone_afterwards(path):
    assert path.name == ".scores.pt.lock" and is_held(path) is None
    with locked(path, "scores"):
        owner = owner_of(path)
        assert (owner.host, owner.pid) == (socket.gethostname(), os.getpid())
        assert str(is_held(path)) == f"process {os.getpid()} on {socket.gethostname()}"
        assert try_lock(path) is None
    assert not path.exists()


def test_the_working_folder_has_a_lock_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lock_of(Path()) == tmp_path.with_name(f".{tmp_path.name}.lock")


def test_the_lock_of_a_killed_process_is_taken_over(path):
    def hold() -> None:
        assert try_lock(path)
        os.kill(os.getpid(), signal.SIGKILL)

    pid = forked(hold)
    os.waitpid(pid, 0)
    assert owner_of(path).pid == pid and is_held(path) is None
    with locked(path, "scores"):
        assert owner_of(path).pid == os.getpid()


def test_one_waits_for_the_other(path, tmp_path, capsys):
    count = tmp_path / "count"
    count.write_text("0")

    def add() -> None:
        for _ in range(20):
            with locked(path, "the count"):
                count.write_text(str(int(count.read_text()) + 1))

    for pid in [forked(add) for _ in range(3)]:
        os.waitpid(pid, 0)
    assert count.read_text() == "60"
    assert not path.exists()


def test_another_process_of_the_same_number_is_not_the_owner(path):
    written(path, replace(this_process(), started="1"))
    assert try_lock(path) is not None


def test_without_locks_of_the_kernel_the_owner_decides(path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    written(path, this_process())
    assert try_lock(path) is None and is_held(path)
    written(path, replace(this_process(), pid=2**22 + 1))
    assert try_lock(path) is not None


@pytest.mark.parametrize(("age", "is_taken"), [(0, False), (locks.STALE_SECONDS + 5, True)])
def test_an_owner_elsewhere_is_alive_as_long_as_it_touches_the_lock(path, monkeypatch, age, is_taken):
    monkeypatch.setattr(locks, "_SETTLING_SECONDS", 0)
    written(path, locks.Owner("elsewhere", 1, None), age)
    assert (try_lock(path) is not None) == is_taken
    assert owner_of(path).host == (socket.gethostname() if is_taken else "elsewhere")


def test_of_two_hosts_that_take_over_the_last_to_sign_has_it(path, monkeypatch):
    other = locks.Owner("third", 1, None)
    monkeypatch.setattr(locks.time, "sleep", lambda _: written(path, other))
    written(path, locks.Owner("elsewhere", 1, None), locks.STALE_SECONDS + 5)
    assert try_lock(path) is None and owner_of(path) == other


def test_a_lock_without_a_word_is_somebodys_who_is_about_to_sign_it(path):
    written(path, None)
    assert try_lock(path) is None
    written(path, None, age=60)
    assert try_lock(path) is not None


def test_an_owner_touches_its_lock(path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.02)
    with locked(path, "scores"):
        os.utime(path, times=(0, 0))
        end = time.monotonic() + 5
        while path.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


def test_a_lock_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(BenchError, match="choose another folder"):
        try_lock(tmp_path / "missing" / ".x.lock")


def test_only_what_the_dead_have_left_is_removed(tmp_path):
    pid = forked(lambda: try_lock(tmp_path / ".dead.lock"))
    os.waitpid(pid, 0)
    (tmp_path / "deep").mkdir()
    left = tmp_path / "deep" / f".a.json.{host_name()}.{pid}.tmp"
    foreign = tmp_path / f".a.json.elsewhere.{pid}.tmp"
    for path in (left, foreign):
        path.touch()
    with whole_file(tmp_path / "mine.json") as mine, locked(tmp_path / ".mine.lock", "mine"):
        mine.touch()
        remove_unfinished(tmp_path)
        assert {path.name for path in tmp_path.rglob(".*")} == {mine.name, foreign.name, ".mine.lock"}
