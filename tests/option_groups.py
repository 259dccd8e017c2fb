"""Every group of options there is, wherever it lies."""

from __future__ import annotations

import importlib
from dataclasses import is_dataclass
from pathlib import Path

_FOLDERS = sorted(path.parent for path in (Path(__file__).resolve().parent.parent / "bench").rglob("options.py"))
_MODULES = [importlib.import_module(f"bench.{folder.name}.options") for folder in _FOLDERS]

GROUPS = [found for module in _MODULES for found in vars(module).values() if is_dataclass(found)]
