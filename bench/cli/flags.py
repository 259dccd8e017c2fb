"""The flags of prune.py that say what a method is told and what a pruning is to reach."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from bench.cli.parser import Parser, chosen_goals
from bench.config.values import parse_bytes, parse_kept, parse_latency, parse_ratio, parse_reduction, whole
from bench.errors import UsageError
from bench.plan.target import Goal

SEARCH_TOLERANCE = 0.005
"""How far off --auto-search may end, as a share of the network's parameters."""

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


def add_target(parser: Parser) -> argparse._ArgumentGroup:
    """Adds what can be asked for; returns where a command adds its own."""
    group = parser.add_argument_group("target (exactly one, or --sensitivity)")
    for flag, parse, metavar, text in (
        ("--global-ratio", parse_ratio, "R", "share of the prunable channels to remove, or of the weights to zero"),
        ("--target-macs", parse_kept, "R", "share of the MACs to keep"),
        ("--target-params", parse_kept, "R", "share of the parameters to keep"),
        ("--target-size", parse_bytes, "SIZE", "most bytes of the tensors in the saved file, such as 10MB"),
        ("--target-latency", parse_latency, "R", "share of the latency to keep, or a time on this device such as 12ms"),
    ):
        parser.add_value(group, flag, parse, metavar=metavar, help=text)
    parser.add_value(
        group,
        "--params-reduction",
        parse_reduction,
        dest="target_params",
        metavar="R",
        help="share of the parameters to remove; the same as --target-params 1-R",
    )
    group.add_argument(
        "--auto-search",
        action="store_true",
        default=None,
        help="name the score threshold that leaves these parameters, and fail unless they are met within "
        f"{100 * SEARCH_TOLERANCE:g} %%",
    )
    return group


def goal_of(arguments: argparse.Namespace) -> Goal:
    """What the pruning is to reach.

    Raises:
        UsageError: not exactly one target, or a search for anything but parameters.
    """
    (goal,) = chosen_goals(arguments, "global_ratio")
    if not arguments.auto_search:
        return goal
    if goal.kind != "params":
        raise UsageError("--auto-search looks for a number of parameters; pass --params-reduction or --target-params")
    return replace(goal, within=SEARCH_TOLERANCE)
