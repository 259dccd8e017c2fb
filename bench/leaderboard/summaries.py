"""Summaries of benchmarks read back from their folders."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import BenchError
from bench.report.comparison_rows import comparison_title
from bench.report.summary_record import FORMAT, SummaryRecord
from bench.report.tradeoff_plot import Benchmark
from bench.system.files import read_json

SUMMARIES = ("benchmark_summary.json", "finetuned_summary.json")
"""Of a benchmark's folder: what its commands write."""


class Summary(NamedTuple):
    """One benchmark as its folder has it.

    Attributes:
        letter: stands for it in tables; empty where it is the only one.
        path: the folder, or the file of a summary.
        benchmark: what it compares.
        provenance: how its numbers came about.
    """

    letter: str
    path: Path
    benchmark: Benchmark
    provenance: Mapping[str, Any]

    def __str__(self) -> str:
        about = f"{self.path}: {comparison_title(self.benchmark.baseline)}"
        return f"{self.letter} = {about}" if self.letter else about


def read_summaries(paths: Sequence[Path | str]) -> list[Summary]:
    """Reads benchmarks; what is named twice is read once.

    Args:
        paths: folders of benchmarks, of this or an earlier version, or files of summaries.

    Raises:
        BenchError: a path that is not there, holds no summary, or one that cannot be read.
    """
    found = list({path.resolve(): path for path in map(Path, paths)}.values())
    if len(found) == 1:
        return [_read(found[0], "", "")]
    names = zip(found, map(_letters, range(len(found))), _names(found), strict=True)
    return [_read(*named) for named in names]


def _read(path: Path, letter: str, name: str) -> Summary:
    if not path.exists():
        raise BenchError(f"{path} does not exist; name the folder of a benchmark")
    files = [path] if path.is_file() else [path / file for file in SUMMARIES if (path / file).is_file()]
    if not files:
        raise BenchError(f"{path} holds no {' or '.join(SUMMARIES)}; name the --out-dir of benchmark.py")
    records = [read_record(file) for file in files]
    # Of what both hold, the later one knows more.
    records.sort(key=lambda record: record["provenance"].get("time") or "")
    rows: dict[str, Any] = {}
    for record in records:
        for row in record["rows"]:
            key = row.get("folder") or json.dumps([row["method"], row.get("target"), row["ratio"], row["seed"]])
            if row["status"] == "done" or key not in rows:
                rows[key] = row
    return Summary(
        letter, path, Benchmark(records[-1]["baseline"], list(rows.values()), name), records[-1]["provenance"]
    )


def read_record(path: Path) -> SummaryRecord:
    """Reads one summary file.

    Raises:
        BenchError: a file that cannot be read, or is no summary.
    """
    record = read_json(path)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise BenchError(f"{path} is not a summary ({FORMAT}); run benchmark.py again, or name another folder")
    parts = {"baseline": dict, "rows": list, "provenance": dict}
    if not all(isinstance(record.get(key), kind) for key, kind in parts.items()) or not all(
        isinstance(row, dict)
        and {"method", "seed", "status"} <= row.keys()
        and isinstance(row.get("ratio"), int | float)
        for row in record["rows"]
    ):
        raise BenchError(f"{path} lacks parts of a summary; run benchmark.py again, which writes it anew")
    return record


def _letters(number: int) -> str:
    """A to Z, then AA and so on."""
    return chr(ord("A") + number % 26) * (1 + number // 26)


def _names(paths: Sequence[Path]) -> list[str]:
    """What tells paths apart: all but the folders they share."""
    whole = [path.absolute() for path in paths]
    shared = Path(os.path.commonpath(path.parent for path in whole))
    return [str(path.relative_to(shared)) for path in whole]
