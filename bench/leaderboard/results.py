"""Writes what a benchmark ends with: its summary, and the page of all its summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.leaderboard.page_file import PAGE, write_page
from bench.leaderboard.summaries import read_summaries
from bench.report.summary import write_summary
from bench.report.summary_record import BaselineRecord, ComparisonRow


def write_results(
    folder: Path | str,
    baseline: BaselineRecord,
    rows: Sequence[ComparisonRow],
    provenance: Mapping[str, Any],
    name: str = "benchmark_summary",
) -> None:
    """Writes the summary, as `bench.report.summary.write_summary` does, and `leaderboard.html`.

    Args:
        folder: where to; created.
        baseline: the unpruned network.
        rows: one a job.
        provenance: how the numbers came about.
        name: the summary's name without ending.

    Raises:
        BenchError: the folder cannot be written.
    """
    write_summary(folder, baseline, rows, provenance, name)
    write_page(Path(folder) / PAGE, read_summaries([folder]))
