"""The flags that say what methods are told."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any

from bench.cli.parser import Parser
from bench.config.values import whole
from bench.errors import UsageError
from bench.pruners import methods
from bench.system.console import say

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
    """Option name -> value, of all that was said about the method of prune.py.

    Options may be named METHOD.KEY as for several methods; so a config file serves both.

    Raises:
        UsageError: an option was given in both ways.
    """
    named = {key: key.rpartition(".") for key in settings_of_methods(arguments, [arguments.method])}
    opt = {
        option if method in ("", arguments.method) else key: arguments.opt[key]
        for key, (method, _, option) in named.items()
    }
    direct = {name: getattr(arguments, name) for name in _DIRECT_OPTIONS if getattr(arguments, name) is not None}
    for name in direct:
        if name in opt:
            raise UsageError(f"--{name.replace('_', '-')} is short for --opt {name}=; pass one of them")
    return {**opt, **direct}


def settings_of_methods(arguments: argparse.Namespace, names: Collection[str]) -> dict[str, Any]:
    """What was said about methods; what a config file says of other ones than those that run is left out and named.

    Args:
        arguments: parsed arguments.
        names: the methods that run.
    """
    if "opt" in arguments.typed:
        return arguments.opt
    left_out = [key for key in arguments.opt if (method := key.partition(".")[0]) in methods() and method not in names]
    if left_out:
        say(f"config: left out what concerns other methods than {', '.join(names)}: {', '.join(left_out)}")
    return {key: value for key, value in arguments.opt.items() if key not in left_out}
