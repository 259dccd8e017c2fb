"""How long each operator of an ONNX file takes, by onnxruntime's own profiler; of several files by turns."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bench.errors import BenchError
from bench.system.console import progress
from bench.system.extras import extra

# What onnxruntime appends to the name of a node that it runs in a layout of its own, and to all names in a profile.
_LAYOUT, _EVENT = "_nchwc", "_kernel_time"


@dataclass(frozen=True)
class OperatorTime:
    """One operator of a file, as onnxruntime runs it, with what it has fused into it.

    Attributes:
        name: of its result, the same in all files of one architecture.
        kind: such as `Conv`; `ReorderInput` and `ReorderOutput` change the layout for others.
        ms: median over the passes, in milliseconds.
        parameter_bytes: of its weights.
    """

    name: str
    kind: str
    ms: float
    parameter_bytes: int


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
            name: _read(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))
            for name, session in sessions.items()
        }


_WARMUP = 3


def _read(events: Sequence[Mapping]) -> list[OperatorTime]:
    times: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_EVENT):
            name = event["name"].removesuffix(_EVENT).removesuffix(_LAYOUT)
            found = event["args"]
            times[name, found["op_name"], int(found.get("parameter_size", 0))].append(event["dur"] / 1000)
    return [OperatorTime(*key[:2], statistics.median(spent[_WARMUP:]), key[2]) for key, spent in times.items()]
