"""How the networks of a benchmark were measured, as their reports say: fine-tuning goes on with the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.datasets.options import DataOptions
from bench.errors import BenchError, DamagedFile
from bench.jobs.selection import EVERYTHING, Selection, chosen_jobs
from bench.measure.baseline import Baseline
from bench.measure.inference import PLAIN
from bench.measure.options import ScoringOptions
from bench.models.checkpoint import read_meta
from bench.system.console import say
from bench.system.files import plain, read_json
from bench.system.run_folder import PRUNED, REPORT

_OF_DATA = ("dataset", "input_size")


def as_measured(
    out: Path,
    data: DataOptions,
    scoring: ScoringOptions,
    given: Collection[str],
    selection: Selection = EVERYTHING,
) -> tuple[DataOptions, ScoringOptions]:
    """Fills what was left open about data and scoring with what the jobs of a benchmark say, and shows what that was.

    Args:
        out: folder of the benchmark; without finished jobs nothing is filled.
        data: what was asked for.
        scoring: likewise.
        given: the fields that were asked for and are no mere defaults.
        selection: which of the jobs are meant.

    Raises:
        BenchError: something that was selected is not there; no job was measured as asked, or those that were differ
            in what was left open.
    """
    folders = [folder for folder in chosen_jobs(out, selection) if (folder / REPORT).is_file()]
    measured = {folder: found for folder in folders if (found := _settings_in(folder)) is not None}
    if not measured:
        return data, scoring
    asked = {name: value for name, value in plain(asdict(data) | asdict(scoring)).items() if name in given}
    fitting = {folder: settings for folder, settings in measured.items() if not _contradiction(settings, asked)}
    if not fitting:
        folder, settings = next(iter(measured.items()))
        raise BenchError(_explained(folder, settings, _contradiction(settings, asked)))
    (first, found), *others = fitting.items()
    for other, settings in others:
        name = _contradiction(settings, found)
        if name:
            raise BenchError(
                f"the jobs of {out} were measured in several ways: {first.name} {_how(name, found[name])}, "
                f"{other.name} {_how(name, settings[name])}; say which to fine-tune"
            )
    of_data = {name: found[name] for name in _OF_DATA}
    root = read_meta(first / PRUNED).get("data_root")
    if data.data_root is None and root and Path(root).is_dir():
        of_data["data_root"] = root
    of_scoring = {name: value for name, value in found.items() if name not in _OF_DATA}
    shown = {name: value for name, value in (of_data | of_scoring).items() if name not in given}
    say(f"as {out} says: {' '.join(_flag(name, value) for name, value in shown.items() if _is_set(name, value))}")
    of_data["input_size"] = tuple(of_data["input_size"])
    for name in ("sliding_window", "stride"):
        of_scoring[name] = of_scoring[name] and tuple(of_scoring[name])
    return replace(data, **of_data), replace(scoring, **of_scoring)


def difference(baseline: Baseline, folder: Path) -> str | None:
    """How a pruned network was measured otherwise: the first flag that differs, and its earlier value, or the data."""
    report = read_json(folder / REPORT)
    if report["baseline"]["sha256"] != baseline.digest:
        return (
            f"{folder} was pruned from {report['baseline']['path']}, {baseline.checkpoint} is another network; "
            "pass that one as --baseline"
        )
    now = {"dataset": baseline.data.name, "input_size": baseline.data.input_size, "split": baseline.split}
    settings = _settings(report)
    name = _contradiction(settings, plain(now | asdict(baseline.scoring)))
    if name:
        return _explained(folder, settings, name)
    files = report.get("data", {})
    changed = baseline.data.files(*files).changed_since(files)
    if changed:
        return (
            f"{folder} was pruned before images or labels of {' and '.join(changed)} changed, or on other ones; run "
            "benchmark.py again, or pass the data set it was measured on as `data_root`"
        )
    return None


def _settings_in(folder: Path) -> dict[str, Any] | None:
    """The settings of a job; None where its report is not one, which is said where the jobs are gone through."""
    try:
        return _settings(read_json(folder / REPORT))
    except (DamagedFile, LookupError, AttributeError, TypeError):
        return None


def _settings(report: Mapping[str, Any]) -> dict[str, Any]:
    """Field -> value of what a report says of data and scoring."""
    # Reports of the time before networks could be scored in other ways do not say how theirs was.
    scoring = report.get("scoring") or plain(PLAIN)
    return {**{name: report[name] for name in (*_OF_DATA, "split")}, **scoring}


def _contradiction(settings: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """The first field in which a job was measured otherwise than asked."""
    return next((name for name, value in asked.items() if name in settings and settings[name] != value), None)


def _explained(folder: Path, settings: Mapping[str, Any], name: str) -> str:
    mend = "pass that too" if _is_set(name, settings[name]) else "leave that out too"
    return f"{folder} was measured {_how(name, settings[name])}; {mend}, or its numbers do not compare"


def _how(name: str, value: Any) -> str:
    return f"{'with' if _is_set(name, value) else 'without'} {_flag(name, value)}"


def _is_set(name: str, value: Any) -> bool:
    """Whether a value takes a flag to be had."""
    return value is not None and value is not False and (name != "boundary_width" or value != 0)


def _flag(name: str, value: Any) -> str:
    flag = "--" + name.replace("_", "-")
    if not _is_set(name, value) or value is True:
        return flag
    return f"{flag} {','.join(map(str, value)) if isinstance(value, list) else value}"
