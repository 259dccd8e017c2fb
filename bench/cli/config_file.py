"""The config file: a key is a flag written earlier on the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.config.values import parse_path
from bench.errors import UsageError, unknown_name

PROJECT = Path(__file__).resolve().parents[2]
"""The folder that holds `bench/`."""

# What a config file cannot hold: needed before it is read, or of no use in it.
_COMMAND_LINE_ONLY = ("help", "help_all", "config", "debug")


def config_flags(argv: Sequence[str], actions: Iterable[argparse.Action]) -> list[str]:
    """The words of a command line that say what its config files say, in their order.

    Args:
        argv: the command line. A file that does not lie where it says, seen from the working folder, may lie there
            seen from the project's.
        actions: the flags there are.

    Raises:
        UsageError: a file that cannot be read, or a key or value that no flag has.
    """
    known = [action for action in actions if action.dest not in _COMMAND_LINE_ONLY]
    spellings = {flag.lstrip("-"): (flag, action) for action in known for flag in action.option_strings}
    return [flag for path in _config_paths(argv) for flag in _flags_of(_located(path), spellings)]


def _config_paths(argv: Sequence[str]) -> Iterator[Path]:
    for position, word in enumerate(argv):
        if word.startswith("--config="):
            yield _path(word.removeprefix("--config="))
        if word == "--config":
            if position + 1 == len(argv):
                raise UsageError("--config needs a file")
            yield _path(argv[position + 1])


def _path(text: str) -> Path:
    try:
        return Path(parse_path(text))
    except ValueError as error:
        raise UsageError(f"--config {error}") from None


def _located(path: Path) -> Path:
    beside_the_project = PROJECT / path
    return beside_the_project if beside_the_project.exists() and not path.exists() else path


def _flags_of(path: Path, spellings: Mapping[str, tuple[str, argparse.Action]]) -> list[str]:
    flags: list[str] = []
    for key, value in _read(path).items():
        spelling = str(key).replace("_", "-")
        if spelling not in spellings:
            raise UsageError(f"config {path}: {unknown_name('key', str(key), spellings)}")
        flags += _as_flags(*spellings[spelling], value, where=f"config {path}: {key}")
    return flags


def _read(path: Path) -> dict[Any, Any]:
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
    return config


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
