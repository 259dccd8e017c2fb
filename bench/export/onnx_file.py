"""ONNX files: written by torch's exporter, run by onnxruntime."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from bench.errors import BenchError, DamagedFile, first_line
from bench.export.facts import KEY, Facts
from bench.system.extras import extra, without_remarks
from bench.system.files import whole_file

OPSET = 20
"""The version of ONNX's operators: the first that has GELU as one of them, which onnxruntime knows since 1.17."""

_AXES = {0: "batch", 2: "height", 3: "width"}


def write_onnx(path: Path | str, program: ExportedProgram, facts: Facts, *, opset: int = OPSET) -> None:
    """Writes an ONNX file: input `images` float32 [batch, channels, height, width], output `logits`.

        >>> write_onnx("network.onnx", exported(saved.model, facts.input_size, fixed=False), facts)
        >>> OnnxNetwork("network.onnx")(torch.zeros(1, 3, 96, 128)).shape
        torch.Size([1, 12, 96, 128])

    Args:
        path: the file.
        program: what `bench.export.program.exported` made of the network; left as it is.
        facts: go into its meta data.
        opset: version of ONNX's operators.

    Raises:
        BenchError: a package is missing, ONNX has no such operator, or the file cannot be written.
    """
    for package in ("onnx", "onnxscript"):
        extra(package, "an ONNX file")
    try:
        with without_remarks():
            written = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=["images"],
                output_names=["logits"],
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        raise BenchError(f"{facts.model} cannot be exported to ONNX: {_reason(error)}") from error
    model = written.model
    _name_axes(model)
    _forget_origins(model)
    model.metadata_props[KEY] = facts.text()
    model.producer_name = model.producer_name or "pytorch"
    with whole_file(path) as temporary:
        temporary.write_bytes(written.model_proto.SerializeToString())


class OnnxNetwork:
    """An ONNX file of a segmentation network, opened by onnxruntime on the CPU: images in, logits out.

    Attributes:
        path: the file.
        session: of onnxruntime.
        facts: what the file says of its network; None where it is none of `write_onnx`.
        input_size: (height, width) in pixels, where it takes no other; else None.
    """

    def __init__(self, path: Path | str, *, threads: int | None = None):
        """Opens a file. It is data to onnxruntime: nothing in it is unpickled, none of it is code.

        Args:
            path: the file.
            threads: that it computes with; by default as many as torch.

        Raises:
            DamagedFile: it is no ONNX file, or none of a network that maps images to logits.
            BenchError: there is none, it is newer than onnxruntime, or onnxruntime is not installed.
        """
        runtime = extra("onnxruntime", "an ONNX file")
        self.path = Path(path)
        if not self.path.is_file():
            raise BenchError(f"{path} does not exist; pass an ONNX file")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        # What goes wrong is raised; it need not be printed besides.
        options.log_severity_level = 4
        try:
            self.session = runtime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise DamagedFile(f"{path} cannot be opened by onnxruntime: {_reason(error)}", path) from error
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) != 1 or not outputs or not all(_is_maps(value) for value in (inputs[0], outputs[0])):
            raise DamagedFile(
                f"{path} is no segmentation network: it must have one input, float32 images [N, C, H, W], and give "
                "logits [N, C, H, W]",
                path,
            )
        text = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        self.facts = None if text is None else Facts.of_text(text, path)
        sides = inputs[0].shape[2:]
        self.input_size = tuple(sides) if all(isinstance(side, int) for side in sides) else None

    def __call__(self, images: Tensor) -> Tensor:
        """Images float32 [N, C, H, W] -> logits float32 [N, outputs, H, W].

        Raises:
            BenchError: they are of a size that the file does not take.
        """
        (given,) = self.session.get_inputs()
        (output, *_) = self.session.get_outputs()
        feed: dict[str, np.ndarray] = {given.name: images.contiguous().numpy()}
        try:
            return torch.from_numpy(self.session.run([output.name], feed)[0])
        except Exception as error:
            raise BenchError(f"{self.path} does not run on images {list(images.shape)}: {_reason(error)}") from error


def _is_maps(value: Any) -> bool:
    return value.type == "tensor(float)" and len(value.shape or ()) == 4


def _name_axes(model: Any) -> None:
    """Gives the open axes names that tell what they are, in place of torch's symbols, wherever these stand."""
    import onnx_ir

    (images,) = model.graph.inputs
    names = {
        str(size.value): _AXES[axis]
        for axis, size in enumerate(images.shape)
        if axis in _AXES and not isinstance(size, int)
    }
    if not names:
        return
    symbols = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    values = [*model.graph.inputs, *(output for node in model.graph.all_nodes() for output in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = onnx_ir.Shape(
                size if isinstance(size, int) else size.value and symbols.sub(lambda s: names[s[0]], str(size.value))
                for size in value.shape
            )


def _forget_origins(model: Any) -> None:
    """Takes off what the exporter notes of each operator: lines of code and names of files on this machine."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()


def _reason(error: BaseException) -> str:
    """The line of an error that says why: exporters put it behind an introduction, onnxruntime behind its codes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", first_line(error))
