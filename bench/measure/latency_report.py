"""The types of latencies and speed-ups of networks timed together, and how a file's are read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from bench.measure.latency_mode import PLAIN_MODE, LatencyMode


class Speedup(NamedTuple):
    """How many times faster a network is than the one it was timed beside.

    Example:
        >>> str(Speedup(1.423, 1.38, 1.47))
        '1.42x (1.38-1.47)'

    Attributes:
        ratio: the typical paired ratio; see `bench.measure.latency.paired_interval`.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
    """

    ratio: float
    low: float
    high: float

    @property
    def is_measurable(self) -> bool:
        """Whether the interval as it is printed leaves out 1; one that contains it is no speed-up.

        As printed, because a machine can be so quiet that a network's copy, which lies elsewhere in memory, is a
        thousandth faster: nobody is to read "1.00x (1.00-1.01)" as a gain.
        """
        return not round(self.low, 2) <= 1 <= round(self.high, 2)

    def __str__(self) -> str:
        interval = f"({self.low:.2f}-{self.high:.2f})"
        return f"{self.ratio:.2f}x {interval}" if self.is_measurable else f"no measurable difference {interval}"


def speedup_in(record: Mapping[str, Any]) -> Speedup | None:
    """The speed-up that a record holds under `speedup`, `speedup_low` and `speedup_high`; None where there is none."""
    found = [record.get(key) for key in ("speedup", "speedup_low", "speedup_high")]
    return None if None in found else Speedup(*found)


@dataclass(frozen=True)
class Latency:
    """The time one network takes for a batch.

    Attributes:
        median_ms: median over the rounds, in milliseconds.
        p10_ms: tenth percentile.
        p90_ms: ninetieth percentile.
        fps: images a second at the median.
        pixels_per_second: input pixels a second at the median.
        precision: type the network computes in; with mixed precision the smaller one.
        memory_format: of the weights and the input.
        speedup: times faster than the first network; see `bench.measure.latency.paired_interval`; None for the first.
        speedup_low: lower end of its 95 % interval.
        speedup_high: upper end of its 95 % interval.
        times_ms: what each round took, in their order, in milliseconds to the microsecond.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    fps: float
    pixels_per_second: float
    precision: str
    memory_format: str
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    times_ms: tuple[float, ...] = ()

    def speedup_text(self) -> str:
        """The speed-up with its interval; says so where nothing can be told."""
        return str(speedup_in(vars(self)) or "-")


@dataclass(frozen=True)
class LatencyReport:
    """The latencies of networks timed together, and under which conditions.

    Attributes:
        networks: name -> latency, in the order given; the first is what the others are compared with.
        input_size: (height, width) in pixels.
        batch: images a pass.
        rounds: timed passes of each network.
        warmup: untimed passes of each network before them.
        device: name of the processor or GPU.
        threads: CPU threads torch computes with.
        mode: how the networks were timed.
        throughput: the same in larger batches, if that was asked for.
    """

    networks: dict[str, Latency]
    input_size: tuple[int, int]
    batch: int
    rounds: int
    warmup: int
    device: str
    threads: int
    mode: LatencyMode = PLAIN_MODE
    throughput: LatencyReport | None = None

    @property
    def memory_formats(self) -> list[str]:
        """Those of the networks: one, but in files of the time when each was timed in that of its own file."""
        return list(dict.fromkeys(network.memory_format for network in self.networks.values()))

    @property
    def precisions(self) -> list[str]:
        """The types that the networks compute in, each once."""
        return list(dict.fromkeys(network.precision for network in self.networks.values()))

    @property
    def ratios(self) -> dict[str, float]:
        """Name -> how many times faster than the first network, which is 1; of the paired rounds, not the medians."""
        return {name: network.speedup or 1.0 for name, network in self.networks.items()}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> LatencyReport:
        """Reads back what a file says of latencies.

        Example:
            report = LatencyReport.of_record(read_json("report.json")["latency"])
            print(report.networks["candidate"].speedup_text())

        Args:
            record: a report as plain data. The first files do not say the mode, nor the single times; later ones say
                of networks that were channels last by themselves that the mode was not.
        """
        networks = {
            name: Latency(**{**found, "times_ms": tuple(found.get("times_ms", ()))})
            for name, found in record["networks"].items()
        }
        throughput = record.get("throughput")
        mode = LatencyMode(**record["mode"]) if "mode" in record else PLAIN_MODE
        if {network.memory_format for network in networks.values()} == {"channels_last"}:
            mode = replace(mode, channels_last=True)
        return cls(
            networks,
            tuple(record["input_size"]),
            *(record[key] for key in ("batch", "rounds", "warmup", "device", "threads")),
            mode=mode,
            throughput=cls.of_record(throughput) if throughput else None,
        )
