"""The flags that say what a pruning, or several, are to reach."""

from __future__ import annotations

import argparse
from dataclasses import replace

from bench.cli.parser import Parser
from bench.config.values import parse_bytes, parse_kept, parse_latency, parse_ratio, parse_reduction
from bench.errors import UsageError
from bench.plan.target import Goal

SEARCH_TOLERANCE = 0.005
"""How far off --auto-search may end, as a share of the network's parameters."""


def add_target(parser: Parser, *others: str) -> argparse._ArgumentGroup:
    """Adds what can be asked for; returns where a command adds its own.

    Args:
        parser: where to.
        others: fields that the command has in place of a target.
    """
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
    parser.add_switch(
        group,
        "--auto-search",
        default=None,
        help="name the score threshold that leaves these parameters, and fail unless they are met within "
        f"{100 * SEARCH_TOLERANCE:g} %%",
    )
    parser.add_alternatives(*target_fields("global_ratio").values(), *others)
    return group


def target_fields(channels: str) -> dict[str, str]:
    """Kind of target -> the field that holds it; that of channels has another name in each command."""
    return {"channels": channels} | {kind: f"target_{kind}" for kind in ("macs", "params", "size", "latency")}


def chosen_goal(arguments: argparse.Namespace) -> Goal:
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


def chosen_goals(arguments: argparse.Namespace, channels: str) -> list[Goal]:
    """What a pruning is to reach, or several prunings.

    Args:
        arguments: parsed arguments; each of the five is a value, a list of them, or nothing. That of the latency
            has its kind with it.
        channels: the one that holds shares of the channels.

    Raises:
        UsageError: not exactly one of the five was given.
    """
    names = target_fields(channels)
    given = [name for name in names.values() if getattr(arguments, name) not in (None, [])]
    if len(given) != 1:
        flags = {name: "--" + name.replace("_", "-") for name in names.values()}
        found = ", ".join(flags[name] for name in given)
        raise UsageError(f"pass exactly one of {', '.join(flags.values())}" + (f", not {found}" if found else ""))
    return goals_among(arguments, channels)


def goals_among(arguments: argparse.Namespace, channels: str) -> list[Goal]:
    """What was asked for of any kind; the arguments are those of `chosen_goals`."""
    goals = []
    for kind, name in target_fields(channels).items():
        found = getattr(arguments, name)
        values = found if isinstance(found, list) else [] if found is None else [found]
        goals += [Goal(*value) if kind == "latency" else Goal(kind, value) for value in values]
    return goals
