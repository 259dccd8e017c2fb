"""Locks between processes, on one machine or several: a file that names its owner while something is made.

A lock is held by the kernel (`flock`), which lets go of it when its owner dies, however that dies. What the file says
beside that, host and process and when that was started, is for people, and for file systems whose `flock` does not
reach other hosts: there an owner is alive as long as it touches the file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from bench.errors import MachineError
from bench.system.console import say
from bench.system.files import host_name

try:
    import fcntl
except ImportError:  # no POSIX: the owner's process decides alone
    fcntl = None

Item = TypeVar("Item")

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 180.0
"""An owner on another host that has not touched its lock for so long is dead."""

# What a lock without a word in it was made by: somebody who is about to write that word, or was killed before.
_WORDLESS_SECONDS = 3.0
_SETTLING_SECONDS = 1.0
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
        host: the machine's name.
        pid: the process's number there.
        started: when it was started, in the kernel's ticks, so that another process of that number is told from it;
            None where the machine does not say.
    """

    host: str
    pid: int
    started: str | None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def is_running(self) -> bool:
        """Whether there is such a process on this machine; of another machine's nothing is known, and it is not."""
        if self.host != socket.gethostname():
            return False
        return is_process(self.pid) and self.started == _start_of(self.pid)


def is_process(pid: int) -> bool:
    """Whether a process of this number exists on this machine."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


def this_process() -> Owner:
    """The process that asks."""
    return Owner(socket.gethostname(), os.getpid(), _start_of(os.getpid()))


def _start_of(pid: int) -> str | None:
    with contextlib.suppress(OSError):
        state, *others = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if state in "ZX" else others[18]
    return None


class Lock:
    """A lock that this process holds.

    Attributes:
        path: its file.
    """

    def __init__(self, path: Path, file: int):
        self.path, self._file, self._released = path, file, threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._file)

    def release(self) -> None:
        """Lets go of it and removes its file."""
        self._released.set()
        # First the file: whoever waits for it then sees that what it waited for is no longer there.
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self._file)


def lock_of(path: Path) -> Path:
    """The lock of a file or a folder that is made by one process: a hidden file beside it."""
    # The working folder may be called ".", which is no name.
    path = path.absolute()
    return path.with_name(f".{path.name}.lock")


def owner_of(lock: Path) -> Owner | None:
    """Who holds a lock, as its file says; None where nobody does, or the file does not say."""
    try:
        return Owner(**json.loads(lock.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def try_lock(path: Path) -> Lock | None:
    """Takes a lock if nobody holds it: one that is free, or whose owner is dead.

    Args:
        path: the lock's file, in a folder that exists.

    Returns:
        The lock, or None where somebody alive holds it.

    Raises:
        BenchError: the file cannot be written.
    """
    try:
        while True:
            opened = _open(path)
            if opened is None:
                continue
            file, is_new = opened
            with contextlib.ExitStack() as unless_taken:
                unless_taken.callback(os.close, file)
                if not _hold(file):
                    return None
                if not _is_still_there(path, file):
                    continue
                if not _sign(path, file, before=None if is_new else owner_of(path), is_new=is_new):
                    return None
                lock = Lock(path, file)
                unless_taken.pop_all()
                return lock
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error


def _open(path: Path) -> tuple[int, bool] | None:
    """The opened file, and whether it is new; None where it went meanwhile."""
    with contextlib.suppress(FileExistsError):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    try:
        return os.open(path, os.O_RDWR), False
    except FileNotFoundError:
        return None


def _hold(file: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # A file system without such locks leaves it to what is written in the file.
        return error.errno not in _BUSY
    return True


def _is_still_there(path: Path, file: int) -> bool:
    """Whether the opened file is the one of this name: its last owner may have removed it meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _is_alive(owner: Owner | None, file: int) -> bool:
    """Whether the owner of a lock that the kernel has nothing against may be alive nevertheless."""
    age = time.time() - os.fstat(file).st_mtime
    if owner is None:
        return age < _WORDLESS_SECONDS
    return owner.is_running or (owner.host != socket.gethostname() and age < STALE_SECONDS)


def _sign(path: Path, file: int, *, before: Owner | None, is_new: bool) -> bool:
    """Writes this process into a lock that the kernel has given it, unless the owner before it is alive."""
    if not is_new and _is_alive(before, file):
        return False
    os.ftruncate(file, 0)
    try:
        os.pwrite(file, json.dumps(asdict(this_process())).encode(), 0)
    except OSError:
        # Nobody must wait for a lock that does not say whose it is.
        path.unlink(missing_ok=True)
        raise
    if before is None or before.host == socket.gethostname():
        return True
    # Another host may find the same owner dead at the same moment: the last to sign has it.
    time.sleep(_SETTLING_SECONDS)
    return owner_of(path) == this_process()


def is_held(path: Path) -> Owner | str | None:
    """Who holds a lock, for people; None where nobody does. Does not take it, even from a dead owner."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        owner = owner_of(path)
        is_free = _hold(file) and not _is_alive(owner, file)
        return None if is_free else owner or "another process"
    finally:
        os.close(file)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds a lock in the block; waits for it as long as somebody alive holds it, and says so.

    Args:
        path: the lock's file, in a folder that exists.
        what: what it protects, for the message.
    """
    lock, began, was_told, pause = try_lock(path), time.monotonic(), False, 0.02
    while lock is None:
        if not was_told and time.monotonic() - began > 1.0:
            say(f"waiting for {what}: {owner_of(path) or 'another process'} is at it")
            was_told = True
        time.sleep(pause)
        pause = min(1.0, pause * 1.5)
        lock = try_lock(path)
    try:
        yield
    finally:
        lock.release()


def share_out(items: Iterable[Item], do: Callable[[Item], bool], told: Callable[[list[Item]], str]) -> None:
    """Does each of some items that other processes do, too: those that another is at come back until they are done.

    Args:
        items: what there is to do.
        do: does one, or finds it done; False where another process is at it.
        told: what is said, once, where nothing is left but what others are at.
    """
    waiting, was_told = list(items), False
    while waiting:
        left = [item for item in waiting if not do(item)]
        if len(left) == len(waiting):
            if not was_told:
                say(told(left))
            was_told = True
            time.sleep(1.0)
        waiting = left


@contextlib.contextmanager
def alone_on(device: object) -> Iterator[None]:
    """Keeps other benchmarks of this user from measuring times on a device of this machine in the block.

    Args:
        device: its name, as torch has it.
    """
    name = f"bench-{os.getuid() if hasattr(os, 'getuid') else 'user'}-{device}".replace(":", "-")
    with locked(Path(tempfile.gettempdir()) / f".{name}.lock", f"the device {device}"):
        yield


def remove_unfinished(folder: Path) -> None:
    """Removes what processes of this machine that are gone were writing anywhere in a folder, and their locks."""
    for path in folder.rglob(".*.tmp"):
        _, host, pid, _ = f"...{path.name}".rsplit(".", 3)
        if host == host_name() and pid.isdigit() and not is_process(int(pid)):
            path.unlink(missing_ok=True)
    for path in folder.rglob(".*.lock"):
        remove_dead(path)


def remove_dead(path: Path) -> None:
    """Removes a lock, if there is one, whose owner is dead."""
    lock = try_lock(path) if path.is_file() else None
    if lock is not None:
        lock.release()
