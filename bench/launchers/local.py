"""Processes on this machine: one for each command line, forked from one that has imported what all of them need.

The memory of a process goes back with it. With GPUs, each has one for itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from bench.errors import first_line
from bench.launchers.base import Ended, Launcher, last_line
from bench.system.locks import is_process

_WATCH_SECONDS = 1.0
_PATIENCE_SECONDS = 30.0
# What multiprocessing says of a process whose fork server is gone.
_UNKNOWN = 255


class Local(Launcher):
    """`--launcher local --jobs N`."""

    def run(self, commands: Sequence[Sequence[str]]) -> Iterator[Ended]:
        """Runs them; Ctrl-C here is Ctrl-C for all."""
        has_server = "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if has_server else "spawn")
        if has_server:
            context.set_forkserver_preload([__name__, *self.how.preload])
        waiting, free = deque(enumerate(commands)), list(range(self.how.jobs))
        running: dict[int, tuple[int, int, multiprocessing.Process]] = {}
        with tempfile.TemporaryDirectory() as folder:
            try:
                while waiting or running:
                    while waiting and free:
                        (number, words), slot = waiting.popleft(), free.pop(0)
                        said = str(Path(folder) / str(number))
                        what = (self.how.module, self._words(words, slot), said)
                        process = context.Process(target=_become, args=what)
                        try:
                            process.start()
                        except (EOFError, OSError) as error:
                            # The process that forks the others was killed; there is a new one the next time.
                            free.append(slot)
                            yield Ended(number, None, f"it could not be started ({first_line(error)})")
                            continue
                        running[process.sentinel] = (number, slot, process)
                    for sentinel in wait(list(running)) if running else ():
                        number, slot, process = running.pop(sentinel)
                        process.join()
                        said = Path(folder) / str(number)
                        text = said.read_bytes() if said.is_file() else b""
                        free.append(slot)
                        yield Ended(number, _code_of(process), last_line(text))
            finally:
                _end([process for _, _, process in running.values()])

    def _words(self, words: Sequence[str], slot: int) -> list[str]:
        count = self.how.gpus
        if count < 2:
            return [*words, *([f"--device=cuda:{slot}"] if count else [])]
        # Processes together have one each.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count * self.how.jobs)))
        return [f"gpus={','.join(visible.split(',')[slot * count : (slot + 1) * count])}", *words]


def _code_of(process: multiprocessing.Process) -> int | None:
    """The exit status; None where the process that forks the others was killed, and nobody knows."""
    return None if process.exitcode == _UNKNOWN else process.exitcode


def _end(processes: Sequence[multiprocessing.Process]) -> None:
    """Asks processes to stop, and makes those stop that do not."""
    for process in processes:
        process.terminate()
    end = time.monotonic() + _PATIENCE_SECONDS
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _become(module: str, words: Sequence[str], said: str) -> None:
    """Is the command line from here on; what it says on stderr goes to a file."""
    # The launcher tells its processes itself when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process().pid,), daemon=True).start()
    file = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # That it was imported before it is run.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with(launcher: int) -> None:
    """Ends this process in order once the one that began it is gone."""
    while is_process(launcher):
        time.sleep(_WATCH_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.kill(os.getpid(), signal.SIGTERM)
