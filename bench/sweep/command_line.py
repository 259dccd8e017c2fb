"""The command line that is one cell of a sweep by itself."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import fields

from bench.cli.parser import Parser
from bench.jobs.options import GridOptions
from bench.jobs.sweep import Job
from bench.oracle.options import OracleOptions
from bench.sweep.cells import name_of
from bench.sweep.options import SweepOptions

MODULE = "bench.commands.benchmark"

# What says which cells there are, or concerns all of them; what a config file says stands among the words.
_OF_THE_SWEEP = (
    *(spec.name for group in (GridOptions, SweepOptions, OracleOptions) for spec in fields(group)),
    *("config", "recipe", "opt", "debug"),
)


class CommandLines:
    """Makes the command lines of cells from that of a sweep."""

    def __init__(self, parser: Parser, arguments: argparse.Namespace):
        """Takes over what is the same for all cells.

        Args:
            parser: of benchmark.py.
            arguments: what it made of the command line and its config files.
        """
        self._words, self._opt = parser.without(arguments.words, *_OF_THE_SWEEP), arguments.opt

    def words(self, job: Job) -> list[str]:
        """The flags that run a job and nothing else, seen from the folder that the sweep was started in."""
        own = {key: value for key, value in self._opt.items() if key.partition(".")[0] == job.method}
        settings = ",".join(f"{key}={json.dumps(value)}" for key, value in own.items())
        return [*self._words, *([f"--opt={settings}"] if own else []), f"--cells={name_of(job)}"]

    def text(self, job: Job) -> str:
        """The same as a line for a shell."""
        return shlex.join(["python", "-m", MODULE, *self.words(job)])
