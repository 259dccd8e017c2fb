"""How long networks take: timed side by side in one process, compared round by round.

A machine's speed drifts by more than most speed-ups, so networks are not timed one after the other. Each
round runs every network once, and a speed-up is the median of the ratios within the rounds, with a bootstrap
interval. A pass is faster or slower by what ran before it (caches, allocator), so the order is drawn anew for
every second round and turned around in the next, and both orders weigh the same in a speed-up.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from bench.measure.latency_mode import PLAIN_MODE, LatencyMode, compilation
from bench.measure.latency_report import Latency, LatencyReport, Speedup
from bench.measure.options import TimingOptions
from bench.system.console import progress
from bench.system.provenance import provenance
from bench.torch_utils.contexts import autocast, flags_kept
from bench.torch_utils.memory_format import layout

MIN_ROUNDS = 10
MIN_WARMUP = 3
# Share of the time budget that warm-up may use: 30 passes of a large network on a CPU last minutes.
WARMUP_SHARE = 0.2
RESAMPLES = 4000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Effort:
    """How much time a measurement is worth.

    Attributes:
        warmup: untimed passes of each network.
        runs: timed rounds.
        seconds: the time limit, which is kept at the price of passes and rounds, but never below three and ten.
    """

    warmup: int
    runs: int
    seconds: float

    @classmethod
    def of(cls, options: TimingOptions) -> Effort:
        """What the options ask for."""
        return cls(options.latency_warmup, options.latency_runs, options.latency_seconds)

    def part(self, share: float) -> Effort:
        """A share of it."""
        return Effort(round(share * self.warmup), round(share * self.runs), share * self.seconds)


FULL_EFFORT = Effort.of(TimingOptions())
"""What a measurement takes unless less is asked for."""


def time_networks(
    networks: dict[str, nn.Module],
    input_size: tuple[int, int],
    *,
    device: torch.device | str,
    mode: LatencyMode = PLAIN_MODE,
    effort: Effort = FULL_EFFORT,
) -> LatencyReport:
    """Times networks against each other on a fixed random input: one image a pass and, if wanted, larger batches.

    Args:
        networks: name -> network, already on the device; the first is the reference.
        input_size: (height, width) in pixels.
        device: where they are.
        mode: precision, memory format and form, and the larger batch, if there is one.
        effort: warm-up passes, timed rounds and the time limit.

    Raises:
        BenchError: the networks cannot be compiled.
    """
    device = torch.device(device)
    with flags_kept(nn.ModuleList(networks.values())):
        ready = {name: mode.applied_to(model.eval()) for name, model in networks.items()}
        report = _time_batches(ready, input_size, 1, device, mode, effort)
        if mode.throughput_batch:
            throughput = _time_batches(ready, input_size, mode.throughput_batch, device, mode, effort)
            report = replace(report, throughput=throughput)
    return report


def _time_batches(
    networks: dict[str, nn.Module],
    input_size: tuple[int, int],
    batch: int,
    device: torch.device,
    mode: LatencyMode,
    effort: Effort,
) -> LatencyReport:
    inputs = {name: input_batch(model, input_size, batch, device, mode) for name, model in networks.items()}
    found = timed_rounds({name: (model, inputs[name]) for name, model in networks.items()}, device, mode, effort)
    first = next(iter(networks))
    pixels = input_size[0] * input_size[1]
    latencies = {}
    for name, model in networks.items():
        p10, median, p90 = np.percentile(found.times[name], (10, 50, 90)).tolist()
        fps = 1000 * batch / median
        speedup = found.speedup(first, name) if name != first else (None, None, None)
        how = (precision_text(model, device, mode.amp), mode.memory_format)
        rounded = tuple(round(passed, 3) for passed in found.times[name])
        latencies[name] = Latency(median, p10, p90, fps, fps * pixels, *how, *speedup, times_ms=rounded)
    name, threads = device_name(device), torch.get_num_threads()
    return LatencyReport(latencies, tuple(input_size), batch, len(found.orders), found.warmup, name, threads, mode)


@dataclass(frozen=True)
class Rounds:
    """What networks took, round by round.

    Attributes:
        times: name -> milliseconds in each round.
        orders: the order in which they ran in each.
        warmup: untimed passes of each before.
    """

    times: Mapping[str, Sequence[float]]
    orders: Sequence[tuple[str, ...]]
    warmup: int

    def speedup(self, reference: str, name: str) -> Speedup:
        """How many times faster a network is than another one."""
        leads = np.array([order.index(reference) < order.index(name) for order in self.orders])
        return paired_interval(np.array(self.times[reference]) / np.array(self.times[name]), leads)


def timed_rounds(
    passes: Mapping[str, tuple[nn.Module, Tensor]], device: torch.device, mode: LatencyMode, effort: Effort
) -> Rounds:
    """Runs networks by turns and notes what each pass takes.

    Args:
        passes: name -> network, ready to be timed, and its images.
        device: where both are.
        mode: precision, and whether the networks are compiled.
        effort: warm-up passes, timed rounds and the time limit.

    Raises:
        BenchError: the networks cannot be compiled.
    """
    time_pass = _time_on_cuda if device.type == "cuda" else time_on_cpu
    times: dict[str, list[float]] = {name: [] for name in passes}
    orders = []

    def run_once(name: str) -> float:
        with autocast(device, mode.amp):
            return time_pass(*passes[name])

    with torch.inference_mode():
        if mode.compiled:
            with compilation():
                for name in passes:
                    run_once(name)
        warmup = warm_up(run_once, list(passes), effort)
        for order in interleaved(list(passes), effort.runs, effort.seconds):
            orders.append(order)
            for name in order:
                times[name].append(run_once(name))
    return Rounds(times, orders, warmup)


def input_batch(
    model: nn.Module, input_size: tuple[int, int], batch: int, device: torch.device, mode: LatencyMode
) -> Tensor:
    """Random images [batch, 3, H, W], the same for every network but for its type, in the mode's memory format."""
    images = torch.rand(batch, 3, *input_size, generator=torch.Generator().manual_seed(0)).to(device)
    return images.to(_precision(model), memory_format=layout(mode.channels_last))


