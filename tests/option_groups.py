"""Every group of options there is, wherever it lies, and parsers with their flags."""

from __future__ import annotations

import importlib
from dataclasses import is_dataclass
from pathlib import Path

from bench.cli.parser import Parser

_FOLDERS = sorted(path.parent for path in (Path(__file__).resolve().parent.parent / "bench").rglob("options.py"))
_MODULES = [importlib.import_module(f"bench.{folder.name}.options") for folder in _FOLDERS]

GROUPS = [found for module in _MODULES for found in vars(module).values() if is_dataclass(found)]
SCRIPTS = ("train.py", "prune.py", "eval.py", "benchmark.py", "finetune_batch.py")


def parser_of(*groups: type) -> Parser:
    parser = Parser("x.py", "for tests")
    for group in groups or GROUPS:
        parser.add_options(group.__name__, group)
    parser.add_setting(parser, "--opt")
    parser.add_argument("--overwrite", action="store_true")
    return parser


def script_parser(script: str) -> Parser:
    return importlib.import_module(f"bench.commands.{script.removesuffix('.py')}").build_parser()
