"""Several benchmarks beside each other: read from their folders, put into one table, and drawn in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.leaderboard.page_file import write_page
from bench.leaderboard.summaries import Summary
from bench.report.comparison_text import comparison_lines
from bench.report.summary import markdown_table
from bench.report.summary_columns import CONTEXT, columns_of, flat_rows
from bench.report.tradeoff_plot import plot_tradeoffs
from bench.system.files import csv_text, make_folder, write_text

ENDINGS = (".csv", ".md", ".png", ".svg", ".html")

# Numbers of networks compare only where these are the same.
_CONDITIONS = {
    "dataset": "data set",
    "data_fingerprint": "data",
    "split": "split",
    "input_size": "input size",
    "scoring": "scoring",
    "finetune_epochs": "epochs of fine-tuning",
}
_TIMED = ("device", "threads", "precision", "format", "compiled")


def table_of(summaries: Sequence[Summary], *, full: bool) -> tuple[list[str], list[list[list[str]]]]:
    """The columns of one table, and the lines of each benchmark, which begin with its letter.

    Args:
        summaries: at least one.
        full: also the network, the data set, the input size and the split where they differ; see `comparison_lines`.
    """
    contexts = [flat_rows(summary.benchmark.baseline, [{}])[0] for summary in summaries]
    told = [key for key in CONTEXT[:4] if full and len({context[key] for context in contexts}) > 1]
    tables = [comparison_lines(*summary.benchmark[:2], full=full) for summary in summaries]
    header: list[str] = []
    # All headers are in one order, of which each leaves something out.
    for names, _ in tables:
        for place, name in enumerate(map(_column, names)):
            if name not in header:
                header.insert(header.index(_column(names[place - 1])) + 1 if place else 0, name)
    lettered = [""] * (len(summaries) > 1)
    parts = []
    for summary, context, (names, lines) in zip(summaries, contexts, tables, strict=True):
        first = [summary.letter for _ in lettered] + [str(context[key] or "-") for key in told]
        cells = [dict(zip(map(_column, names), line, strict=True)) for line in lines]
        parts.append([[*first, *(line.get(name, "-") for name in header)] for line in cells])
    return [*lettered, *(key.replace("_", " ") for key in told), *header], parts


def differences(summaries: Sequence[Summary]) -> str | None:
    """In what benchmarks differ so that their numbers do not compare, in one line; None where they do."""
    said: dict[str, dict[str, list[str]]] = {}
    for summary in summaries:
        for name, values in _conditions(summary).items():
            said.setdefault(name, {}).setdefault(" and ".join(sorted(values)), []).append(summary.letter)
    apart = []
    for name, values in said.items():
        if len(values) > 1:
            told = "; ".join(f"{', '.join(letters)}: {value}" for value, letters in values.items())
            apart.append(f"{name} ({told})")
    return f"not all of these compare, they differ in {', '.join(apart)}" if apart else None


def write_comparison(summaries: Sequence[Summary], out: Path) -> list[Path]:
    """Writes the table as CSV, a row a job, and as Markdown, the page, and the plot, if there is one, as PNG and SVG.

    Args:
        summaries: at least one.
        out: the files' name; an ending that is one of theirs is left out.

    Returns:
        The files.
    """
    out = out.with_name(out.name.removesuffix(out.suffix)) if out.suffix in ENDINGS else out
    make_folder(out.parent)
    files = {ending: out.with_name(out.name + ending) for ending in ENDINGS}
    flat = [
        {"benchmark": str(summary.path), **row} for summary in summaries for row in flat_rows(*summary.benchmark[:2])
    ]
    table = csv_text(["benchmark", *(name for name in columns_of(flat) if name != "benchmark")], flat)
    write_text(files[".csv"], table)
    benchmarks = [summary.benchmark for summary in summaries]
    for ending in (".png", ".svg"):
        files[ending].unlink(missing_ok=True)
    plot_tradeoffs(files[".png"], benchmarks, files[".svg"])
    write_text(files[".md"], _markdown(summaries, files[".png"]))
    write_page(files[".html"], summaries, table)
    return [path for path in files.values() if path.is_file()]


def _column(name: str) -> str:
    return "target" if name == "ratio" else name


def _conditions(summary: Summary) -> dict[str, set[str]]:
    """What must be the same, as far as the summary says it."""
    baseline, rows, _ = summary.benchmark
    flat = [row for row in flat_rows(baseline, rows) if row["status"] == "done"]
    found = {name: {str(row[key]) for row in flat if row.get(key) is not None} for key, name in _CONDITIONS.items()}
    timed = [row for row in flat if row.get("speedup") is not None]
    for key in _TIMED if timed else ():
        found[f"latency {key}"] = {str(row[f"latency_{key}"]) for row in timed if row.get(f"latency_{key}") is not None}
    if timed and not found["latency device"]:
        # Rows of earlier versions do not say what they were timed on.
        device = summary.provenance.get("gpu") or summary.provenance.get("processor")
        found["latency device"] = {device} if device else set()
    return {name: values for name, values in found.items() if values}


def _markdown(summaries: Sequence[Summary], picture: Path) -> str:
    header, parts = table_of(summaries, full=True)
    lines = ["# Benchmarks side by side", "", *markdown_table(header, [line for part in parts for line in part]), ""]
    apart = differences(summaries)
    lines += [f"**{apart}**", ""] if apart else []
    if picture.is_file():
        lines += [f"![mIoU against cost]({picture.name})", ""]
    lines += [f"* {summary}" for summary in summaries]
    return "\n".join(lines) + "\n"
