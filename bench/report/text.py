"""What is said of one network beside its baseline: a `report.json`, an `int8_report.json`, a `pruning_info.json`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bench.measure.latency import speedup_text
from bench.report.comparison_rows import Row, title
from bench.report.latency_text import latency_conditions, latency_lines

if TYPE_CHECKING:
    from rich.table import Table


def pair_table(report: Row) -> Table:
    """The table for the console of one `report.json`: baseline beside candidate, or the baseline alone."""
    from rich import box
    from rich.table import Table

    header, sections = pair_lines(report)
    sides = {name: report[name] for name in header if name in ("baseline", "candidate")}
    notes = [f"MACs: {side['cost']['thop_note']} ({name})" for name, side in sides.items()]
    notes += [latency_conditions(report["latency"])] if report["latency"] else []
    table = Table(title=pair_title(report), caption="\n".join(notes), caption_justify="left", box=box.SIMPLE_HEAD)
    for name in header:
        table.add_column(name, justify="right" if name else "left")
    for line in itertools.chain(*sections.values()):
        table.add_row(*line)
    return table


def pair_title(report: Row) -> str:
    """What one `report.json` is about."""
    return title({**report, "model": report["model"]["name"]})


def pair_lines(report: Row) -> tuple[list[str], dict[str, list[list[str]]]]:
    """What one `report.json` says, as text: the names of the columns, and the lines of each part."""
    names = ["baseline", "candidate"] if report["candidate"] else ["baseline"]
    sides = [report[name] for name in names]
    costs = [
        [name, *_beside([side["cost"][key] for side in sides], unit)]
        for key, name, unit in (
            ("parameters", "parameters M", 1e6),
            ("nonzero_parameters", "  not zero M", 1e6),
            ("macs", "MACs G", 1e9),
            ("thop_macs", "  by thop G", 1e9),
            ("peak_activation_bytes", "activations MB", 1e6),
            ("state_bytes", "size MB", 1e6),
        )
    ]
    for key, name in (("bytes_on_disk", "file MB"), ("compressed_bytes", "  compressed MB")):
        costs.append([name, *_beside([side[key] for side in sides], 1e6)])
    sections = {"quality": [*_quality_lines([side["quality"] for side in sides], report["change"])], "cost": costs}
    if report["latency"]:
        sections["latency"] = [*latency_lines(report["latency"])]
    return ["", *names, "change"][: 2 * len(names)], sections


def _beside(values: Sequence[float], unit: float) -> list[str]:
    """A value of each network and, for two, the change."""
    change = [f"{100 * (after / before - 1):+.1f} %" for before, after in itertools.pairwise(values)]
    return [*(f"{value / unit:.3f}" for value in values), *change]


def _quality_lines(qualities: Sequence[Row], change: Row | None) -> Iterator[list[str]]:
    """Name, value of each network and, for two, the change in points."""

    def line(name: str, shares: Sequence[float | None]) -> list[str]:
        pairs = itertools.pairwise(shares)
        changes = ["-" if None in pair else f"{100 * (pair[1] - pair[0]):+.2f}" for pair in pairs]
        return [name, *("-" if share is None else f"{100 * share:.2f}" for share in shares), *changes]

    yield line("mIoU %", [quality["miou"] for quality in qualities])
    ends = [quality["miou_interval"] and [100 * end for end in quality["miou_interval"]] for quality in qualities]
    intervals = ["-" if pair is None else "{:.2f} to {:.2f}".format(*pair) for pair in ends]
    yield ["  95 % interval", *intervals, *([change_text(change["miou_points_interval"])] if change else [])]
    named = {"pixel_accuracy": "pixel accuracy %", "class_accuracy": "class accuracy %"}
    for key, name in {**named, "frequency_weighted_iou": "frequency-weighted IoU %"}.items():
        yield line(name, [quality[key] for quality in qualities])
    if qualities[0]["boundary"]:
        yield line("boundary F-score %", [quality["boundary"]["f_score"] for quality in qualities])
    for name in qualities[0]["iou"]:
        yield line(f"  IoU {name}", [quality["iou"][name] for quality in qualities])


def change_text(interval: Sequence[float] | None) -> str:
    """The interval of a change in points; one that contains 0 is no change, and the text says so."""
    if interval is None:
        return "-"
    low, high = interval
    text = f"{low:+.2f} to {high:+.2f}"
    return f"no measurable change ({text})" if low <= 0 <= high else text


def int8_line(record: Row) -> str:
    """What an `int8_report.json` says, for the console."""
    before, after = record["float32"], record["int8"]
    line = (
        f"int8: mIoU {before['quality']['miou']:.2%} -> {after['quality']['miou']:.2%}, "
        f"file {before['bytes_on_disk'] / 1e6:.2f} -> {after['bytes_on_disk'] / 1e6:.2f} MB"
    )
    if record["latency"]:
        old, new = (record["latency"]["networks"][name] for name in ("float32", "int8"))
        ratio = speedup_text(new["speedup"], new["speedup_low"], new["speedup_high"])
        line += f", latency {old['median_ms']:.2f} -> {new['median_ms']:.2f} ms, {ratio}"
    return line


def pruning_lines(info: dict[str, Any]) -> list[str]:
    """What prune.py says about a pruning at the end.

    Args:
        info: what `pruning_info.json` holds.
    """
    plan, cost, target, sparsity = (info[key] for key in ("plan", "cost", "target", "sparsity"))
    change = cost["change"]
    if sparsity:
        lines = [
            f"{info['method']} (unstructured): zeroed {sparsity['reached']:.1%} of "
            f"{sparsity['weights'] / 1e6:.3f} M weights"
        ]
        for category, part in sparsity["categories"].items():
            lines.append(f"  {category:12} {part['sparsity']:6.1%} of {part['weights'] / 1e6:8.3f} M")
    else:
        lines = [f"{info['method']}: removed {plan['channel_ratio']:.1%} of the prunable channels"]
    lines[0] += (
        f", parameters {change['parameters_percent']:+.1f} %, MACs {change['macs_percent']:+.1f} %, "
        f"size {cost['after']['state_bytes'] / 1e6:.2f} MB"
    )
    if target["within"] is not None:
        search, kept = plan["search"], cost["after"]["parameters"] / cost["before"]["parameters"]
        found = "nothing goes" if search["threshold"] is None else f"threshold {search['threshold']:.6g}"
        lines.append(
            f"{found}, found by costing {search['networks_costed']} networks: {kept:.2%} of the parameters are kept, "
            f"{target['value']:.2%} were wanted"
        )
    stages = {name: score["miou"] for name, score in info["quality"].items() if isinstance(score, dict)}
    if stages:
        shown = ", ".join(f"{name} {miou:.2%}" for name, miou in stages.items())
        lines.append(f"mIoU on {info['quality']['split']}: {shown}")
    return [*lines, f"-> {info['saved_model']}"]
