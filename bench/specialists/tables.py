"""What was found on fused specialists as tables: sizes, accuracy for each number of devices, time, and each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import BenchError
from bench.report.summary import markdown_table
from bench.specialists.deployment import spelt
from bench.specialists.inference import FORMAT, INFERENCE, SINGLE_NETWORK
from bench.system.console import say
from bench.system.files import read_json, write_csv, write_text

SUMMARY = "specialists_summary"


class TableText(NamedTuple):
    """A table in words.

    Attributes:
        title: above it.
        header: names of the columns.
        lines: as many texts each.
    """

    title: str
    header: list[str]
    lines: list[list[str]]


def percent(value: float | None) -> str:
    """A share: `0.4321` -> `43.2`."""
    return "-" if value is None else f"{100 * value:.1f}"


def groupings_table(record: Mapping[str, Any]) -> TableText:
    """What `group` found: a line a number of devices, the best one marked."""
    names = record["identity"]["classes"]
    lines = [
        [
            f"{len(found['groups'])}{' *' if found['is_best'] else ''}",
            f"{found['quality']:.3f}",
            " | ".join(" ".join(names[number] for number in group) for group in found["groups"]),
        ]
        for found in record["groupings"]
    ]
    correlation = record["cophenetic_correlation"]
    told = "" if correlation is None else f"; cophenetic correlation {correlation:.3f}"
    return TableText(
        f"classes by their {record['identity']['responses']}; * best{told}", ["devices", "silhouette", "groups"], lines
    )


def specialists_table(records: Sequence[Mapping[str, Any]]) -> TableText:
    """What `prune` made: sizes beside the wanted ones, quality on the own classes."""
    lines = []
    for record in records:
        parameters, names = record["parameters"], record["names"][:-1]
        own = [record["quality"]["iou"][name] for name in names]
        known = [value for value in own if value is not None]
        lines.append(
            [
                record["file"]["name"],
                " ".join(names),
                f"{parameters['network']:,}",
                f"{100 * (parameters['network'] / parameters['wanted'] - 1):+.2f}",
                f"{record['file']['bytes'] / 1e6:.3f}",
                percent(sum(known) / len(known) if known else None),
            ]
        )
    header = ["specialist", "classes", "parameters", "off the wanted %", "file MB", "mIoU own %"]
    return TableText("specialists", header, lines)


def sizes_table(record: Mapping[str, Any]) -> TableText:
    """Parameters, bytes and MACs of the baseline and each part, and compression ratios."""
    lines = [
        [
            name,
            f"{size['parameters']:,}",
            f"{size['state_bytes'] / 1e6:.3f}",
            f"{size['file_bytes'] / 1e6:.3f}",
            f"{size['macs'] / 1e9:.3f}",
            f"{size['compression']:.2f}x",
        ]
        for name, size in record["sizes"].items()
    ]
    header = ["network", "parameters", "tensors MB", "file MB", "MACs G", "compression"]
    return TableText(f"sizes, {_on(record)}", header, lines)


def times_table(record: Mapping[str, Any]) -> TableText | None:
    """Time an image of each part, and of the slowest specialist plus the head; None where nothing was timed."""
    latency = record["latency"]
    if latency is None:
        return None
    lines = [
        [name, f"{found['median_ms']:.2f}", _ratio(found["speedup"], found["speedup_low"], found["speedup_high"])]
        for name, found in latency["networks"].items()
    ]
    split = latency["split"]
    ratio = _ratio(split["speedup"], split["speedup_p10"], split["speedup_p90"])
    lines.append(["slowest specialist + head", f"{split['total_ms']:.2f}", ratio])
    threads = f"{latency['threads']} thread{'s' if latency['threads'] > 1 else ''}"
    return TableText(f"time an image, {_on(record)}, {threads}", ["network", "ms", "speed-up"], lines)


def classes_table(record: Mapping[str, Any]) -> TableText:
    """IoU of each class: baseline, single network, fused, and the specialist whose class it is."""
    quality = record["quality"]
    owners = {name: each for each in record["specialists"] for name in each["names"]}
    lines = []
    for name, before in quality["baseline"]["iou"].items():
        owner = owners.get(name)
        single = quality["single"]["iou"][name] if quality["single"] else None
        own = owner["iou"][name] if owner else None
        group = spelt(owner["classes"]) if owner else "-"
        lines.append([name, *map(percent, (before, single, quality["fused"]["iou"][name], own)), group])
    mean = [percent(quality[key] and quality[key]["miou"]) for key in ("baseline", "single", "fused")]
    lines.append(["mean", *mean, "-", "-"])
    for each in record["specialists"]:
        alone = f"{percent(each['miou_own'])} (all classes: {percent(each['miou_all'])})"
        lines.append([f"specialist {spelt(each['classes'])}", "-", "-", "-", alone, spelt(each["classes"])])
    header = ["IoU %", "baseline", "single", "fused", "its specialist", "specialist"]
    return TableText(f"each class, {_on(record)}", header, lines)


def counts_table(records: Sequence[Mapping[str, Any]]) -> TableText:
    """A line a number of devices: accuracy, total size and time of baseline, fused specialists and single network."""
    lines = []
    for record in records:
        quality, sizes = record["quality"], record["sizes"]
        total, whole = sizes["specialists + head"]["parameters"], sizes["baseline"]["parameters"]
        split = record["latency"] and record["latency"]["split"]
        own = [each["miou_own"] for each in record["specialists"] if each["miou_own"] is not None]
        lines.append(
            [
                f"{record['devices']}",
                f"{record['threshold']:g}",
                "-" if record["silhouette"] is None else f"{record['silhouette']:.3f}",
                *(percent(quality[key] and quality[key]["miou"]) for key in ("baseline", "single", "fused")),
                percent(sum(own) / len(own) if own else None),
                percent(total / whole),
                f"{split['total_ms']:.2f}" if split else "-",
                _ratio(split["speedup"], split["speedup_p10"], split["speedup_p90"]) if split else "-",
                _time_of(record, SINGLE_NETWORK),
            ]
        )
    header = [
        *("devices", "threshold %", "silhouette", "mIoU baseline", "mIoU single", "mIoU fused", "mIoU own classes"),
        *("total params %", "slowest + head ms", "speed-up", "single ms"),
    ]
    first = records[0]
    return TableText(f"{first['dataset']}, {first['split']}, mIoU in percent", header, lines)


def write_summary(folder: Path) -> TableText:
    """Puts the `inference.json` of all groupings in a folder together, as `specialists_summary.csv` and `.md`.

    Returns:
        The table with a line for each.

    Raises:
        BenchError: one of them was not written by `infer`.
    """
    records = [read_json(path) for path in sorted(folder.glob(f"devices*/{INFERENCE}"))]
    wrong = next((path for path in records if not isinstance(path, dict) or path.get("format") != FORMAT), None)
    if wrong is not None:
        raise BenchError(
            f"an {INFERENCE} below {folder} was not written by `python -m bench.specialists infer`; remove it"
        )
    records.sort(key=lambda record: (record["threshold"], record["devices"]))
    table = counts_table(records)
    write_csv(
        folder / f"{SUMMARY}.csv", table.header, (dict(zip(table.header, line, strict=True)) for line in table.lines)
    )
    text = [f"# {table.title}", "", *markdown_table(table.header, table.lines)]
    for record in records:
        parts = (sizes_table(record), times_table(record), classes_table(record))
        for part in filter(None, parts):
            text += ["", f"## {part.title}", "", *markdown_table(part.header, part.lines)]
    write_text(folder / f"{SUMMARY}.md", "\n".join(text) + "\n")
    return table


def show(table: TableText) -> None:
    """Prints a table."""
    from rich.markup import escape

    from bench.report.console_tables import framed
    from bench.system.console import console

    frame = framed(escape(table.title), [name.replace(" ", "\n") for name in table.header])
    for line in table.lines:
        frame.add_row(*map(escape, line))
    console().print(frame)


def show_processes(record: Mapping[str, Any]) -> None:
    """Says what specialists took in processes of their own, if they had them."""
    found = record["processes"]
    if found:
        say(
            f"{found['processes']} processes at once: slowest specialist {found['slowest_specialist_ms']:.2f} ms an "
            f"image, head {found['head_ms']:.2f} ms, together {found['total_ms']:.2f} ms; "
            f"{found['sent_bytes_per_image'] / 1e6:.2f} MB of features sent an image"
        )
    say(f"logits: sha256 {record['logits_sha256'][:16]}")


def _on(record: Mapping[str, Any]) -> str:
    return f"{record['devices']} devices, threshold {record['threshold']:g} %"


def _ratio(middle: float | None, low: float | None, high: float | None) -> str:
    return "-" if middle is None else f"{middle:.2f}x ({low:.2f}-{high:.2f})"


def _time_of(record: Mapping[str, Any], name: str) -> str:
    found = record["latency"] and record["latency"]["networks"].get(name)
    return f"{found['median_ms']:.2f}" if found else "-"
