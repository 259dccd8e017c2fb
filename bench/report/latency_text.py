"""Latencies as text: milliseconds that agree with the speed-ups printed beside them, and what they were measured under.

Two medians are of different moments: a machine that slowed down between them makes their quotient another number than
the speed-up, which comes from the ratios within the rounds. So one latency is shown as it was measured, that of the
network the others are compared with, and all others are that over their speed-up. What each network took by itself is
in the JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bench.config.values import size_text
from bench.measure.latency_report import LatencyReport

_MOST_DIGITS = 6


def agreeing_texts(reference: float, ratios: Sequence[float], digits: int, *, rates: bool = False) -> list[str]:
    """A measured number and those that are so many times better, as text.

    Read back, their quotients round to the ratios: where rounding would get in the way, all have more digits.

    Example:
        >>> agreeing_texts(53.25, [1.0449, 2.0], 2)
        ['53.25', '50.96', '26.62']

    Args:
        reference: what was measured, above 0.
        ratios: how many times better the others are.
        digits: behind the point.
        rates: the larger is the better, not the smaller.
    """
    for count in range(digits, _MOST_DIGITS + 1):
        shown = f"{reference:.{count}f}"
        base = float(shown)
        texts = [f"{base * ratio if rates else base / ratio:.{count}f}" for ratio in ratios]
        pairs = [(float(text), base) if rates else (base, float(text)) for text in texts]
        if all(_agree(*pair, ratio) for pair, ratio in zip(pairs, ratios, strict=True)):
            break
    return [shown, *texts]


def _agree(over: float, under: float, ratio: float) -> bool:
    return under > 0 and f"{over / under:.2f}" == f"{ratio:.2f}"


def latency_texts(report: LatencyReport, *, digits: int = 2) -> list[str]:
    """Milliseconds of each network of a report: the first one's median, the others' by their speed-up."""
    first, *others = report.networks
    return agreeing_texts(report.networks[first].median_ms, [report.ratios[name] for name in others], digits)


def latency_lines(report: LatencyReport) -> Iterator[list[str]]:
    """What a table says of latencies: lines of a name, a value of each network and, for two, the speed-up."""
    first, *others = report.networks.values()
    change, ratios = [side.speedup_text() for side in others], [side.speedup or 1.0 for side in others]
    frames = agreeing_texts(first.fps, ratios, 1, rates=True)
    if report.batch == 1:
        yield ["latency ms", *latency_texts(report), *change]
        yield ["  images/s", *frames]
    else:
        yield [f"images/s, {report.batch} at once", *frames, *change]
    yield ["  Mpixels/s", *agreeing_texts(first.pixels_per_second / 1e6, ratios, 2, rates=True)]
    if report.throughput:
        yield from latency_lines(report.throughput)


def latency_conditions(report: LatencyReport) -> str:
    """How latencies were measured, in one line."""
    return f"latency: {size_text(report.input_size)}, {conditions_of(report)}, {report.rounds} rounds"


def conditions_of(report: LatencyReport) -> str:
    """Precision, memory format, device and threads."""
    kinds = [" and ".join(report.precisions), " and ".join(report.memory_formats)]
    return _conditions(*kinds, report.mode.compiled, report.device, report.threads)


def layers_conditions(timed: Mapping[str, Any] | None) -> str:
    """How the layers of a report were timed, as a sentence; nothing of reports of the time before they said it."""
    if not timed:
        return ""
    return (
        f" Times: {_conditions(timed['precision'], timed['memory_format'], False, timed['device'], timed['threads'])}."
    )


def comparison_conditions(baseline: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """How the latencies of a comparison were measured: a line, or one for each way there was.

    Args:
        baseline: what a summary says about the unpruned network.
        rows: one a job; summaries of the time before rows said it have no line.
    """
    names = ("latency_precision", "latency_format", "latency_compiled", "latency_device", "latency_threads")
    found = dict.fromkeys(
        tuple(row.get(name) for name in names) for row in rows if row.get("latency_format") and row.get("speedup")
    )
    size = f"{size_text(baseline['input_size'])}, " if baseline.get("input_size") else ""
    return [f"latency: {size}{_conditions(*how)}" for how in found]


def _conditions(precision: str, memory_format: str, compiled: bool, device: str, threads: int) -> str:
    how = [precision, memory_format, *(["torch.compile"] if compiled else []), device]
    return ", ".join([*how, f"{threads} CPU thread{'s' if threads > 1 else ''}"])
