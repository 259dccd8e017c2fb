"""The config file: a key is a flag written earlier on the command line; and the recipes that such a file may hold."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.config.shipped import located
from bench.config.values import parse_path
from bench.errors import UsageError, first_line, unknown_name
from bench.system.console import say

RECIPES_FILE = Path("configs", "training_configs.yaml")
"""Where `--recipe` looks when no config file of the command line holds recipes."""

COMMAND_LINE_ONLY = ("help", "help_all", "config", "debug", "list_recipes")
"""What a config file cannot hold: needed before it is read, or of no use in it."""

_RECIPES = "recipes"

BENCHMARKS = "benchmarks"
"""The key under which a study's file lists benchmarks: what each says takes the place of what the file says for all."""

ConfigFile = tuple[Path, dict[Any, Any]]

ConfigPart = tuple[str, dict[Any, Any]]
"""Where settings stand, for messages, and they."""


class Setting(NamedTuple):
    """One key of a config file: the field it sets, and the words of a command line that say the same."""

    dest: str
    words: list[str]


def config_settings(
    argv: Sequence[str],
    actions: Iterable[argparse.Action],
    elsewhere: Callable[[], Collection[str]] = tuple,
    part: ConfigPart | None = None,
) -> list[list[Setting]]:
    """What a command line's config files say, one list a file, in their order; before them what its recipe says.

    Keys that only other commands have are left out and named in a message, so that one file serves several commands.

    Args:
        argv: the command line. A file that does not lie where it says, seen from the working folder, may be one that
            comes along.
        actions: the flags there are.
        elsewhere: gives the keys that other commands have.
        part: one of the benchmarks of a study's file.

    Raises:
        UsageError: a file that cannot be read, a key that no command has or a value that its flag does not take, or a
            recipe that no file holds.
    """
    known = [action for action in actions if action.dest not in COMMAND_LINE_ONLY]
    spellings = {flag.lstrip("-"): (flag, action) for action in known for flag in action.option_strings}
    files = _opened(argv)
    sources = _chosen_recipe(argv, files, part) if "recipe" in spellings else []
    for path, content in files:
        taken = {_RECIPES} if part is None else {_RECIPES, BENCHMARKS}
        sources.append((f"config {path}", {key: value for key, value in content.items() if key not in taken}))
    sources += [part] if part is not None else []
    return [_settings_of(where, content, spellings, elsewhere) for where, content in sources]


def benchmarks_in(argv: Sequence[str]) -> list[ConfigPart]:
    """The benchmarks that a command line's config file lists, each with where it stands; none where it is no study.

    Raises:
        UsageError: a file that cannot be read, or whose list is no list of mappings.
    """
    found = []
    for path, content in _opened(argv):
        listed = content.get(BENCHMARKS, [])
        if not isinstance(listed, list) or not all(isinstance(part, dict) for part in listed):
            raise UsageError(f"config {path}: {BENCHMARKS} must be a list of mappings of flags to values")
        found += [(f"config {path}: benchmark {number}", dict(part)) for number, part in enumerate(listed, start=1)]
    return found


def recipes_for(argv: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Name -> settings of every recipe that a command line can choose.

    Raises:
        UsageError: as `config_settings`.
    """
    return {name: settings for name, (_, settings) in _recipes_of(_opened(argv)).items()}


def _opened(argv: Sequence[str]) -> list[ConfigFile]:
    return [(path, _read(path)) for path in map(_located, words_after(argv, "--config"))]


def _located(text: str) -> Path:
    try:
        return located(parse_path(text))
    except ValueError as error:
        raise UsageError(f"--config {error}") from None


def _recipes_of(files: Sequence[ConfigFile]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Name -> file and settings; of the project's own file where no other holds any."""
    if not any(_RECIPES in content for _, content in files):
        path = located(RECIPES_FILE)
        files = [(path, _read(path))]
    found = {}
    for path, content in files:
        recipes = content.get(_RECIPES, {})
        if not isinstance(recipes, dict) or not all(isinstance(settings, dict) for settings in recipes.values()):
            raise UsageError(f"config {path}: {_RECIPES} must be a mapping of names to mappings of flags to values")
        found |= {str(name): (path, settings) for name, settings in recipes.items()}
    return found


def _chosen_recipe(argv: Sequence[str], files: Sequence[ConfigFile], part: ConfigPart | None) -> list[ConfigPart]:
    """Where the recipe stands that is asked for, and its settings; nothing where none is."""
    contents = [content for _, content in files] + ([part[1]] if part else [])
    names = [content["recipe"] for content in contents if "recipe" in content] + words_after(argv, "--recipe")
    if not names:
        for path, content in files:
            if set(content) == {_RECIPES} and "--list-recipes" not in argv:
                raise UsageError(f"config {path} holds recipes; choose one with --recipe, --list-recipes names them")
        return []
    name, known = str(names[-1]), _recipes_of(files)
    if name not in known:
        raise unknown_name("recipe", name, known)
    path, settings = known[name]
    return [(f"recipe {name} of {path}", settings)]


def words_after(argv: Sequence[str], flag: str) -> list[str]:
    """The values that a flag is given on a command line.

    Raises:
        UsageError: the last has none.
    """
    found = []
    for position, word in enumerate(argv):
        if word.startswith(f"{flag}="):
            found.append(word.removeprefix(f"{flag}="))
        if word == flag:
            if position + 1 == len(argv):
                raise UsageError(f"{flag} needs a {'file' if flag == '--config' else 'name'}")
            found.append(argv[position + 1])
    return found


def _settings_of(
    where: str,
    content: Mapping[Any, Any],
    spellings: Mapping[str, tuple[str, argparse.Action]],
    elsewhere: Callable[[], Collection[str]],
) -> list[Setting]:
    settings, skipped = [], []
    for key, value in content.items():
        spelling = str(key).replace("_", "-")
        if spelling in spellings:
            flag, action = spellings[spelling]
            settings.append(Setting(action.dest, _words_of(flag, action, value, where=f"{where}: {key}")))
        elif spelling == BENCHMARKS or spelling in elsewhere():
            skipped.append(spelling)
        else:
            raise UsageError(f"{where}: {unknown_name('key', str(key), spellings)}")
    if skipped:
        say(f"{where}: left out what only other commands have: {', '.join(skipped)}")
    return settings


def _read(path: Path) -> dict[Any, Any]:
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UsageError(f"cannot read config {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise UsageError(f"config {path} is not YAML{line}: {first_line(error)}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"config {path} is not a text file") from error
    except RecursionError as error:
        raise _too_deep(f"config {path}") from error
    if not isinstance(config, dict):
        raise UsageError(f"config {path} must be a mapping of flag names to values")
    return config


def _words_of(flag: str, action: argparse.Action, value: Any, where: str) -> list[str]:
    try:
        return _as_flags(flag, action, value, where)
    except RecursionError as error:
        raise _too_deep(where) from error


def _too_deep(where: str) -> UsageError:
    return UsageError(f"{where} is nested too deeply; a key is a flag, and its value what it takes")


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
