"""Cells that a launcher runs, each by its own command line."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from bench.errors import UsageError
from bench.launchers import make_launcher
from bench.launchers.base import TOGETHER, Launching
from bench.sweep.cells import Cell
from bench.sweep.command_line import MODULE, CommandLines
from bench.sweep.options import SweepOptions
from bench.system.console import say

# A cell whose process is killed or lost is tried so many times in all.
_TRIES = 2


class Launched:
    """The cells of a sweep in processes of their own."""

    def __init__(
        self, cells: Sequence[Cell], how: SweepOptions, commands: CommandLines, device: torch.device, out: Path
    ):
        """Sets up the launcher; nothing is started.

        Args:
            cells: what is to be run.
            how: by which launcher, and how many at once.
            commands: gives their command lines.
            device: that of the sweep: with a GPU each process has one for itself, each of several of a cell, too.
            out: folder of the benchmark.

        Raises:
            BenchError: the launcher cannot be had, or too few GPUs.
        """
        self._cells, self._how, self._commands = cells, how, commands
        self._logs = out / "launcher_logs"
        team = how.processes_per_cell
        self._threads = commands.threads or max(1, (os.cpu_count() or 1) // (how.jobs * team))
        gpus, jobs = team if device.type == "cuda" else 0, how.jobs
        if gpus and how.launcher == "local":
            jobs = min(jobs, torch.cuda.device_count() // gpus)
            if not jobs:
                raise UsageError(
                    f"{torch.cuda.device_count()} GPUs are visible, too few for `processes_per_cell={team}`"
                )
        # The words before those of a cell.
        self._before = [str(team), MODULE] if team > 1 else []
        module, preload = (TOGETHER, TOGETHER) if team > 1 else (MODULE, "bench.sweep.run")
        threads = self._threads * team
        launching = Launching(module, jobs, threads, gpus, self._logs, how.launcher_options, (preload,))
        self._launcher = make_launcher(how.launcher, launching)

    def ended(self) -> Iterator[tuple[Cell, str | None]]:
        """Runs the cells; yields each that is over, and why its process did not succeed, or None."""
        cells = list(self._cells)
        for number in range(1, _TRIES + 1):
            again = []
            words = [[*self._before, *self._commands.cell(cell.job, self._how, self._threads)] for cell in cells]
            with contextlib.closing(self._launcher.run(words)) as ends:
                for end in ends:
                    cell = cells[end.number]
                    if end.is_lost and number < _TRIES:
                        say(f"{cell.name}: {end.reason}; it is tried once more")
                        again.append(cell)
                    else:
                        yield cell, None if end.code == 0 else end.reason
            cells = again
        shutil.rmtree(self._logs, ignore_errors=True)
