"""Where a pruned network's saving is lost, and which multiple of channels pays on this machine: both measured."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.engine.any_network import prune
from bench.errors import BenchError
from bench.export.facts import Facts, facts_of
from bench.export.onnx_file import OnnxNetwork, write_onnx
from bench.export.onnx_module import OnnxModule
from bench.export.operator_times import OperatorTime, operator_times
from bench.export.program import exported
from bench.measure.cost import measure_cost
from bench.measure.latency import Effort, Rounds, device_name, input_batch, timed_rounds
from bench.measure.latency_format import faster_format
from bench.measure.latency_mode import PLAIN_MODE, LatencyMode
from bench.measure.latency_report import Speedup
from bench.models import build_model
from bench.models.checkpoint import SavedModel
from bench.system.console import say
from bench.system.extras import extra
from bench.system.files import make_folder, plain, write_json
from bench.system.provenance import provenance

FORMAT = "export-advice/1"
RECORD = "advice.json"

MULTIPLES = (1, 2, 4, 8, 16, 32)
PYTORCH, RUNTIME = "PyTorch", "onnxruntime"

SHARE = 0.5
"""Of the MACs that are kept where multiples are tried out on a network that is not pruned."""

_CPU, _CHANNELS = torch.device("cpu"), 3


def write_advice(
    path: Path | str, saved: SavedModel, effort: Effort, folder: Path | str | None, **settings: Any
) -> dict[str, Any]:
    """What `advise` found, written as `advice.json` where a folder is given."""
    if folder is not None:
        make_folder(folder)
    advice = advise(path, saved, effort, **settings)
    if folder is not None:
        write_json(Path(folder) / RECORD, advice)
    return advice


def advise(
    path: Path | str,
    saved: SavedModel,
    effort: Effort,
    *,
    input_size: tuple[int, int] | None = None,
    multiples: Sequence[int] = MULTIPLES,
) -> dict[str, Any]:
    """Times a network's operators beside those of its dense form, and that form pruned to multiples of channels.

    The dense form has new weights, and channels are chosen by the l1 norm: time does not depend on either.

    Args:
        path: the network's file, for messages.
        saved: the network, dense or pruned, on the CPU.
        effort: warm-up passes, timed rounds and the time limit.
        input_size: (height, width) in pixels; by default what the network was trained at.
        multiples: of channels that groups keep.

    Returns:
        What `advice.json` says.

    Raises:
        BenchError: a package is missing, the network cannot be exported, or its images are not RGB.
    """
    for package in ("onnxruntime", "onnx", "onnxscript"):
        extra(package, "advice")
    facts = facts_of(saved, path, input_size)
    if facts.input_channels != _CHANNELS:
        raise BenchError(f"{path} takes images of {facts.input_channels} channels; advice is for those of {_CHANNELS}")
    size = facts.input_size
    is_pruned = bool(saved.channels)
    dense = build_model(saved.spec).eval() if is_pruned else saved.model
    whole, macs = measure_cost(dense, size).macs, measure_cost(saved.model, size).macs
    share = macs / whole if is_pruned else SHARE
    with tempfile.TemporaryDirectory() as folder:
        files = {"dense": dense, **({"pruned": saved.model} if is_pruned else {})}
        paths = {name: _written(Path(folder, f"{name}.onnx"), model, facts) for name, model in files.items()}
        operators = operator_times(paths, size, runs=effort.runs)
        rows, networks = [], {(0, PYTORCH): dense, (0, RUNTIME): OnnxModule(OnnxNetwork(paths["dense"]))}
        for multiple in multiples:
            try:
                found = prune(dense, target={"macs": share}, round_to=multiple, recalibrate=False, input_size=size)
            except BenchError as error:
                say(f"multiples of {multiple} are left out: {error}")
                continue
            rows.append({"multiple": multiple, "macs_kept": found.after.macs / whole})
            networks[multiple, PYTORCH] = found.model.eval()
            onnx = _written(Path(folder, f"{multiple}.onnx"), found.model, facts)
            networks[multiple, RUNTIME] = OnnxModule(OnnxNetwork(onnx))
        mode, times = _timed(networks, facts, effort)
    for row in rows:
        for runtime in (PYTORCH, RUNTIME):
            row[runtime] = _compared(times, row["multiple"], runtime, rows[0]["multiple"])
    return plain(
        {
            "format": FORMAT,
            "model": saved.spec,
            "input_size": size,
            "macs_kept": macs / whole,
            "operators": {name: [asdict(entry) for entry in found] for name, found in operators.items()},
            "lost": [asdict(entry) | {"lost_ms": lost} for entry, lost in lost_savings(**operators)]
            if is_pruned
            else [],
            "dense_ms": {runtime: float(np.median(times.times[f"0 {runtime}"])) for runtime in (PYTORCH, RUNTIME)},
            "multiples": rows,
            "pays": {runtime: paying(rows, runtime) for runtime in (PYTORCH, RUNTIME)},
            "device": device_name(_CPU),
            "threads": torch.get_num_threads(),
            "memory_format": mode.memory_format,
            "rounds": len(times.orders),
            "engine": f"{RUNTIME} {extra('onnxruntime', 'advice').__version__}",
            "provenance": provenance(),
        }
    )


def lost_savings(dense: Sequence[OperatorTime], pruned: Sequence[OperatorTime]) -> list[tuple[OperatorTime, float]]:
    """The operators of a pruned network that take longer than their share of weights, and by how many ms, worst first.

    Of an operator whose weights went down to a third a third of its time is expected; of one without weights, and of
    one that the dense network does not have, nothing is said.

    Args:
        dense: the operators of the dense network.
        pruned: those of the pruned one.
    """
    before = {entry.name: entry for entry in dense if entry.weights}
    found = []
    for entry in pruned:
        if entry.name in before and entry.weights:
            whole = before[entry.name]
            lost = entry.ms - whole.ms * entry.weights / whole.weights
            if lost > 0:
                found.append((entry, lost))
    return sorted(found, key=lambda pair: -pair[1])


def paying(rows: Sequence[Mapping[str, Any]], runtime: str) -> int | None:
    """The multiple that is measurably faster than the first one by the most; None where none is."""
    faster = [row for row in rows if row[runtime]["versus_first"] and Speedup(*row[runtime]["versus_first"]).low > 1]
    return max(faster, key=lambda row: row[runtime]["versus_first"][0])["multiple"] if faster else None


def _compared(times: Rounds, multiple: int, runtime: str, first: int) -> dict[str, Any]:
    """Milliseconds of a multiple's network, and its speed-ups over the dense one and over the first multiple's."""
    name = f"{multiple} {runtime}"
    return {
        "median_ms": float(np.median(times.times[name])),
        "versus_dense": list(times.speedup(f"0 {runtime}", name)),
        "versus_first": None if multiple == first else list(times.speedup(f"{first} {runtime}", name)),
    }


def _written(path: Path, model: nn.Module, facts: Facts) -> Path:
    write_onnx(path, exported(model, facts.input_size, fixed=False), facts)
    return path


def _timed(networks: Mapping[tuple[int, str], nn.Module], facts: Facts, effort: Effort) -> tuple[LatencyMode, Rounds]:
    """Times all by turns, those of PyTorch in the memory format that is faster for the dense one."""
    choice = faster_format(networks[0, PYTORCH], facts.input_size, device=_CPU, mode=PLAIN_MODE, effort=effort)
    say(str(choice))
    mode = LatencyMode(channels_last=choice.channels_last)
    passes = {}
    for (multiple, runtime), model in networks.items():
        how = mode if runtime == PYTORCH else PLAIN_MODE
        images = input_batch(model, facts.input_size, 1, _CPU, how)
        passes[f"{multiple} {runtime}"] = (how.applied_to(model), images)
    return mode, timed_rounds(passes, _CPU, mode, effort)
