"""The command line that is one cell of a sweep by itself."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import fields

from bench.cli.parser import Parser
from bench.jobs.options import GridOptions
from bench.oracle.options import OracleOptions
from bench.sweep.cells import name_of
from bench.sweep.grid import Job
from bench.sweep.options import SweepOptions

MODULE = "bench.commands.benchmark"

# What says which cells there are, or concerns all of them; what a config file says stands among the words.
_OF_THE_SWEEP = (
    *(spec.name for group in (GridOptions, SweepOptions, OracleOptions) for spec in fields(group)),
    *("config", "recipe", "opt", "debug"),
)


class CommandLines:
    """Makes the command lines of cells from that of a sweep.

    Attributes:
        threads: what was asked for, if it was.
    """

    def __init__(self, parser: Parser, arguments: argparse.Namespace):
        """Takes over what is the same for all cells.

        Args:
            parser: of benchmark.py.
            arguments: what it made of the command line and its config files.
        """
        self._words, self._opt = parser.without(arguments.words, *_OF_THE_SWEEP), arguments.opt
        self.threads: int | None = arguments.threads

    def words(self, job: Job) -> list[str]:
        """The flags that run a job and nothing else, seen from the folder that the sweep was started in."""
        own = {key: value for key, value in self._opt.items() if key.partition(".")[0] == job.method}
        settings = ",".join(f"{key}={json.dumps(value)}" for key, value in own.items())
        return [*self._words, *([f"--opt={settings}"] if own else []), f"--cells={name_of(job)}"]

    def cell(self, job: Job, how: SweepOptions, threads: int) -> list[str]:
        """The same for a launcher: what comes after the cells is left to whoever launches them."""
        return [*self.words(job), f"--threads={threads}", "--cells-only", *(["--force"] if how.force else [])]

    def text(self, job: Job) -> str:
        """The same as a line for a shell."""
        return shlex.join(["python", "-m", MODULE, *self.words(job)])
