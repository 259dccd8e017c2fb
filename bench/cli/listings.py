"""The flags that name what there is to choose from."""

from __future__ import annotations

import argparse

from bench.cli.parser import Parser
from bench.system.console import say


def add_listings(parser: Parser, *, methods: bool = True) -> argparse._ArgumentGroup:
    """Adds the flags; returns where a command adds its own.

    Args:
        parser: where to.
        methods: whether the command has to do with pruning methods.
    """
    group = parser.add_argument_group("listings")
    if methods:
        group.add_argument("--list-methods", action="store_true", help="name the pruning methods and exit")
    group.add_argument("--list-models", action="store_true", help="name the networks and exit")
    return group


def print_listing(arguments: argparse.Namespace) -> bool:
    """Prints the listing asked for, if one was."""
    if getattr(arguments, "list_methods", False):
        from bench.pruners import methods

        entries = methods()
    elif arguments.list_models:
        from bench.models import MODELS as entries
    else:
        return False
    for name, entry in entries.items():
        say(f"{name:22} {entry.summary}")
    return True
