"""Static int8 quantisation of an ONNX file by onnxruntime: for networks that were trained, dense or pruned."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.errors import BenchError, first_line
from bench.system.extras import extra, without_remarks
from bench.system.files import whole_file

# What has weights that become int8.
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def write_int8(source: Path, path: Path, images: Iterable[Tensor], *, float_ends: bool = False) -> None:
    """Writes an int8 copy of an ONNX file, with the same input and output in float32, and what the file says of itself.

    Weights are int8 and symmetric, one scale a channel; activations are uint8, their ranges the smallest and largest
    values on the images. Operators stand between pairs of QuantizeLinear and DequantizeLinear (QDQ), so that any
    runtime of ONNX computes the same; what it has no int8 kernel for runs in float. Weights have 7 bits: on x86
    processors without VNNI products of 8 bits are added in 16 and overflow.

        >>> write_int8(Path("network.onnx"), Path("int8.onnx"), [images])
        >>> OnnxNetwork("int8.onnx")(images).shape
        torch.Size([2, 12, 96, 128])

    Args:
        source: the float file, as `bench.export.onnx_file.write_onnx` writes it.
        path: the file to write.
        images: batches as the network takes them, float32 [N, C, H, W]; at least one.
        float_ends: leave the first and the last layer with weights in float.

    Raises:
        BenchError: a package is missing, onnxruntime cannot quantise the file, or the copy cannot be written.
    """
    onnx, quantization = extra("onnx", "int8"), extra("onnxruntime.quantization", "int8")
    graph = onnx.load(source, load_external_data=False).graph
    layers = [node.name for node in graph.node if node.op_type in _LAYERS]
    name = graph.input[0].name
    with whole_file(path) as temporary, without_remarks():
        try:
            quantization.quantize_static(
                str(source),
                str(temporary),
                _reader(quantization, ({name: batch.contiguous().numpy()} for batch in images)),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=[layers[0], layers[-1]] if float_ends and layers else [],
            )
        except OSError:
            raise
        except Exception as error:
            reason = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", first_line(error))
            raise BenchError(f"{source} cannot be quantised by onnxruntime: {reason}") from error


def _reader(quantization: Any, feeds: Iterable[dict[str, Any]]) -> Any:
    """The images as onnxruntime reads them, one batch after the other."""

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    return Reader()
