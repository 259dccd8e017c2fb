"""The formats: how each is written, and how its file is run again."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.export import ExportedProgram

from bench.export.facts import Facts
from bench.export.onnx_file import OPSET, OnnxNetwork, write_onnx
from bench.export.openvino_file import OpenvinoNetwork, write_openvino
from bench.export.program import exported
from bench.export.torchscript_file import write_torchscript
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.models.own_network import name_factory
from bench.system.extras import extra, without_remarks
from bench.system.files import whole_file

Network = Callable[[Tensor], Tensor]
"""Images float32 [N, C, H, W] -> logits [N, outputs, H, W]."""


@dataclass
class Source:
    """A network that is exported, and how.

    Attributes:
        saved: the network, in evaluation mode on the CPU.
        facts: what is known of it.
        fixed: whether its files take images of `facts.input_size` alone.
        opset: version of ONNX's operators.
    """

    saved: SavedModel
    facts: Facts
    fixed: bool = False
    opset: int = OPSET

    @functools.cached_property
    def program(self) -> ExportedProgram:
        """The network as torch's exporter sees it; made once, for all formats that begin with it."""
        return exported(self.saved.model, self.facts.input_size, fixed=self.fixed)


class Format(NamedTuple):
    """One format.

    Attributes:
        file: name of its file in the folder.
        write: writes the file, and what belongs to it beside it.
        open: runs the file again.
        packages: that it needs beside torch.
        beside: further files that belong to it.
        always_fixed: whether it takes images of one size in any case.
    """

    file: str
    write: Callable[[Path, Source], None]
    open: Callable[[Path, Source], Network]
    packages: Sequence[str] = ()
    beside: Sequence[str] = ()
    always_fixed: bool = False


def _write_onnx(path: Path, source: Source) -> None:
    write_onnx(path, source.program, source.facts, opset=source.opset)


def _open_onnx(path: Path, source: Source) -> Network:
    return OnnxNetwork(path)


def _write_program(path: Path, source: Source) -> None:
    buffer = io.BytesIO()
    with without_remarks():
        torch.export.save(source.program, buffer)
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _open_program(path: Path, source: Source) -> Network:
    # Such a file may hold pickles; this one was written a moment ago, and no other is opened here.
    with without_remarks():
        return torch.export.load(path).module()


def _write_torchscript(path: Path, source: Source) -> None:
    write_torchscript(path, source.saved.model, source.facts)


def _open_torchscript(path: Path, source: Source) -> Network:
    with without_remarks(), path.open("rb") as file:
        return torch.jit.load(io.BytesIO(file.read()))


def _write_safetensors(path: Path, source: Source) -> None:
    saved = source.saved
    save_model(path, SavedModel(saved.model, saved.spec, saved.channels, saved.meta))


def _open_safetensors(path: Path, source: Source) -> Network:
    name_factory(source.saved.spec.name)
    return load_model(path).model


def _write_openvino(path: Path, source: Source) -> None:
    write_openvino(path, source.program, source.facts)


def _open_openvino(path: Path, source: Source) -> Network:
    return OpenvinoNetwork(path)


FORMATS = {
    "onnx": Format("network.onnx", _write_onnx, _open_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torch-export": Format("network.pt2", _write_program, _open_program),
    "torchscript": Format("network.torchscript", _write_torchscript, _open_torchscript, always_fixed=True),
    "safetensors": Format("network.safetensors", _write_safetensors, _open_safetensors, ("safetensors",)),
    "openvino": Format("network.xml", _write_openvino, _open_openvino, ("openvino",), beside=("network.bin",)),
}
"""Name -> format."""


def check_packages(formats: Sequence[str]) -> None:
    """Raises BenchError for the first package that a format needs and that is missing."""
    for name in formats:
        for package in FORMATS[name].packages:
            extra(package, f"--format {name}")
