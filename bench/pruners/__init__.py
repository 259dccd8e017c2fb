"""SCORE: the pruning methods, one subpackage a family, found by its `METHODS` table.

A subpackage's `__init__.py` holds `METHODS = {name: (module, class, one line about it)}` and imports nothing
heavy, so that methods can be listed without loading torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from bench.pruners.base import Method


class MethodEntry(NamedTuple):
    """Where a method's class is, and one line about it."""

    module: str
    cls: str
    summary: str


@cache
def methods() -> dict[str, MethodEntry]:
    """Name -> entry of every method, in alphabetical order."""
    found: dict[str, MethodEntry] = {}
    for package in pkgutil.iter_modules(__path__):
        if package.ispkg:
            table = importlib.import_module(f"{__name__}.{package.name}").METHODS
            found.update({name: MethodEntry(*entry) for name, entry in table.items()})
    return dict(sorted(found.items()))


def check_method(name: str) -> None:
    """Raises UsageError, with the nearest names, unless a method of that name exists."""
    if name not in methods():
        raise unknown_name("method", name, methods())


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UsageError: no method of that name.
    """
    check_method(name)
    entry = methods()[name]
    return getattr(importlib.import_module(entry.module), entry.cls)


def make_pruner(name: str, settings: dict[str, Any] | None = None) -> Method:
    """A method with its options set.

        >>> pruner = make_pruner("papm", {"alpha": 0.7})
        >>> pruner.alpha, pruner.needs_data, pruner.scope
        (0.7, True, 'global')

    Args:
        name: a registered method.
        settings: option name -> value; the others keep their defaults.

    Raises:
        UsageError: no such method or option, or a value of the wrong type.
    """
    return method_class(name).configured(settings or {})


def make_pruners(names: Iterable[str], settings: dict[str, Any]) -> dict[str, Method]:
    """Several methods with their options set.

    Args:
        names: registered methods.
        settings: `method.option` -> value.

    Raises:
        UsageError: no such method or option, an option of a method that is not among the names.
    """
    names = list(names)
    for name in names:
        check_method(name)
    of_methods: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in settings.items():
        method, dot, option = key.partition(".")
        if not dot or method not in of_methods:
            raise UsageError(f"'{key}' is not METHOD.KEY with one of the methods {', '.join(names)}")
        of_methods[method][option] = value
    return {name: make_pruner(name, of_methods[name]) for name in names}
