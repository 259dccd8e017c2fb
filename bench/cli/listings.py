"""The flags that name what there is to choose from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.cli.config_file import RECIPES_FILE, recipes_for
from bench.cli.parser import Parser
from bench.errors import UsageError
from bench.system.console import say


def add_listings(parser: Parser, *, methods: bool = False, recipes: bool = False) -> argparse._ArgumentGroup:
    """Adds the flags; returns where a command adds its own.

    Args:
        parser: where to.
        methods: whether the command prunes.
        recipes: whether it trains by recipes.
    """
    group = parser.add_argument_group("listings")
    if methods:
        group.add_argument("--list-methods", action="store_true", help="name the pruning methods and exit")
        verbose = "with --list-methods: the options of each, with defaults and meaning, and its paper"
        group.add_argument("-v", "--verbose", action="store_true", help=verbose)
    group.add_argument("--list-models", action="store_true", help="name the networks and exit")
    if recipes:
        group.add_argument("--list-recipes", action="store_true", help="name the recipes of --config and exit")
    return group


def add_recipe(parser: Parser) -> None:
    """Adds the flag that puts the settings of a recipe under all other ones."""
    parser.general.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"defaults by data set and network, such as camvid/segnet, of --config or else {RECIPES_FILE}; "
        "--list-recipes names them",
    )


def print_listing(arguments: argparse.Namespace, argv: Sequence[str]) -> bool:
    """Prints the listing asked for, if one was.

    Args:
        arguments: parsed arguments.
        argv: the command line.

    Raises:
        UsageError: more is wanted of a listing that was not asked for.
    """
    if getattr(arguments, "list_methods", False):
        from bench.pruners import methods

        if arguments.verbose:
            for line in method_lines():
                say(line)
            return True
        entries = {name: entry.summary for name, entry in methods().items()}
    elif getattr(arguments, "verbose", False):
        raise UsageError("-v shows more of --list-methods; pass that too")
    elif arguments.list_models:
        from bench.models import MODELS

        entries = {name: entry.summary for name, entry in MODELS.items()}
    elif getattr(arguments, "list_recipes", False):
        entries = {name: _in_words(settings) for name, settings in recipes_for(argv).items()}
    else:
        return False
    width = max(22, *map(len, entries))
    for name, summary in entries.items():
        say(f"{name:{width}} {summary}")
    return True


def _in_words(settings: Mapping[str, Any]) -> str:
    """What a recipe says that its name does not."""
    said = {key: value for key, value in settings.items() if key not in ("dataset", "model")}
    words = {key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in said.items()}
    return " ".join(f"{key}={value}" for key, value in words.items())


def method_lines() -> Iterator[str]:
    """All that there is to say about the methods: a paragraph each, with the options."""
    from bench.pruners import method_class, methods

    for name, entry in methods().items():
        kind = method_class(name)
        yield f"{name}: {entry.summary}"
        yield f"    paper: {kind.paper}"
        yield from (f"    --opt {line}" for line in kind.option_lines())
