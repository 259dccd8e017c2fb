"""Specialists that a launcher makes, each by the same command with its group alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.errors import BenchError
from bench.launchers import make_launcher
from bench.launchers.base import Launching
from bench.specialists.deployment import Group, spelt
from bench.sweep.options import SweepOptions
from bench.system.console import say

MODULE = "bench.specialists"


def launch_specialists(
    groups: Sequence[Group],
    words: Sequence[str],
    how: SweepOptions,
    folder: Path,
    *,
    device: torch.device,
    threads: int | None,
) -> None:
    """Runs `python -m bench.specialists prune` for each group; returns when all have ended.

    One that fails does not end the others. Ctrl-C and SIGTERM end all; what is finished stays, and unfinished trainings
    go on when the command is given again.

    Args:
        groups: whose specialists are wanted.
        words: the flags of the command without those of launching; group and threads are added.
        how: by which launcher, and how many at once.
        folder: where the launcher may keep what the processes say.
        device: with a GPU each process has one for itself.
        threads: CPU threads of each process; None: an equal share of the machine's.

    Raises:
        BenchError: the launcher cannot be had, or specialists failed, which are named, the first with its reason.
    """
    gpus = 1 if device.type == "cuda" else 0
    jobs = min(how.jobs, torch.cuda.device_count()) if gpus and how.launcher == "local" else how.jobs
    threads = threads or max(1, (os.cpu_count() or 1) // how.jobs)
    launching = Launching(MODULE, jobs, threads, gpus, folder / "launcher_logs", how.launcher_options)
    launcher = make_launcher(how.launcher, launching)
    commands = [["prune", *words, f"--groups={spelt(group)}", f"--threads={threads}"] for group in groups]
    failed: dict[Group, str] = {}
    with contextlib.closing(launcher.run(commands)) as ends:
        for end in ends:
            group = groups[end.number]
            if end.code != 0:
                failed[group] = end.reason
            say(f"specialist of the classes {spelt(group)}: {'failed' if group in failed else 'done'}")
    if failed:
        first, reason = next(iter(failed.items()))
        raise BenchError(
            f"{len(failed)} of {len(groups)} specialists failed: {', '.join(map(spelt, failed))}; "
            f"that of {spelt(first)}: {reason}"
        )
