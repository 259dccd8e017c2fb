"""The columns of a summary's CSV: all that a row needs to be understood when it is beside those of other benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench.report.comparison_rows import agreeing_latencies
from bench.report.summary_record import CORRUPTED, STAGES, BaselineRecord, ComparisonRow

CONTEXT = ("model", "dataset", "input_size", "split", "scoring", "data_fingerprint", "baseline_sha256")
"""Columns that are the same for all rows of a benchmark."""

COLUMNS = (
    *CONTEXT,
    "method",
    "method_options",
    "pruning_options",
    "target_kind",
    "target_value",
    "seed",
    "status",
    "channels_removed",
    "parameters",
    "parameters_kept",
    "nonzero_parameters",
    "nonzero_kept",
    "macs",
    "macs_kept",
    "bytes_on_disk",
    "compressed_bytes",
    "baseline_miou",
    *STAGES,
    "finetune_epochs",
    "finetune_recipe",
    "miou_scratch",
    "scratch_epochs",
    "miou_scratch_full",
    "scratch_full_epochs",
    "baseline_miou_corrupted",
    *CORRUPTED,
    "baseline_latency_ms",
    "latency_ms",
    "speedup",
    "speedup_low",
    "speedup_high",
    "latency_format",
    "latency_precision",
    "latency_compiled",
    "latency_threads",
    "latency_device",
    "seconds",
    "error",
)
"""Columns of the CSV; further keys of the rows follow them."""

# Earlier names, which rows still have in the JSON file: `ratio` is what goes of channels and what stays of MACs.
_RENAMED = {"target": "target_kind", "ratio": "target_value", "channel_ratio": "channels_removed"}
_TEXTS = ("method_options", "pruning_options", "scoring")


def flat_rows(baseline: BaselineRecord, rows: Sequence[ComparisonRow]) -> list[dict[str, Any]]:
    """Rows for a table that may hold those of several benchmarks.

    Args:
        baseline: what they are compared with.
        rows: of a summary; summaries of earlier versions do not know all columns.

    Returns:
        Column -> value; what is no number is text, options as JSON. Keys that are no column follow those that are.
        Latencies agree with their speed-ups (`agreeing_latencies`).
    """
    context = _context(baseline)
    flat = []
    for row in agreeing_latencies(rows):
        # Where there was but one kind of target, rows do not say which.
        named = {"target_kind": "channels"} | {_RENAMED.get(key, key): value for key, value in row.items()}
        named |= {key: json.dumps(named[key], sort_keys=True) for key in _TEXTS if named.get(key) is not None}
        flat.append({**context, **named})
    return flat


def columns_of(flat: Sequence[Mapping[str, Any]]) -> list[str]:
    """All columns of flat rows: `COLUMNS`, and what else the rows hold."""
    return [*COLUMNS, *dict.fromkeys(key for row in flat for key in row if key not in COLUMNS)]


def _context(baseline: BaselineRecord) -> dict[str, Any]:
    size, scoring = baseline.get("input_size"), baseline.get("scoring")
    return {
        "model": baseline.get("model"),
        "dataset": baseline.get("dataset"),
        "input_size": size and "{}x{}".format(*size),
        "split": baseline.get("split"),
        "scoring": scoring and json.dumps(scoring, sort_keys=True),
        "data_fingerprint": baseline.get("data_fingerprint"),
        "baseline_sha256": baseline.get("sha256"),
    }
