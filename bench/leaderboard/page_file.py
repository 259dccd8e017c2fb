"""Writes `leaderboard.html`: one file with its style, its program and all its data inside, which asks for nothing."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench.leaderboard.board import board_of, cells_of
from bench.leaderboard.published import published_numbers
from bench.leaderboard.summaries import Summary
from bench.report.method_looks import look_of
from bench.report.summary_columns import columns_of, flat_rows
from bench.report.summary_record import summary_record
from bench.system.files import csv_text, write_text

PAGE = "leaderboard.html"

# Should anything ever ask for what is not in the page, the browser is to refuse.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_FOLDER = Path(__file__).parent / "page"
# In the order they need each other.
_SCRIPTS = ("elements", "state", "numbers", "table", "charts", "gaps", "cells", "main")
# Of a dash, whose lengths are in line widths.
_LINE_WIDTH = 1.8


def write_page(path: Path, summaries: Sequence[Summary], table: str | None = None) -> None:
    """Writes the page.

    Args:
        path: the file.
        summaries: the benchmarks, at least one.
        table: the CSV to be had from it; by default that of the summaries' rows.

    Raises:
        BenchError: the file cannot be written.
    """
    board, cells = board_of(summaries, published_numbers()), cells_of(summaries, path.parent.absolute())
    for line in board["lines"]:
        # What was done before cost something too: its folder may say what.
        line["seconds"] = round(sum(job["all_seconds"] for job in cells[line["id"]]), 1)
    write_text(path, _html(board, cells, table or _csv(summaries), summaries, path))


def _html(board: dict[str, Any], cells: dict[str, Any], table: str, summaries: Sequence[Summary], path: Path) -> str:
    methods = dict.fromkeys([*(line["method"] for line in board["lines"]), *board["controls"]])
    board = {**board, "looks": {method: _look(method) for method in methods}, "file": _table_name(path)}
    records = [summary_record(*summary.benchmark[:2], summary.provenance) for summary in summaries]
    packed = {"cells": _json(cells), "csv": table, "json": json.dumps(records if len(records) > 1 else records[0])}
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    program = "\n".join((_FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    body = (_FOLDER / "body.html").read_text(encoding="utf-8")
    # A text in the data is not to end its element.
    data = _json(board).replace("<", "\\u003c")
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>{escape(board['title'])}</title>",
        f"<style>\n{style}</style>",
        "</head>",
        f"<body>\n{body}",
        f'<script type="application/json" id="board">{data}</script>',
        *map(_packed, packed.items()),
        f"<script>\n'use strict';\n{program}</script>",
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _table_name(path: Path) -> str:
    """What the files that the page gives are called: as those beside it."""
    return "benchmark_summary" if path.name == PAGE else path.stem


def _csv(summaries: Sequence[Summary]) -> str:
    flat = [row for summary in summaries for row in flat_rows(*summary.benchmark[:2])]
    return csv_text(columns_of(flat), flat)


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _packed(named: tuple[str, str]) -> str:
    """The element of a text, a tenth of its size, and the same for the same text."""
    name, text = named
    packed = gzip.compress(text.encode("utf-8", errors="backslashreplace"), mtime=0)
    return f'<script type="application/gzip" id="packed-{name}">{base64.b64encode(packed).decode("ascii")}</script>'


def _look(method: str) -> dict[str, str]:
    """How a method is drawn, as SVG takes it: the marker as a path about the origin, one unit wide."""
    from matplotlib.markers import MarkerStyle

    look = look_of(method)
    style = MarkerStyle(look.marker)
    path = style.get_path().transformed(style.get_transform())
    dash = " ".join(f"{_LINE_WIDTH * length:g}" for length in look.dash)
    return {"colour": look.colour, "dash": dash, "path": " ".join(_moves(path.iter_segments(curves=True)))}


def _moves(segments: Iterable[tuple[Any, int]]) -> Iterable[str]:
    letters = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    for points, code in segments:
        # Down is positive in SVG.
        pairs = [f"{x:.3f},{-y:.3f}" for x, y in zip(points[::2], points[1::2], strict=True)]
        yield letters[int(code)] + ("" if code == 79 else " ".join(pairs))
