"""The flags that say what the method of prune.py is told."""

from __future__ import annotations

import argparse
from typing import Any

from bench.cli.parser import Parser
from bench.config.values import whole
from bench.errors import UsageError

_DIRECT_OPTIONS = ("alpha", "norm_scale", "classes")


def add_method(parser: Parser) -> None:
    """Adds the method, its options, and the flags that are short for some of them."""
    group = parser.add_argument_group("method")
    group.add_argument("--method", metavar="NAME", help="pruning method (required); --list-methods names them")
    parser.add_setting(group, "--opt", metavar="KEY=VALUE,...", help="options of the method")
    group.add_argument("--alpha", type=float, metavar="A", help="short for --opt alpha=A")
    group.add_argument("--norm-scale", metavar="NAME", help="short for --opt norm_scale=NAME")
    parser.add_value(group, "--classes", whole, nargs="+", metavar="ID", help="short for --opt 'classes=[ID,ID,...]'")


def method_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Option name -> value, of all that was said about the method.

    Raises:
        UsageError: an option was given in both ways.
    """
    direct = {name: getattr(arguments, name) for name in _DIRECT_OPTIONS if getattr(arguments, name) is not None}
    for name in direct:
        if name in arguments.opt:
            raise UsageError(f"--{name.replace('_', '-')} is short for --opt {name}=; pass one of them")
    return {**arguments.opt, **direct}
