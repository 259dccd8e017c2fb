"""ONNX files made by hand of small chains of layers, so that no exporter has to be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.export.facts import KEY, Facts


def chain(outputs: int = 12, width: int = 8) -> nn.Sequential:
    """Four convolutions, in evaluation mode."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, outputs, 1),
    ).eval()


def write_chain(path: Path, layers: nn.Sequential, facts: Facts | None = None) -> Path:
    """Writes convolutions and ReLUs as an ONNX file of any batch and size; skips where a package is missing."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, numpy_helper, kind = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
    nodes, tensors, value = [], [], "images"
    for number, layer in enumerate(layers):
        result = "logits" if number == len(layers) - 1 else f"value_{number}"
        if isinstance(layer, nn.ReLU):
            nodes.append(helper.make_node("Relu", [value], [result], name=f"relu_{number}"))
        else:
            inputs = [value, f"weight_{number}", f"bias_{number}"]
            pads = [*layer.padding, *layer.padding]
            nodes.append(helper.make_node("Conv", inputs, [result], name=f"conv_{number}", pads=pads))
            for name, tensor in zip(inputs[1:], (layer.weight, layer.bias), strict=True):
                tensors.append(numpy_helper.from_array(tensor.detach().numpy(), name))
        value = result
    outputs = [layer for layer in layers if isinstance(layer, nn.Conv2d)][-1].out_channels
    ends = [
        helper.make_tensor_value_info(name, kind, ["batch", channels, "height", "width"])
        for name, channels in (("images", 3), ("logits", outputs))
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if facts is not None:
        helper.set_model_props(model, {KEY: facts.text()})
    onnx.save(model, path)
    return path


def facts_for(outputs: int = 12) -> Facts:
    """Of a network for CamVid's classes, at 24x32."""
    from bench.datasets.camvid import CamVid

    colours = (*CamVid.classes.palette, (0, 0, 0))[:outputs]
    return Facts("chain", outputs, CamVid.classes.names, colours, (24, 32), (0.4, 0.5, 0.6), (0.2, 0.3, 0.1))


def noise(*shape: int) -> torch.Tensor:
    """The same images every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))
