"""How long networks take: timed side by side in one process, compared round by round.

A machine's speed drifts by more than most speed-ups, so networks are not timed one after the other. Each
round runs every network once, and a speed-up is the median of the ratios within the rounds, with a bootstrap
interval. A pass is faster or slower by what ran before it (caches, allocator), so the order is drawn anew for
every second round and turned around in the next.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.console import progress
from bench.modes import flags_kept
from bench.options import MeasureOptions
from bench.runs import provenance

MIN_ROUNDS = 10
MIN_WARMUP = 3
# Share of the time budget that warm-up may use: 30 passes of a large network on a CPU last minutes.
WARMUP_SHARE = 0.2
RESAMPLES = 4000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Latency:
    """The time one network takes for a batch.

    Attributes:
        median_ms: median over the rounds, in milliseconds.
        p10_ms: tenth percentile.
        p90_ms: ninetieth percentile.
        fps: images a second at the median.
        pixels_per_second: input pixels a second at the median.
        precision: type the network computes in.
        memory_format: of the weights and the input.
        speedup: times faster than the first network, the median of the paired ratios; None for the first.
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
        return speedup_text(self.speedup, self.speedup_low, self.speedup_high)


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
    """

    networks: dict[str, Latency]
    input_size: tuple[int, int]
    batch: int
    rounds: int
    warmup: int
    device: str
    threads: int

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)


def time_networks(
    networks: dict[str, nn.Module],
    input_size: tuple[int, int],
    *,
    device: torch.device | str,
    batch: int = 1,
    options: MeasureOptions,
) -> LatencyReport:
    """Times networks against each other on a fixed random input.

    Args:
        networks: name -> network, already on the device; the first is the reference.
        input_size: (height, width) in pixels.
        device: where they are.
        batch: images a pass.
        options: warm-up passes, timed rounds and the time limit, which is kept at the price of rounds, but
            never below ten.
    """
    device = torch.device(device)
    images = torch.rand(batch, 3, *input_size, generator=torch.Generator().manual_seed(0)).to(device)
    inputs = {
        name: images.to(_precision(model), memory_format=_memory_format(model)) for name, model in networks.items()
    }
    time_pass = _time_on_cuda if device.type == "cuda" else _time_on_cpu
    times: dict[str, list[float]] = {name: [] for name in networks}

    def run_once(name: str) -> float:
        return time_pass(networks[name], inputs[name])

    everything = nn.ModuleList(networks.values())
    with torch.inference_mode(), flags_kept(everything):
        everything.eval()
        warmup = 0
        for _ in _rounds(options.latency_warmup, MIN_WARMUP, WARMUP_SHARE * options.latency_seconds):
            warmup += 1
            for name in networks:
                run_once(name)
        wanted = max(options.latency_runs, MIN_ROUNDS)
        order = list(networks)
        shuffle = random.Random(0).shuffle
        for done in progress(_rounds(wanted, MIN_ROUNDS, options.latency_seconds), "timing", total=wanted):
            if done % 2 == 0:
                shuffle(order)
            else:
                order.reverse()
            for name in order:
                times[name].append(run_once(name))

    reference = np.array(next(iter(times.values())))
    pixels = input_size[0] * input_size[1]
    latencies = {}
    for position, (name, model) in enumerate(networks.items()):
        p10, median, p90 = np.percentile(times[name], (10, 50, 90)).tolist()
        fps = 1000 * batch / median
        speedup = paired_interval(reference / np.array(times[name])) if position else (None, None, None)
        how = (_precision_text(model, device), _format_text(model))
        rounded = tuple(round(passed, 3) for passed in times[name])
        latencies[name] = Latency(median, p10, p90, fps, fps * pixels, *how, *speedup, times_ms=rounded)
    name, threads = device_name(device), torch.get_num_threads()
    return LatencyReport(latencies, tuple(input_size), batch, len(reference), warmup, name, threads)


def device_name(device: torch.device) -> str:
    """What the processor or GPU is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else provenance()["processor"]


def paired_interval(ratios: np.ndarray) -> tuple[float, float, float]:
    """Median of paired ratios and its bootstrap 95 % interval (percentiles, fixed seed).

    Args:
        ratios: [R], one a round.

    Returns:
        The median, the lower and the upper end.
    """
    chosen = np.random.default_rng(0).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    medians = np.median(ratios[chosen], axis=1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(medians, (tail, 100 - tail)).tolist()
    return float(np.median(ratios)), low, high


def speedup_text(speedup: float | None, low: float | None, high: float | None) -> str:
    """A speed-up with its interval; an interval that contains 1 is no speed-up, and the text says so."""
    if speedup is None or low is None or high is None:
        return "-"
    interval = f"({low:.2f}-{high:.2f})"
    if low <= 1 <= high:
        return f"no measurable difference {interval}"
    return f"{speedup:.2f}x {interval}"


def _rounds(wanted: int, least: int, seconds: float) -> Iterator[int]:
    """Counts up to `wanted`, or until the time is up, but then not below `least`."""
    deadline = time.perf_counter() + seconds
    for done in range(wanted):
        if done >= least and time.perf_counter() > deadline:
            return
        yield done


def _time_on_cpu(model: nn.Module, images: Tensor) -> float:
    start = time.perf_counter()
    model(images)
    return 1000 * (time.perf_counter() - start)


def _time_on_cuda(model: nn.Module, images: Tensor) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    model(images)
    end.record()
    # Waiting after each pass keeps passes from overlapping: a latency, not a throughput of the queue.
    end.synchronize()
    return start.elapsed_time(end)


def _precision(model: nn.Module) -> torch.dtype:
    return next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), torch.float32)


def _precision_text(model: nn.Module, device: torch.device) -> str:
    text = str(_precision(model)).removeprefix("torch.")
    if device.type == "cuda" and text == "float32" and torch.backends.cudnn.allow_tf32:
        return "float32 (TF32 convolutions)"
    return text


def _memory_format(model: nn.Module) -> torch.memory_format:
    # A 1x1 convolution's weight is contiguous in both formats and says nothing.
    for tensor in model.parameters():
        if tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
    return torch.contiguous_format


def _format_text(model: nn.Module) -> str:
    return "channels_last" if _memory_format(model) is torch.channels_last else "contiguous"
