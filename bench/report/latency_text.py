"""What tables say of latencies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.measure.latency import speedup_text


def latency_lines(report: Mapping[str, Any]) -> Iterator[list[str]]:
    """What a table says of latencies: lines of a name, a value of each network and, for two, the speed-up.

    Args:
        report: a `LatencyReport` as plain data.
    """
    sides = list(report["networks"].values())
    change = [speedup_text(side["speedup"], side["speedup_low"], side["speedup_high"]) for side in sides[1:]]
    if report["batch"] == 1:
        yield ["latency ms", *(f"{side['median_ms']:.2f}" for side in sides), *change]
        yield ["  images/s", *(f"{side['fps']:.1f}" for side in sides)]
    else:
        yield [f"images/s, {report['batch']} at once", *(f"{side['fps']:.1f}" for side in sides), *change]
    yield ["  Mpixels/s", *(f"{side['pixels_per_second'] / 1e6:.2f}" for side in sides)]
    if report["throughput"]:
        yield from latency_lines(report["throughput"])


def latency_conditions(report: Mapping[str, Any]) -> str:
    """How latencies were measured, in one line.

    Args:
        report: a `LatencyReport` as plain data.
    """
    networks = report["networks"].values()
    kinds = [" and ".join(dict.fromkeys(side[key] for side in networks)) for key in ("precision", "memory_format")]
    kinds += ["torch.compile"] if report["mode"]["compiled"] else []
    threads = f"{report['threads']} CPU thread{'s' if report['threads'] > 1 else ''}"
    size = "x".join(map(str, report["input_size"]))
    return f"latency: {size}, {', '.join(kinds)}, {report['device']}, {threads}, {report['rounds']} rounds"
