"""What the five scripts share: flags from option groups, the config file, the console, one-line errors."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, TypeVar

from bench.config.declare import default_of
from bench.config.values import parse_settings
from bench.errors import BenchError, UsageError, unknown_name
from bench.plan.target import Goal
from bench.system.console import say

Options = TypeVar("Options")

# What a config file cannot hold: needed before it is read, or of no use in it.
_COMMAND_LINE_ONLY = ("help", "config", "debug")


class Parser(argparse.ArgumentParser):
    """An argument parser whose flags come from option groups and whose errors are one line."""

    def __init__(self, prog: str, description: str):
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=110),
        )
        general = self.add_argument_group("general")
        general.add_argument("--config", metavar="FILE.yaml", help="defaults for the flags below; flags override it")
        general.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str):
        raise UsageError(message.replace("\n", " "))

    def add_options(self, title: str, options: type, skip: Sequence[str] = (), **defaults: Any) -> None:
        """Adds one flag for each field of an option group.

        Args:
            title: heading in `--help`.
            options: a dataclass of fields declared by `bench.config.declare.option`.
            skip: fields this command has no use for.
            defaults: other defaults than the group's, by field name.
        """
        group = self.add_argument_group(title)
        for spec in fields(options):
            if spec.name in skip:
                continue
            default = defaults.get(spec.name, default_of(spec))
            flags = ["--" + name for name in (spec.name.replace("_", "-"), *spec.metadata["aliases"])]
            if spec.name == "num_workers":
                flags.append("-j")
            text = spec.metadata["help"]
            if isinstance(default, bool):
                group.add_argument(
                    *flags, dest=spec.name, default=default, help=text, action=argparse.BooleanOptionalAction
                )
                continue
            if default not in (None, [], {}) and "default:" not in text:
                text += f" (default: {_shown(default)})"
            group.add_argument(
                *flags,
                dest=spec.name,
                default=default,
                help=text,
                choices=spec.metadata["choices"],
                metavar=spec.metadata["metavar"] or _metavar(spec),
                type=_checked(spec.metadata["parse"] or (str if default is None else type(default))),
            )

    def add_value(
        self, group: argparse._ActionsContainer, flag: str, parse: Callable[[str], Any], **settings: Any
    ) -> None:
        """Adds one flag whose text `parse` turns into its value (ValueError: why it cannot)."""
        group.add_argument(flag, type=_checked(parse), **settings)

    def add_setting(self, group: argparse._ActionsContainer, flag: str, **settings: Any) -> None:
        """Adds one flag of KEY=VALUE pairs."""
        self.add_value(group, flag, parse_settings, default={}, **settings)

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Parses the command line over the config files: a config key is a flag written earlier."""
        argv = list(sys.argv[1:] if argv is None else argv)
        configured = [flag for path in _config_paths(argv) for flag in self._config_flags(path)]
        return self.parse_args(configured + argv)

    def _config_flags(self, path: Path) -> list[str]:
        import yaml

        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise UsageError(f"cannot read config {path}: {error.strerror}") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f" in line {mark.line + 1}" if mark else ""
            raise UsageError(f"config {path} is not YAML{line}: {str(error).splitlines()[0]}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"config {path} is not a text file") from error
        if not isinstance(config, dict):
            raise UsageError(f"config {path} must be a mapping of flag names to values")
        actions = [action for action in self._actions if action.dest not in _COMMAND_LINE_ONLY]
        spellings = {flag.lstrip("-"): (flag, action) for action in actions for flag in action.option_strings}
        flags: list[str] = []
        for key, value in config.items():
            spelling = str(key).replace("_", "-")
            if spelling not in spellings:
                raise UsageError(f"config {path}: {unknown_name('key', str(key), spellings)}")
            flags += _as_flags(*spellings[spelling], value, where=f"config {path}: {key}")
        return flags


def _config_paths(argv: Sequence[str]) -> Iterator[Path]:
    for position, word in enumerate(argv):
        if word.startswith("--config="):
            yield Path(word.removeprefix("--config="))
        if word == "--config":
            if position + 1 == len(argv):
                raise UsageError("--config needs a file")
            yield Path(argv[position + 1])


def _as_flags(flag: str, action: argparse.Action, value: Any, where: str) -> list[str]:
    """The words of a command line that say what a config key says."""
    if value is None:
        return []
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UsageError(f"{where} must be true or false, not {value!r}")
        if value:
            return [flag]
        if isinstance(action, argparse.BooleanOptionalAction):
            return ["--" + flag.removeprefix("--no-") if flag.startswith("--no-") else "--no-" + flag[2:]]
        return []
    if isinstance(value, dict):
        if not isinstance(action.default, dict):
            raise UsageError(f"{where} must be a value or a list, not a mapping")
        value = list(_settings(value))
    if action.nargs == "+":
        return [flag, *(str(item) for item in (value if isinstance(value, list) else [value]))]
    if isinstance(value, list):
        value = ",".join(str(item) for item in value)
    return [f"{action.option_strings[0]}={value}"]


def _settings(mapping: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """`{"taylor": {"term": "gamma"}}` -> `taylor.term="gamma"`."""
    for name, item in mapping.items():
        if isinstance(item, dict):
            yield from _settings(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={json.dumps(item, default=str)}"


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


def _metavar(spec: Field) -> str | None:
    """How a value is shown in `--help`, from the field's annotation."""
    if spec.metadata["choices"]:
        return None
    for kind, name in {"list": "A,B,...", "int": "N", "float": "R"}.items():
        if spec.type.startswith(kind):
            return name
    return "NAME"


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return str(value)


def add_listings(parser: Parser) -> argparse._ArgumentGroup:
    """Adds the flags that name what there is to choose from; returns where a command adds its own."""
    group = parser.add_argument_group("listings")
    group.add_argument("--list-methods", action="store_true", help="name the pruning methods and exit")
    group.add_argument("--list-models", action="store_true", help="name the networks and exit")
    return group


def print_listing(arguments: argparse.Namespace) -> bool:
    """Prints the listing asked for, if one was."""
    if arguments.list_methods:
        from bench.pruners import methods

        entries = methods()
    elif arguments.list_models:
        from bench.models import MODELS as entries
    else:
        return False
    for name, entry in entries.items():
        say(f"{name:22} {entry.summary}")
    return True


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


def chosen_goals(arguments: argparse.Namespace, channels: str) -> list[Goal]:
    """What a pruning is to reach, or several prunings.

    Args:
        arguments: parsed arguments; each of the five is a value, a list of them, or nothing. That of the latency
            has its kind with it.
        channels: the one that holds shares of the channels.

    Raises:
        UsageError: not exactly one of the five was given.
    """
    names = {"channels": channels} | {kind: f"target_{kind}" for kind in ("macs", "params", "size", "latency")}
    given = {
        kind: getattr(arguments, name) for kind, name in names.items() if getattr(arguments, name) not in (None, [])
    }
    if len(given) != 1:
        flags = {kind: "--" + name.replace("_", "-") for kind, name in names.items()}
        found = ", ".join(flags[kind] for kind in given)
        raise UsageError(f"pass exactly one of {', '.join(flags.values())}" + (f", not {found}" if found else ""))
    ((kind, values),) = given.items()
    values = values if isinstance(values, list) else [values]
    return [Goal(*value) if kind == "latency" else Goal(kind, value) for value in values]


def collect(options: type[Options], arguments: argparse.Namespace, **changes: Any) -> Options:
    """Builds an option group from parsed arguments; `changes` override them."""
    known = vars(arguments)
    values = {spec.name: known[spec.name] for spec in fields(options) if spec.name in known}
    return options(**{**values, **changes})


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a script: a user's error becomes one line on stderr and the exit code, never a traceback."""
    argv = sys.argv[1:]
    name = Path(sys.argv[0]).name
    try:
        main(argv)
    except BenchError as error:
        if "--debug" in argv:
            raise
        hint = f" (see {name} --help)" if error.exit_code == UsageError.exit_code else ""
        print(f"{name}: error: {error}{hint}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
