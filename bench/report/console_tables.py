"""Builds the tables that commands print, all in the same frame."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.channels.groups import ChannelGroup
from bench.config.values import size_text
from bench.measure.evaluation_report import EvaluationReport, LayersTimed, latency_of
from bench.measure.layer_costs import LayerCost
from bench.report.comparison_rows import comparison_title, entries
from bench.report.comparison_text import SPARSE_NOTE, comparison_lines, failure_lines, is_uneven, usual_note
from bench.report.latency_text import comparison_conditions, latency_conditions, layers_conditions
from bench.report.summary_record import BaselineRecord, ComparisonRow
from bench.report.text import (
    INT8_HEADER,
    LAYERS_NOTE,
    MULTIPLES_HEADER,
    OPERATORS_HEADER,
    int8_lines,
    int8_notes,
    layer_lines,
    layers_title,
    lost_lines,
    multiple_lines,
    operator_lines,
    pair_lines,
    pair_title,
    pays_lines,
)

if TYPE_CHECKING:
    from rich.table import Table


def framed(title: str, header: Sequence[str], caption: str | None = None, **frame: Any) -> Table:
    """A table without rows: a line below the head, columns close together, the first to the left, others to the right.

    Where the console is too narrow, the widest cells take a second line; none loses a letter.

    Args:
        title: above it.
        header: the columns' names.
        caption: below it.
        frame: what is to be drawn in another way, as `rich.table.Table` takes it.
    """
    from rich import box
    from rich.table import Table

    close = {"collapse_padding": True, "pad_edge": False, "show_edge": False, "caption_justify": "left"}
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, **{**close, **frame})
    for position, name in enumerate(header):
        side = "left" if position == 0 else "right"
        table.add_column(name, justify=side, vertical="bottom", overflow="fold")
    return table


def comparison_table(baseline: BaselineRecord, rows: Sequence[ComparisonRow]) -> Table:
    """The table of a comparison: the baseline, then a line for each (method, goal).

    Example:
        summary = read_json("runs/camvid_benchmark/benchmark_summary.json")
        console().print(comparison_table(summary["baseline"], summary["rows"]))

    Args:
        baseline: the unpruned network.
        rows: one a job.
    """
    from rich.markup import escape

    header, lines = comparison_lines(baseline, rows, full=False)
    found = entries(rows)
    notes = [f"[red]failed[/red] {escape(line)}" for line in failure_lines(rows)]
    if not is_uneven(found) and found and len(found[0].done) > 1:
        notes.insert(0, f"mean ± standard deviation over {len(found[0].done)} seeds")
    notes += map(escape, usual_note(rows))
    notes += [SPARSE_NOTE] if any(entry.is_sparse for entry in found) else []
    notes += map(escape, comparison_conditions(baseline, rows))
    broken = [name.replace(" ", "\n") for name in header]
    table = framed(escape(comparison_title(baseline)), broken, "\n".join(notes) or None)
    for position, line in enumerate(lines):
        table.add_row(*map(escape, line), end_section=position == 0)
    return table


def stacked_table(title: str, header: Sequence[str], parts: Sequence[Sequence[Sequence[str]]]) -> Table:
    """A table of several parts, a line between them.

    Args:
        title: above it.
        header: the columns' names.
        parts: the lines of each.
    """
    from rich.markup import escape

    broken = [name.replace(" ", "\n") for name in header]
    table = framed(title, broken)
    for part in parts:
        for position, line in enumerate(part):
            table.add_row(*map(escape, line), end_section=position == len(part) - 1)
    return table


def pair_table(report: EvaluationReport) -> Table:
    """The table of one `report.json`: baseline beside candidate, or the baseline alone.

    Example:
        console().print(pair_table(read_json("report.json")))

    Args:
        report: what the file holds.
    """
    header, sections = pair_lines(report)
    sides = {name: report[name] for name in header if name in ("baseline", "candidate")}
    notes = [f"MACs: {side['cost']['thop_note']} ({name})" for name, side in sides.items()]
    latency = latency_of(report)
    notes += [latency_conditions(latency)] if latency else []
    wide = {"collapse_padding": False, "pad_edge": True, "show_edge": True}
    table = framed(pair_title(report), header, "\n".join(notes), **wide)
    for line in itertools.chain(*sections.values()):
        table.add_row(*line)
    return table


def layers_table(layers: Sequence[LayerCost], timed: LayersTimed | None = None) -> Table:
    """The table of the layers of a report, and what all of them cost together.

    Example:
        report = read_json("report.json")
        console().print(layers_table(layers_of(report), report["layers_timed"]))

    Args:
        layers: at least one.
        timed: how their times were measured, if the report says it.
    """
    header, lines = layer_lines(layers)
    table = framed(layers_title(layers), header, LAYERS_NOTE + layers_conditions(timed))
    for number, line in enumerate(lines, start=1):
        table.add_row(*line, end_section=number == len(layers))
    return table


def int8_table(record: Mapping[str, Any]) -> Table:
    """The table of an `int8_report.json`: each network in each form.

    Args:
        record: what the file holds.
    """
    lines = int8_lines(record)
    table = framed(
        f"int8 beside float32, {record['split']} of {record['dataset']}", INT8_HEADER, "\n".join(int8_notes(record))
    )
    for number, line in enumerate(lines, start=1):
        table.add_row(*line, end_section=number % 3 == 0)
    return table


def advice_tables(advice: Mapping[str, Any]) -> Iterator[Table]:
    """The tables of an `advice.json`: operators by kind, and multiples of channels.

    Args:
        advice: what the file holds.
    """
    lines = operator_lines(advice)
    notes = [f"{100 * advice['macs_kept']:.1f} % of the MACs kept"]
    notes += ["where most of the saving is lost:", *lost_lines(advice)] if advice["lost"] else []
    table = framed("Operators", OPERATORS_HEADER[: len(lines[0])], "\n".join(notes))
    for number, line in enumerate(lines, start=1):
        table.add_row(*line, end_section=number == len(lines) - 1)
    yield table
    how = (
        f"{size_text(advice['input_size'])}, {advice['memory_format']}, {advice['device']}, {advice['threads']} threads"
    )
    notes = [*pays_lines(advice), f"{how}, {advice['rounds']} rounds by turns; {advice['engine']}"]
    table = framed("Multiples of channels at one target", MULTIPLES_HEADER, "\n".join(notes))
    for number, line in enumerate(multiple_lines(advice)):
        table.add_row(*line, end_section=number == 0)
    yield table


def groups_table(groups: Sequence[ChannelGroup]) -> Table:
    """The table of a network's coupled channels: each group and what else makes its channels."""
    free = [group for group in groups if group.protected is None]
    title = f"{len(groups)} groups; {sum(group.channels for group in free)} channels of {len(free)} may be pruned"
    table = framed(title, [])
    table.add_column("group + further producers", overflow="fold")
    for name in ("channels", "consumers", "unit"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("protected")
    for group in groups:
        others = [f"+ {producer.layer.layer}" for producer in group.producers[1:]]
        counts = (group.channels, len(group.consumers), group.unit)
        table.add_row("\n".join([group.name, *others]), *map(str, counts), group.protected or "")
    return table
