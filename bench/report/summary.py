"""Writes the summary of a comparison of methods in five formats: JSON, CSV, Markdown, LaTeX and a plot.

JSON keeps the rows (`summary_record`) as they are, CSV says with each of them what it is about (`summary_columns`);
the tables and the plot show one line for each (method, goal), as mean ± standard deviation over the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.plan.target import Goal
from bench.report.comparison_rows import comparison_title, entries
from bench.report.comparison_text import SPARSE_NOTE, comparison_lines, corrupted_lines, failure_lines, usual_note
from bench.report.latency_text import comparison_conditions
from bench.report.summary_columns import columns_of, flat_rows
from bench.report.summary_record import CONTROLS, STAGES, BaselineRecord, ComparisonRow, SummaryRecord, summary_record
from bench.report.tradeoff_plot import Benchmark, plot_tradeoffs
from bench.report.versus_random import CONTROL, gaps_to_control, gaps_to_scratch
from bench.system.files import make_folder, write_csv, write_json, write_text


def write_summary(
    folder: Path | str,
    baseline: BaselineRecord,
    rows: Sequence[ComparisonRow],
    provenance: Mapping[str, Any],
    name: str = "benchmark_summary",
) -> None:
    """Writes `NAME.json`, `.csv`, `.md`, `.tex` and, where a mIoU was measured, the plot as `NAME.png` and `.svg`.

    Example:
        # Two benchmarks of the same baseline in one summary.
        first, second = read_json("a/benchmark_summary.json"), read_json("b/benchmark_summary.json")
        write_summary("both", first["baseline"], first["rows"] + second["rows"], provenance())

    Args:
        folder: where to; created.
        baseline: the unpruned network.
        rows: one a job.
        provenance: how the numbers came about.
        name: the files' name without ending.

    Raises:
        BenchError: the folder cannot be written.
    """
    folder = make_folder(folder)
    record = summary_record(baseline, rows, provenance)
    rows = record["rows"]
    write_json(folder / f"{name}.json", record)
    flat = flat_rows(record["baseline"], rows)
    write_csv(folder / f"{name}.csv", columns_of(flat), flat)
    plot, drawing = folder / f"{name}.png", folder / f"{name}.svg"
    for file in (plot, drawing):
        file.unlink(missing_ok=True)
    picture = plot.name if plot_tradeoffs(plot, [Benchmark(record["baseline"], rows)], drawing) else None
    write_text(folder / f"{name}.md", _markdown(record, picture))
    table = latex_table(comparison_title(record["baseline"]), *comparison_lines(record["baseline"], rows, full=True))
    write_text(folder / f"{name}.tex", table)


def _markdown(record: SummaryRecord, picture: str | None) -> str:
    baseline, rows = record["baseline"], record["rows"]
    header, lines = comparison_lines(baseline, rows, full=True)
    found = entries(rows)
    parts = [f"# {comparison_title(baseline)}", "", *markdown_table(header, lines), ""]
    measured = [when for key, when in STAGES.items() if any(entry.values(key) for entry in found)]
    parts += [
        f"mIoU in percent over the whole split{': ' * bool(measured)}{', '.join(measured)}. "
        "Parameters and MACs: share kept."
    ]
    parts += usual_note(rows)
    if STAGES["miou_repaired"] in measured:
        parts += [
            "Repaired: by least squares, without training; cut and recalibrated are the same networks without it."
        ]
    if any(len(entry.done) > 1 for entry in found):
        parts += ["With several seeds: mean ± standard deviation over the seeds."]
    if any(entry.is_sparse for entry in found):
        parts += [SPARSE_NOTE]
    if any(entry.speedups for entry in found):
        parts += [
            "Speed-up: typical paired ratio to the baseline with its 95 % interval. Latency: the baseline's over that."
        ]
        parts += ["", *(f"* {line}" for line in comparison_conditions(baseline, rows))]
    if picture:
        parts += ["", f"![mIoU against cost]({picture})"]
    parts += _against_scratch(rows)
    parts += _under_corruptions(baseline, rows)
    parts += _against_control(rows)
    failures = failure_lines(rows)
    if failures:
        parts += ["", "## Failed", "", *(f"* {text}" for text in failures)]
    parts += ["", "## Provenance", ""]
    parts += [f"* {key}: {value}" for key, value in record["provenance"].items() if value is not None]
    return "\n".join(parts) + "\n"


def _against_scratch(rows: Sequence[ComparisonRow]) -> list[str]:
    """Whether pruned networks do better than their shapes from new weights."""
    parts = []
    for key, how in CONTROLS.items():
        lines = [
            [gap.method, str(Goal(gap.target, gap.ratio)), str(gap.seeds), gap.points_text, gap.verdict]
            for gap in gaps_to_scratch(rows, key)
        ]
        if lines:
            header = ["method", "target", "seeds", "mIoU points", "verdict"]
            parts += ["", f"## Against the same shape from new weights, {how}", "", *markdown_table(header, lines)]
    if parts:
        parts += ["", "The pruned network in the end, less its control: mean over the seeds with its 95 % interval."]
    return parts


def _under_corruptions(baseline: BaselineRecord, rows: Sequence[ComparisonRow]) -> list[str]:
    """What images with noise, fog and the like make of each network."""
    table = corrupted_lines(baseline, rows)
    if table is None:
        return []
    note = "mIoU in percent, mean of three severities each; corrupted: of all; retention: that over the clean mIoU."
    return ["", "## Under corruptions", "", *markdown_table(*table), "", note]


def _against_control(rows: Sequence[ComparisonRow]) -> list[str]:
    """Which methods beat the random control: at each stage networks were scored at, goal by goal."""
    parts = []
    for stage, when in STAGES.items():
        gaps = gaps_to_control(rows, stage)
        if not any(gap.margin is not None for gap in gaps):
            continue
        lines = []
        for gap in gaps:
            goal, macs = Goal(gap.target, gap.ratio), f"{gap.macs_points:+.1f}"
            lines.append([gap.method, str(goal), gap.points_text, gap.verdict, macs])
        header = ["method", "target", "mIoU points", "verdict", "MACs points"]
        parts += ["", f"## Against {CONTROL}, {when}", "", *markdown_table(header, lines)]
    if parts:
        parts += ["", "Mean difference over the seeds with its 95 % interval (Student's t)."]
    return parts


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of Markdown: the first column to the left, the others to the right.

    Args:
        header: the columns' names.
        lines: a text for each of them.
    """

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    return [line(header), line([":--", *["--:"] * (len(header) - 1)]), *map(line, lines)]


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}


def latex_table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in LaTeX, to be read by `\\input`: the first column to the left, the others to the right.

    Args:
        title: its caption.
        header: the columns' names.
        lines: a text for each of them; the first line is set apart.
    """

    def line(texts: Sequence[str]) -> str:
        return " & ".join("".join(_LATEX.get(character, character) for character in text) for text in texts) + r" \\"

    first, *others = map(line, lines)
    rows = [r"\toprule", line(header), r"\midrule", first, r"\midrule", *others, r"\bottomrule"]
    columns = "l" + "r" * (len(header) - 1)
    caption = "".join(_LATEX.get(character, character) for character in title)
    start = ["% Needs \\usepackage{booktabs}.", r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
    end = [r"\end{tabular}", r"\end{table}"]
    return "\n".join([*start, rf"\begin{{tabular}}{{{columns}}}", *rows, *end]) + "\n"
