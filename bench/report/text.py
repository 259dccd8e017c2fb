"""A report, an `int8_report.json`, an `advice.json` and a `pruning_info.json` as text: lines of tables and others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench.measure.evaluation_report import Change, CorruptedQuality, EvaluationReport, latency_of
from bench.measure.latency_report import LatencyReport, Speedup
from bench.measure.layer_costs import LayerCost
from bench.report.comparison_rows import comparison_title
from bench.report.latency_text import agreeing_texts, conditions_of, latency_lines, latency_texts

LAYERS_NOTE = "One image. What a network takes besides (norms, activations, interpolation) is in no line."


def pair_title(report: EvaluationReport) -> str:
    """What one `report.json` is about."""
    return comparison_title({**report, "model": report["model"]["name"]})


def pair_lines(report: EvaluationReport) -> tuple[list[str], dict[str, list[list[str]]]]:
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
    if robustness := report.get("robustness"):
        sections["robustness"] = [*_corrupted_lines([robustness[name] for name in names])]
    if latency := latency_of(report):
        sections["latency"] = [*latency_lines(latency)]
    return ["", *names, "change"][: 2 * len(names)], sections


def _beside(values: Sequence[float], unit: float) -> list[str]:
    """A value of each network and, for two, the change."""
    change = [f"{100 * (after / before - 1):+.1f} %" for before, after in itertools.pairwise(values)]
    return [*(f"{value / unit:.3f}" for value in values), *change]


def _share_line(name: str, shares: Sequence[float | None]) -> list[str]:
    """Name, value of each network and, for two, the change in points."""
    pairs = itertools.pairwise(shares)
    changes = ["-" if None in pair else f"{100 * (pair[1] - pair[0]):+.2f}" for pair in pairs]
    return [name, *("-" if share is None else f"{100 * share:.2f}" for share in shares), *changes]


def _corrupted_lines(qualities: Sequence[CorruptedQuality]) -> Iterator[list[str]]:
    """The mean over all corruptions, what is left of the mIoU without them, and each by its severities."""
    yield _share_line("mIoU corrupted %", [quality["miou"] for quality in qualities])
    yield _share_line("  of clean mIoU %", [quality["retention"] for quality in qualities])
    for name, shares in qualities[0]["by_corruption"].items():
        for severity in range(len(shares)):
            values = [quality["by_corruption"][name][severity] for quality in qualities]
            yield _share_line(f"  {name} {severity + 1} %", values)


def _quality_lines(qualities: Sequence[Mapping[str, Any]], change: Change | None) -> Iterator[list[str]]:
    """mIoU with its interval, the other metrics, and the IoU of each class."""
    yield _share_line("mIoU %", [quality["miou"] for quality in qualities])
    ends = [quality["miou_interval"] and [100 * end for end in quality["miou_interval"]] for quality in qualities]
    intervals = ["-" if pair is None else "{:.2f} to {:.2f}".format(*pair) for pair in ends]
    yield ["  95 % interval", *intervals, *([change_text(change["miou_points_interval"])] if change else [])]
    named = {"pixel_accuracy": "pixel accuracy %", "class_accuracy": "class accuracy %"}
    for key, name in {**named, "frequency_weighted_iou": "frequency-weighted IoU %"}.items():
        yield _share_line(name, [quality[key] for quality in qualities])
    if qualities[0]["boundary"]:
        yield _share_line("boundary F-score %", [quality["boundary"]["f_score"] for quality in qualities])
    for name in qualities[0]["iou"]:
        yield _share_line(f"  IoU {name}", [quality["iou"][name] for quality in qualities])


def change_text(interval: Sequence[float] | None) -> str:
    """The interval of a change in points; one that contains 0 is no change, and the text says so."""
    if interval is None:
        return "-"
    low, high = interval
    text = f"{low:+.2f} to {high:+.2f}"
    return f"no measurable change ({text})" if low <= 0 <= high else text


def layers_title(layers: Sequence[LayerCost]) -> str:
    """What the layers of a report are about."""
    return f"Convolutions and linear layers{', baseline -> candidate' if _is_paired(layers) else ''}"


def layer_lines(layers: Sequence[LayerCost]) -> tuple[list[str], list[list[str]]]:
    """What the layers of a report say, as text: the columns, a line a layer, and one of all of them."""
    lines = []
    for layer in layers:
        weight = _arrow(layer.weight_before, layer.weight_after, lambda shape: "x".join(map(str, shape)))
        macs = _arrow(layer.macs_before, layer.macs_after, _millions)
        lines.append([layer.layer, weight, macs, _arrow(layer.ms_before, layer.ms_after, _milliseconds)])
    macs = _sums([(layer.macs_before, layer.macs_after) for layer in layers])
    times = _sums([(layer.ms_before, layer.ms_after) for layer in layers])
    total = ["all of them", "", _arrow(*macs, _millions), _arrow(*times, _milliseconds)]
    return ["layer", "weight", "MACs M", "ms"], [*lines, total]


def _is_paired(layers: Sequence[LayerCost]) -> bool:
    return layers[0].ms_after is not None


def _sums(pairs: Sequence[tuple[float, float | None]]) -> tuple[float, float | None]:
    """All before and, where there is a candidate, all after."""
    before, after = zip(*pairs, strict=True)
    return sum(before), None if None in after else sum(after)


def _millions(count: float) -> str:
    return f"{count / 1e6:.2f}"


def _milliseconds(ms: float) -> str:
    return f"{ms:.3f}"


def _arrow(before: Any, after: Any, text: Callable[[Any], str]) -> str:
    return text(before) if after is None else f"{text(before)} -> {text(after)}"


INT8_HEADER = ("network", "runtime", "precision", "mIoU", "points", "file MB", "latency ms", "speed-up")


def int8_lines(record: Mapping[str, Any]) -> list[list[str]]:
    """The lines of the table of an `int8_report.json`, under `INT8_HEADER`; latencies only where they were measured."""
    latency = LatencyReport.of_record(record["latency"]) if record["latency"] else None
    times = latency_texts(latency) if latency else [""] * len(record["rows"])
    speedups = [found.speedup_text() for found in latency.networks.values()] if latency else times
    return [
        [
            *(row[key] for key in ("network", "runtime", "precision")),
            f"{100 * row['quality']['miou']:.2f}",
            f"{row['miou_points']:+.2f}",
            f"{row['bytes_on_disk'] / 1e6:.2f}",
            *([ms, speedup] if latency else []),
        ]
        for row, ms, speedup in zip(record["rows"], times, speedups, strict=True)
    ]


def int8_notes(record: Mapping[str, Any]) -> list[str]:
    """What stands below that table: which form of each network is the best one, and how it was measured."""
    what = "fastest" if record["latency"] else "smallest"
    notes = [f"{what} of the {name} within a point of mIoU: {found}" for name, found in record["best"].items()]
    ends = ", first and last layer in float32" if record["float_ends"] else ""
    notes.append(f"{record['engine']}; ranges of {record['calibration']['images']} training images{ends}")
    if record["latency"]:
        notes.append(f"latency: {conditions_of(LatencyReport.of_record(record['latency']))}")
    return notes


OPERATORS_HEADER = ("operator", "dense ms", "pruned ms", "kept %")


def operator_lines(advice: Mapping[str, Any]) -> list[list[str]]:
    """The lines of the table of operators of an `advice.json`, by kind; one that is not pruned has no second column."""
    dense, *pruned = (_by_kind(operators) for operators in advice["operators"].values())
    after = pruned[0] if pruned else {}
    rows = [(kind, dense.get(kind, 0.0), after.get(kind, 0.0)) for kind in {**dense, **after}]
    rows.sort(key=lambda row: -max(row[1:]))
    rows.append(("all", sum(dense.values()), sum(after.values())))
    return [
        [kind, _milliseconds(before), *([_milliseconds(now), _percent(now, before)] if pruned else [])]
        for kind, before, now in rows
    ]


def _by_kind(operators: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Kind -> milliseconds of all its operators, the longest first."""
    sums: dict[str, float] = {}
    for entry in operators:
        sums[entry["kind"]] = sums.get(entry["kind"], 0.0) + entry["ms"]
    return dict(sorted(sums.items(), key=lambda found: -found[1]))


