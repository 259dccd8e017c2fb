"""Counts and times each convolution and linear layer of a network, before and after pruning."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from bench.channels.layer_axes import WEIGHTED
from bench.measure.cost import layer_macs
from bench.measure.latency import Effort, input_batch, interleaved, warm_up
from bench.measure.latency_mode import LatencyMode
from bench.torch_utils.contexts import autocast, flags_kept
from bench.torch_utils.hooks import inputs_seen, outputs_seen


@dataclass(frozen=True)
class LayerCost:
    """One layer of the baseline and, if there is one, of the candidate, whose values are None otherwise.

    Attributes:
        layer: its name.
        kind: its type, such as `Conv2d`.
        weight_before: shape of the baseline's weight.
        weight_after: shape of the candidate's.
        macs_before: multiply-accumulates for one image.
        macs_after: of the candidate's.
        ms_before: milliseconds for one image, the median over the rounds; what a layer does in several calls adds up.
        ms_after: of the candidate's.
    """

    layer: str
    kind: str
    weight_before: list[int]
    weight_after: list[int] | None
    macs_before: int
    macs_after: int | None
    ms_before: float
    ms_after: float | None


def measure_layers(
    baseline: nn.Module,
    candidate: nn.Module | None,
    input_size: tuple[int, int],
    *,
    device: torch.device,
    mode: LatencyMode,
    effort: Effort,
) -> list[LayerCost]:
    """Counts and times the layers that an image passes, both networks by turns.

    The times are those of the layers' own calls in whole forward passes; waiting for each layer, as a GPU is made to,
    takes more time than a pass that does not.

    Args:
        baseline: a network on the device.
        candidate: the same network with fewer channels, likewise.
        input_size: (height, width) in pixels.
        device: where they are.
        mode: precision and memory format; compiled networks have no layers to time.
        effort: warm-up passes, timed rounds and the time limit.

    Returns:
        One a layer, in the order of the network's modules.
    """
    networks = {"before": baseline} if candidate is None else {"before": baseline, "after": candidate}
    times = _layer_times(networks, input_size, device, mode, effort)
    sides = {
        name: {
            layer: (list(model.get_submodule(layer).weight.shape), macs, statistics.median(times[name][layer]))
            for layer, macs in layer_macs(model, input_size).items()
        }
        for name, model in networks.items()
    }
    rows = []
    for layer, (weight, macs, ms) in sides["before"].items():
        after = sides["after"][layer] if candidate is not None else (None, None, None)
        kind = type(baseline.get_submodule(layer)).__name__
        rows.append(LayerCost(layer, kind, weight, after[0], macs, after[1], ms, after[2]))
    return rows


def _layer_times(
    networks: Mapping[str, nn.Module],
    input_size: tuple[int, int],
    device: torch.device,
    mode: LatencyMode,
    effort: Effort,
) -> dict[str, dict[str, list[float]]]:
    """Name of a network -> layer -> milliseconds in each round."""
    times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in networks}
    with flags_kept(nn.ModuleList(networks.values())):
        ready = {name: mode.applied_to(model.eval()) for name, model in networks.items()}
        inputs = {name: input_batch(model, input_size, 1, device, mode) for name, model in ready.items()}

        def run_once(name: str) -> dict[str, float]:
            with autocast(device, mode.amp), _timed_layers(ready[name], device) as spent:
                ready[name](inputs[name])
            return spent

        with torch.inference_mode():
            warm_up(run_once, list(networks), effort)
            for order in interleaved(list(networks), effort.runs, effort.seconds):
                for name in order:
                    for layer, ms in run_once(name).items():
                        times[name][layer].append(ms)
    return times


@contextlib.contextmanager
def _timed_layers(model: nn.Module, device: torch.device) -> Iterator[dict[str, float]]:
    """Gives the milliseconds that each layer's calls in the block take, by its name."""
    spent: dict[str, float] = defaultdict(float)
    started: dict[str, float] = {}

    def start(name: str, _inputs: object) -> None:
        started[name] = now(device)

    def stop(name: str, _output: object) -> None:
        spent[name] += now(device) - started[name]

    names = [name for name, layer in model.named_modules() if isinstance(layer, WEIGHTED)]
    with inputs_seen(model, names, start), outputs_seen(model, names, stop):
        yield spent


def now(device: torch.device) -> float:
    """Milliseconds; on a GPU once it has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * time.perf_counter()
