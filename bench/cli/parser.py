"""The parser of a command: flags from groups of options, and back from flags to options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import Field, fields
from typing import Any, TextIO, TypeVar

from bench.cli.checks import is_by_torchrun
from bench.cli.config_file import COMMAND_LINE_ONLY, ConfigPart, config_settings
from bench.cli.help_text import examples_in, short_help
from bench.config.declare import default_of
from bench.config.values import parse_path, parse_settings
from bench.errors import UsageError

Options = TypeVar("Options")

# Flags shown with one of these, such as FILE.yaml, take the name of a file or a folder.
_PATHS = ("FILE", "DIR")


class Parser(argparse.ArgumentParser):
    """An argument parser whose flags come from option groups and whose errors are one line."""

    def __init__(
        self,
        prog: str,
        description: str,
        *,
        common: str = "",
        docstring: str | None = None,
        elsewhere: Callable[[], Collection[str]] = tuple,
        trains_together: bool = False,
    ):
        """A parser that knows the flags of every command.

        Args:
            prog: name of the script.
            description: what it does.
            common: the flags that `--help` shows, separated by white space; without any it shows all.
            docstring: the command's, whose commands are the examples at the end of `--help`.
            elsewhere: gives the config keys that other commands have.
            trains_together: whether torchrun may start it in several processes.
        """
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            add_help=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=110),
        )
        self._common, self._examples = set(common.split()), examples_in(docstring)
        self._elsewhere, self._trains_together = elsewhere, trains_together
        self._alternatives: list[frozenset[str]] = []
        general = self.general = self.add_argument_group("general")
        general.add_argument("-h", "--help", action="help", default=argparse.SUPPRESS, help="show this and exit")
        general.add_argument("--help-all", action=_HelpAll, help="show every option and exit")
        general.add_argument("--config", metavar="FILE.yaml", help="defaults for the flags below; flags override it")
        general.add_argument("--debug", action="store_true", help="show the traceback of an error")

    @property
    def config_keys(self) -> set[str]:
        """What a config file of this command may hold."""
        known = (action for action in self._actions if action.dest not in COMMAND_LINE_ONLY)
        return {flag.lstrip("-") for action in known for flag in action.option_strings}

    def format_help(self) -> str:
        """What `--help` shows."""
        if not self._common:
            return self.format_full_help()
        return short_help(self, self._common | {"--help", "--help-all", "--config"}, self._examples)

    def format_full_help(self) -> str:
        """What `--help-all` shows."""
        return super().format_help()

    def _print_message(self, message: str, file: TextIO | None = None) -> None:
        """Writes a help text. argparse's own swallows the error of an output that cannot take it, and exits with 0."""
        out = file or sys.stderr
        if message and out is not None:
            out.write(message)
            out.flush()

    def error(self, message: str):
        """Raises a UsageError in place of argparse's usage and exit."""
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
            names = (spec.name.replace("_", "-"), *spec.metadata["aliases"])
            flags = [("--" if len(name) > 1 else "-") + name for name in names]
            text = spec.metadata["help"]
            if spec.type.startswith("bool"):
                self.add_switch(group, *flags, dest=spec.name, default=default, help=text)
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

    def add_switch(
        self, group: argparse._ActionsContainer, *flags: str, help: str, default: bool | None = False, **settings: Any
    ) -> None:
        """Adds a pair `--flag/--no-flag`, so that what a config file switches on can be switched off."""
        switch = group.add_argument(*flags, default=default, action=argparse.BooleanOptionalAction, **settings)
        # Not an argument, because Python 3.10 adds the default in its own words.
        switch.help = help if "default:" in help else f"{help} (default: {'on' if default else 'off'})"

    def add_alternatives(self, *fields: str) -> None:
        """Says of which fields a command line names one: it takes the place of another that a config file names."""
        self._alternatives.append(frozenset(fields))

    def add_setting(self, group: argparse._ActionsContainer, flag: str, **settings: Any) -> None:
        """Adds one flag of KEY=VALUE pairs."""
        self.add_value(group, flag, parse_settings, default={}, **settings)

    def parse(self, argv: Sequence[str] | None = None, part: ConfigPart | None = None) -> argparse.Namespace:
        """Parses the command line over the config files: a config key is a flag written earlier.

        Args:
            argv: the command line; by default that of the process.
            part: one of the benchmarks of a study's file, over what the file says for all of them.

        Returns:
            The value of each field; in `typed` the fields that the command line names, in `given` those that it or a
            config file names; in `words` a command line that says by itself what it and the files say together.
        """
        if not self._trains_together and is_by_torchrun():
            # Each would do all of it, into the same files.
            raise UsageError(
                f"{self.prog} runs in one process; torchrun is for train.py, benchmark.py and finetune_batch.py"
            )
        argv = list(sys.argv[1:] if argv is None else argv)
        sources = config_settings(argv, self._actions, self._elsewhere, part)
        typed = self._named_in(argv)
        named, words = set(typed), list(argv)
        # From the last to the first, because what is said later decides which alternatives are left.
        for source in reversed(sources):
            left = [setting for setting in source if setting.words and not self._is_replaced(setting.dest, named)]
            words = [word for setting in left for word in setting.words] + words
            named |= {setting.dest for setting in left}
        arguments = self.parse_args(words)
        self._resolve_paths(arguments)
        arguments.typed, arguments.given = frozenset(typed), frozenset(named)
        arguments.words = self.without(words, "config", "recipe")
        return arguments

    def without(self, words: Sequence[str], *fields: str) -> list[str]:
        """The words of a command line that parses, but for some fields and their values."""
        left, skips, number = [], False, 0
        while number < len(words):
            word = words[number]
            action = self._option_string_actions.get(word.partition("=")[0] if word.startswith("--") else word)
            if action is not None:
                skips = action.dest in fields
                takes_next = action.nargs is None and "=" not in word
            # A value may look like a flag.
            taken = 2 if action is not None and takes_next else 1
            left += [] if skips else words[number : number + taken]
            number += taken
        return left

    def _resolve_paths(self, arguments: argparse.Namespace) -> None:
        """Lets names of files begin at home or in a variable, as in a shell."""
        for action in self._actions:
            value = getattr(arguments, action.dest, None)
            if isinstance(value, str) and str(action.metavar).partition(".")[0] in _PATHS:
                try:
                    setattr(arguments, action.dest, parse_path(value))
                except ValueError as error:
                    self.error(f"argument {'/'.join(action.option_strings)}: {error}")

    def _named_in(self, argv: Sequence[str]) -> set[str]:
        """The fields that the words of a command line name."""
        known = self._option_string_actions
        flags = (word.partition("=")[0] if word.startswith("--") else word[:2] for word in argv if word[:1] == "-")
        return {known[flag].dest for flag in flags if flag in known} - set(COMMAND_LINE_ONLY)

    def _is_replaced(self, dest: str, named: Collection[str]) -> bool:
        return any(dest in group and group & set(named) - {dest} for group in self._alternatives)


class _HelpAll(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **settings)

    def __call__(self, parser: Parser, *_: object) -> None:
        parser._print_message(parser.format_full_help(), sys.stdout)
        parser.exit()


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


def collect(options: type[Options], arguments: argparse.Namespace, **changes: Any) -> Options:
    """Builds an option group from parsed arguments; `changes` override them."""
    known = vars(arguments)
    values = {spec.name: known[spec.name] for spec in fields(options) if spec.name in known}
    return options(**{**values, **changes})
