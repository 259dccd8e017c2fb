"""Flags that must be given, and flags that must not; how a command was started."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields

from bench.config.declare import default_of
from bench.errors import UsageError


def is_by_torchrun() -> bool:
    """Whether this is one of several processes; known before anything heavy is loaded (`bench.system.processes`)."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def require_flags(arguments: argparse.Namespace, *names: str) -> None:
    """Raises UsageError for the first of some flags that was neither given nor configured."""
    for name in names:
        if getattr(arguments, name) is None:
            raise UsageError(f"--{name.replace('_', '-')} is missing")


def refuse_flags(arguments: argparse.Namespace, reason: str, *names: str) -> None:
    """Raises UsageError for the first of some flags that was given or configured, and says why it cannot be."""
    for name in names:
        if getattr(arguments, name) not in (None, [], {}):
            raise UsageError(f"{reason}; leave --{name.replace('_', '-')} out")


def refuse_changes(arguments: argparse.Namespace, reason: str, options: type, names: Sequence[str]) -> None:
    """Raises UsageError for the first of some fields of an option group that is not its default, and says why."""
    for spec in fields(options):
        if spec.name in names and getattr(arguments, spec.name) != default_of(spec):
            raise UsageError(f"{reason}; leave --{spec.name.replace('_', '-')} out")