def warm_up(run_once: Callable[[str], object], names: Sequence[str], effort: Effort) -> int:
    """Runs networks by turns before they are timed; returns how often each ran."""
    passes = 0
    for _ in _rounds(effort.warmup, MIN_WARMUP, WARMUP_SHARE * effort.seconds):
        passes += 1
        for name in names:
            run_once(name)
    return passes


def interleaved(names: Sequence[str], runs: int, seconds: float) -> Iterator[tuple[str, ...]]:
    """Yields the order in which networks run, round by round: drawn, then the same turned around, then drawn anew.

    Args:
        names: the networks.
        runs: rounds wanted; an odd number is raised by one, a small one to ten.
        seconds: when this time is up, it ends after ten rounds or with the pair of rounds begun.
    """
    order = list(names)
    shuffle = random.Random(0).shuffle
    pairs, least = math.ceil(max(runs, MIN_ROUNDS) / 2), MIN_ROUNDS // 2
    for _ in progress(_rounds(pairs, least, seconds), "timing", total=pairs):
        shuffle(order)
        yield tuple(order)
        yield tuple(reversed(order))


def device_name(device: torch.device) -> str:
    """What the processor or GPU is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else provenance()["processor"]


def paired_interval(ratios: np.ndarray, leads: np.ndarray) -> Speedup:
    """The typical one of paired ratios and its bootstrap 95 % interval (percentiles, fixed seed).

    Typical is the geometric mean of two medians: that of the rounds in which the reference ran first, and that of the
    others. What an order adds to a ratio, the opposite one takes away; the median over all rounds would lie anywhere
    between the two, and be no more certain with more rounds. Each order is resampled on its own.

    Args:
        ratios: [R], one a round, above 0.
        leads: bool [R], whether the reference ran before the other network; as many do as do not.

    Returns:
        The typical ratio, the lower and the upper end.
    """
    orders = np.log(np.stack([ratios[leads], ratios[~leads]]))
    rounds = orders.shape[1]
    chosen = np.random.default_rng(0).integers(rounds, size=(2, RESAMPLES, rounds))
    resampled = np.take_along_axis(orders[:, None], chosen, axis=2)
    tail = 50 * (1 - CONFIDENCE)
    ends = np.percentile(np.median(resampled, axis=2).mean(axis=0), (tail, 100 - tail))
    low, high = np.exp(ends).tolist()
    return Speedup(math.exp(np.median(orders, axis=1).mean()), low, high)


def _rounds(wanted: int, least: int, seconds: float) -> Iterator[int]:
    """Counts up to `wanted`, or until the time is up, but then not below `least`."""
    deadline = time.perf_counter() + seconds
    for done in range(wanted):
        if done >= least and time.perf_counter() > deadline:
            return
        yield done


def time_on_cpu(model: nn.Module, images: Tensor) -> float:
    """Milliseconds of one pass."""
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


def precision_text(model: nn.Module, device: torch.device, amp: str) -> str:
    """The type that a network computes in, as records say it; with mixed precision the smaller one."""
    if amp != "none":
        return f"{'bfloat16' if amp == 'bf16' else 'float16'} autocast"
    text = str(_precision(model)).removeprefix("torch.")
    if device.type == "cuda" and text == "float32" and torch.backends.cudnn.allow_tf32:
        return "float32 (TF32 convolutions)"
    return text