def lost_lines(advice: Mapping[str, Any], most: int = 5) -> list[str]:
    """The operators at which most of a pruned network's saving is lost, a line each."""
    before = {entry["name"]: entry for entry in advice["operators"]["dense"]}
    return [
        f"{entry['kind']} {entry['name']}: {_percent(entry['weights'], whole['weights'])} % of the "
        f"weights, {_percent(entry['ms'], whole['ms'])} % of the time, {entry['lost_ms']:.3f} ms lost"
        for entry in advice["lost"][:most]
        for whole in [before[entry["name"]]]
    ]


MULTIPLES_HEADER = (
    "round-to", "MACs %", "PyTorch ms", "speed-up", "over 1st", "onnxruntime ms", "speed-up", "over 1st"
)  # fmt: skip


def multiple_lines(advice: Mapping[str, Any]) -> list[list[str]]:
    """The lines of the table of multiples of an `advice.json`: milliseconds by the speed-up over the dense network."""
    rows = advice["multiples"]
    lines = [["dense", "100.0"], *([str(row["multiple"]), f"{100 * row['macs_kept']:.1f}"] for row in rows)]
    for runtime, dense_ms in advice["dense_ms"].items():
        ratios = [row[runtime]["versus_dense"][0] for row in rows]
        for line, ms, row in zip(lines, agreeing_texts(dense_ms, ratios, 3), [None, *rows], strict=True):
            versus = [None, None] if row is None else [row[runtime][key] for key in ("versus_dense", "versus_first")]
            line += [ms, *("-" if found is None else str(Speedup(*found)) for found in versus)]
    return lines


def pays_lines(advice: Mapping[str, Any]) -> list[str]:
    """Which multiple pays, by runtime."""
    return [
        f"{runtime}: --round-to {multiple} pays" if multiple else f"{runtime}: no multiple is measurably faster"
        for runtime, multiple in advice["pays"].items()
    ]


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}" if whole else "-"


def latency_line(report: LatencyReport) -> str:
    """What was measured on two networks, and how, in one line."""
    before, after = latency_texts(report)
    speedup = list(report.networks.values())[-1].speedup_text()
    return f"latency {before} -> {after} ms, {speedup}; {conditions_of(report)}"


def pruning_lines(info: Mapping[str, Any], latency: LatencyReport | None = None) -> list[str]:
    """What prune.py says about a pruning at the end.

    Args:
        info: what `pruning_info.json` holds.
        latency: what `report.json` says of it, if it was measured.
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
    lines += [latency_line(latency)] if latency else []
    return [*lines, f"-> {info['saved_model']}"]
