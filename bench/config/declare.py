"""How an option is declared: a dataclass field that knows its flag, its help and how its text is read.

Those of a method are declared so too: they have no flag of their own, and their help is for `--list-methods -v`.

A group of options is a dataclass in the module `options` beside what it configures. A field becomes a command-line flag
and a config key of the same name (`bench.cli.parser`) and reaches the library as a typed value. Such a module imports
nothing heavy: `--help` must answer at once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import MISSING, asdict, field, fields
from typing import Any

from bench.errors import UsageError


def option(
    default: Any,
    help: str,
    *,
    parse: Callable[[str], Any] | None = None,
    aliases: tuple[str, ...] = (),
    choices: tuple[str, ...] | None = None,
    metavar: str | None = None,
    later: bool = False,
) -> Any:
    """Declares a dataclass field that is also a command-line flag.

    Args:
        default: value without the flag; a bool makes a `--flag/--no-flag` pair.
        help: one line for `--help`.
        parse: turns the flag's text into the value and raises ValueError with a reason where it cannot;
            by default the type of `default`, text where that is None.
        aliases: further spellings of the flag; one of a single letter has a single dash.
        choices: the only accepted values.
        metavar: how the value is shown in `--help`.
        later: whether the option came when its group already named results by content; see `identity_of`.
    """
    meta = {"help": help, "parse": parse, "aliases": aliases, "choices": choices, "metavar": metavar, "later": later}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: copy.copy(default), metadata=meta)
    return field(default=default, metadata=meta)


def default_of(spec: Any) -> Any:
    """The default value of a dataclass field."""
    return spec.default if spec.default is not MISSING else spec.default_factory()


def identity_of(options: Any) -> dict[str, Any]:
    """What names the results of a group of options by content: its fields, but for later ones at their default.

    What was done before there was such an option was done as its default does it, and keeps its name.
    """
    values = asdict(options)
    return {
        spec.name: values[spec.name]
        for spec in fields(options)
        if not (spec.metadata["later"] and values[spec.name] == default_of(spec))
    }


def require(condition: bool, message: str) -> None:
    """Raises UsageError(message) unless the condition holds."""
    if not condition:
        raise UsageError(message)
