"""How long each operator of an ONNX file takes, by onnxruntime's own profiler; of several files by turns."""

from __future__ import annotations

import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.errors import BenchError
from bench.system.console import progress
from bench.system.extras import extra

# What onnxruntime appends to the name of a node that it runs in blocks of channels, and to all names in a profile.
_LAYOUT, _EVENT = "_nchwc", "_kernel_time"
# What has weights, and what onnxruntime may fuse into it; the result then has the name of the last of these.
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_FUSED = ("Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "Tanh", "Add")


@dataclass(frozen=True)
class OperatorTime:
    """One operator of a file, as onnxruntime runs it, with what it has fused into it.

    Attributes:
        name: of a layer with weights its own, the same in all files of one architecture; of others what the file says.
        kind: such as `Conv`, which is run in blocks of channels where their number allows it, and `FusedConv`, which is
            not; `ReorderInput` and `ReorderOutput` change between the two layouts.
        ms: what it takes undisturbed: the tenth percentile over the passes, in milliseconds.
        weights: how many; 0 of what is no layer.
    """

    name: str
    kind: str
    ms: float
    weights: int


def operator_times(
    files: Mapping[str, Path], input_size: tuple[int, int], *, runs: int = 30
) -> dict[str, list[OperatorTime]]:
    """Runs files by turns on one image and reads what the profiler noted.

    Args:
        files: name -> ONNX file of a network for images in RGB.
        input_size: (height, width) in pixels.
        runs: passes of each that count; three more come before.

    Returns:
        For each file its operators in the order in which they run.

    Raises:
        BenchError: onnxruntime is not installed, or does not open a file.
    """
    runtime = extra("onnxruntime", "the profiler")
    image = np.random.default_rng(0).random((1, 3, *input_size), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for number, (name, path) in enumerate(files.items()):
            options = runtime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 4
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder, str(number)))
            try:
                sessions[name] = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise BenchError(f"{path} cannot be opened by onnxruntime: {error}") from error
        for _ in progress(range(_WARMUP + runs), "profiling"):
            for session in sessions.values():
                session.run(None, {session.get_inputs()[0].name: image})
        return {
            name: _read(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")), _layers(files[name]))
            for name, session in sessions.items()
        }


_WARMUP = 3
# What `bench.export.program` puts before the names of a network's layers.
_WRAPPER = "network."


def _layers(path: Path) -> dict[str, tuple[str, int]]:
    """What a profile may call a layer of a file -> its name, that of its weights, and how many these are."""
    graph = extra("onnx", "the profiler").load(path, load_external_data=False).graph
    weights = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    readers = {value: node for node in graph.node for value in node.input}
    found = {}
    for node in graph.node:
        if node.op_type not in _LAYERS or node.input[1] not in weights:
            continue
        layer = (node.input[1].removeprefix(_WRAPPER).removesuffix(".weight"), weights[node.input[1]])
        found[node.name] = layer
        while node is not None:
            found[node.output[0]] = layer
            node = readers.get(node.output[0])
            node = node if node is not None and node.op_type in _FUSED else None
    return found


def _read(events: Sequence[Mapping[str, Any]], layers: Mapping[str, tuple[str, int]]) -> list[OperatorTime]:
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_EVENT):
            name = event["name"].removesuffix(_EVENT).removesuffix(_LAYOUT)
            times[name, event["args"]["op_name"]].append(event["dur"] / 1000)
    found = []
    for (name, kind), spent in times.items():
        is_layer = any(layer in kind for layer in _LAYERS)
        layer = layers.get(name, (name, 0)) if is_layer else (name, 0)
        found.append(OperatorTime(layer[0], kind, float(np.percentile(spent[_WARMUP:], 10)), layer[1]))
    return found
