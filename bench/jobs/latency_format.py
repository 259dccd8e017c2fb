"""One memory format for all latencies of a folder, so that a resumed comparison measures as it began."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.measure.baseline import Baseline
from bench.measure.latency_report import LatencyReport
from bench.system.console import say
from bench.system.files import make_folder, read_json, write_json
from bench.system.locks import lock_of, locked
from bench.system.run_folder import INFO, LATENCY_FORMAT, REPORT, is_done

FORMAT = "latency-format/1"


def settle_format(baseline: Baseline, folder: Path) -> None:
    """Lets networks be timed in the memory format of a folder's earlier latencies, unless one was asked for.

    It is the one that `latency_format.json` says, which receives what is measured here where there is nothing yet. In
    folders of the time before there was such a file, it is the one of the jobs that are done.

    Args:
        baseline: the dense network and how networks are timed.
        folder: of a comparison.

    Raises:
        BenchError: the file cannot be written, or the network cannot be compiled.
    """
    if not baseline.leaves_format_open:
        return
    # One process measures, and the others do as it found.
    with locked(lock_of(make_folder(folder) / LATENCY_FORMAT), "the choice of a memory format"):
        _settle(baseline, folder)


def _settle(baseline: Baseline, folder: Path) -> None:
    kept, conditions = _kept(folder / LATENCY_FORMAT), baseline.format_conditions
    known = next((choice["memory_format"] for choice in kept if choice["conditions"] == conditions), None)
    known = known or _format_of_jobs(folder, conditions)
    if known:
        baseline.use_format(channels_last=known == "channels_last")
        say(f"latency is measured {known.replace('_', ' ')}, as in this folder before")
        return
    choices = [*kept, {"conditions": conditions, "memory_format": baseline.mode.memory_format}]
    write_json(folder / LATENCY_FORMAT, {"format": FORMAT, "choices": choices})


def _kept(path: Path) -> list[dict[str, Any]]:
    """The choices of a file; none where it is missing or damaged, as they can be made again."""
    with contextlib.suppress(BenchError):
        return read_json(path).get("choices", []) if path.is_file() else []
    return []


def _format_of_jobs(folder: Path, conditions: Mapping[str, Any]) -> str | None:
    """The memory format of the jobs that were timed beside this baseline in its mode, if it is one."""
    wanted = [conditions[name] for name in ("amp", "compiled")]
    latencies = _latencies(folder, conditions["baseline"])
    found = {text for latency in latencies if _how(latency) == wanted for text in latency.memory_formats}
    return found.pop() if len(found) == 1 else None


def _how(latency: LatencyReport) -> list[Any]:
    return [latency.mode.amp, latency.mode.compiled]


def _latencies(folder: Path, baseline: str) -> Iterator[LatencyReport]:
    """What the finished jobs of a folder measured beside a baseline."""
    for info in sorted(folder.glob(f"*/{INFO}")):
        # A report that cannot be read is that job's failure.
        with contextlib.suppress(BenchError):
            report = read_json(info.with_name(REPORT)) if is_done(info.parent, REPORT) else None
            if report and report["baseline"]["sha256"] == baseline and report["latency"]:
                yield LatencyReport.of_record(report["latency"])
