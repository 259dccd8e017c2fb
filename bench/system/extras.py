"""Packages that only some formats need: imported when they are, and named where they are missing."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from types import ModuleType

from bench.errors import BenchError

REQUIREMENTS = "requirements-export.txt"


def extra(name: str, wanted: str) -> ModuleType:
    """Imports a package that is not among the requirements of everything.

    Args:
        name: of the module; the package's is the same.
        wanted: what needs it, for the message.

    Raises:
        BenchError: it is not installed, or cannot be imported.
    """
    try:
        with without_remarks():
            return importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise BenchError(
            f"{wanted} needs the package {missing}, which is not installed; pip install -r {REQUIREMENTS}"
        ) from error


@contextlib.contextmanager
def without_remarks() -> Iterator[None]:
    """Keeps exporters from telling users how they work: warnings and log lines of the block go nowhere."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
