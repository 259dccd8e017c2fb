"""Int8 files: near to the float one, smaller, and what they say of their network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_onnx import chain, facts_for, noise, write_chain

from bench.errors import BenchError
from bench.export.int8_file import write_int8
from bench.export.onnx_file import OnnxNetwork
from bench.export.onnx_module import OnnxModule
from bench.system.extras import extra

IMAGES = noise(4, 3, 24, 32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_chain(tmp_path / "float.onnx", chain(width=32), facts_for())


def weights_of(path: Path) -> dict[str, str]:
    """Name of each convolution -> the type its weights are stored in."""
    onnx = extra("onnx", "a test")
    graph = onnx.load(path).graph
    stored = {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in graph.initializer}
    made_of = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    convolutions = (node for node in graph.node if node.op_type == "Conv")
    return {node.name: stored[made_of.get(node.input[1], node.input[1])] for node in convolutions}


def test_an_int8_file_is_close_smaller_and_says_the_same(source: Path, tmp_path: Path) -> None:
    write_int8(source, tmp_path / "int8.onnx", [IMAGES[:2], IMAGES[2:]])
    exact, rough = OnnxNetwork(source), OnnxNetwork(tmp_path / "int8.onnx")
    assert rough.facts == exact.facts == facts_for()
    # A size and a batch that no range was found on.
    for images in (IMAGES, noise(1, 3, 17, 41)):
        expected, found = exact(images), OnnxModule(rough)(images)
        assert found.shape == expected.shape
        assert 0 < (found - expected).abs().mean() < 0.1 * expected.abs().mean()
    assert set(weights_of(tmp_path / "int8.onnx").values()) == {"INT8"}
    assert (tmp_path / "int8.onnx").stat().st_size < 0.5 * source.stat().st_size
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_weights_have_seven_bits_and_a_scale_a_channel(source: Path, tmp_path: Path) -> None:
    onnx = extra("onnx", "a test")
    write_int8(source, tmp_path / "int8.onnx", [IMAGES])
    graph = onnx.load(tmp_path / "int8.onnx").graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name: array for name, array in arrays.items() if array.ndim == 4}
    assert len(weights) == 4
    for name, array in weights.items():
        assert 60 <= abs(array.astype(int)).max() <= 64, name
    assert sorted(array.size for name, array in arrays.items() if "weight" in name and "scale" in name) == [
        12,
        32,
        32,
        32,
    ]


def test_the_ends_stay_in_float_if_asked(source: Path, tmp_path: Path) -> None:
    write_int8(source, tmp_path / "int8.onnx", [IMAGES], float_ends=True)
    assert weights_of(tmp_path / "int8.onnx") == {
        "conv_0": "FLOAT",
        "conv_2": "INT8",
        "conv_4": "INT8",
        "conv_6": "FLOAT",
    }


def test_what_cannot_be_quantised_is_one_line_and_no_file(source: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"float\.onnx cannot be quantised by onnxruntime: ") as caught:
        write_int8(source, tmp_path / "int8.onnx", [torch.zeros(1, 2, 24, 32)])
    assert "\n" not in str(caught.value)
    with pytest.raises(BenchError, match="cannot write"):
        write_int8(source, tmp_path / "no folder" / "int8.onnx", [IMAGES])
    assert [path.name for path in tmp_path.iterdir()] == ["float.onnx"]
