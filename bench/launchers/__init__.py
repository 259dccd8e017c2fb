"""Launchers run command lines in processes of their own: on this machine, by SLURM, or on a Ray cluster."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from bench.errors import unknown_name

if TYPE_CHECKING:
    from bench.launchers.base import Launcher, Launching

LAUNCHERS = {
    "local": ("bench.launchers.local", "Local"),
    "slurm": ("bench.launchers.slurm", "Slurm"),
    "ray": ("bench.launchers.ray_cluster", "RayCluster"),
}
"""Name -> module and class."""


def make_launcher(name: str, launching: Launching) -> Launcher:
    """A launcher, ready to run.

    Args:
        name: one of `LAUNCHERS`.
        launching: how many processes, with what, and where they say what they say.

    Raises:
        UsageError: there is no such launcher, or it has no such options.
        BenchError: what it needs is not installed or not there.
    """
    if name not in LAUNCHERS:
        raise unknown_name("launcher", name, LAUNCHERS)
    module, cls = LAUNCHERS[name]
    return getattr(importlib.import_module(module), cls)(launching)
