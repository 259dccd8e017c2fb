"""The README of an export folder: what the files are, and the lines that load, preprocess and predict."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.config.values import size_text
from bench.export.facts import Facts
from bench.export.formats import FORMATS

CLASSES = "classes.json"
"""The file beside it with classes, colours and how images look, as JSON."""

_PIXELS = (
    'pixels = (np.asarray(image.resize(({width}, {height}), Image.BILINEAR)) / 255 - facts["mean"]) / facts["std"]'
)
_ARRAY = 'pixels.transpose(2, 0, 1)[None].astype("float32")'

# Module, the line that loads, the line that predicts.
_LINES = {
    "onnx": (
        "onnxruntime",
        'network = onnxruntime.InferenceSession("network.onnx")',
        'ids = network.run(None, {"images": ' + _ARRAY + "})[0].argmax(1)[0]",
    ),
    "torch-export": (
        "torch",
        'network = torch.export.load("network.pt2").module()',
        f"ids = network(torch.from_numpy({_ARRAY})).argmax(1)[0].numpy()",
    ),
    "torchscript": (
        "torch",
        'network = torch.jit.load("network.torchscript")',
        f"ids = network(torch.from_numpy({_ARRAY})).argmax(1)[0].numpy()",
    ),
    "openvino": (
        "openvino",
        'network = openvino.Core().compile_model("network.xml", "CPU")',
        f"ids = network({_ARRAY})[0].argmax(1)[0]",
    ),
}

_RUNS = """## {format}

```python
import json

import numpy as np
import {module}
from PIL import Image

facts = json.load(open("classes.json"))
image = Image.open("street.png").convert("RGB")

{load}
{preprocess}
{predict}

Image.fromarray(np.array(facts["colours"], "uint8")[ids]).resize(image.size, Image.NEAREST).save("segmented.png")
```
"""

_TENSORS = """## safetensors

```python
from safetensors import safe_open

with safe_open("network.safetensors", "pt") as file:
    tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
```

`header` says in JSON how the network is built (`model`), which channels pruning left (`channels`), and its `classes`.
The project that wrote the file opens it like any of its checkpoints: `bench.load("network.safetensors")`.
"""

_TRUST = """
`torch.export.load` may unpickle what a file holds, and what is pickled may run code: open a `.pt2` file only if you
trust whoever wrote it. That cannot happen with ONNX and safetensors files.
"""


def readme(facts: Facts, formats: Sequence[str], *, fixed: bool, opset: int) -> str:
    """The text, in Markdown.

    Args:
        facts: what is known of the network.
        formats: of the files in the folder.
        fixed: whether they take images of one size alone.
        opset: version of ONNX's operators.
    """
    lines = [
        f"# {facts.model.rpartition(':')[2]}: a segmentation network",
        "",
        f"Images are float32 [N, {facts.input_channels}, H, W], {_size(facts, formats, fixed)}, "
        f"{'red first, ' if facts.input_channels == 3 else ''}their values in 0 to 1, then minus {list(facts.mean)} "
        f"over {list(facts.std)}. The network gives logits [N, {facts.outputs}, H, W]; the largest tells the class.",
        "",
        "| file | |",
        "| :-- | :-- |",
        *(f"| `{FORMATS[name].file}` | {_told(name, opset)} |" for name in formats),
        f"| `{CLASSES}` | names and colours of the classes, input size, mean and deviation |",
        "| `export.json` | what it was made of, and how near to the network it was |",
        "",
        "| output | class | colour |",
        "| --: | :-- | :-- |",
        *(f"| {number} | {_name(facts, number)} | {list(facts.colours[number])} |" for number in range(facts.outputs)),
        "",
    ]
    text = "\n".join(lines) + "\n"
    height, width = facts.input_size
    # What pictures of other than three channels look like nobody knows here.
    shown = [name for name in formats if name in _LINES] if facts.input_channels == 3 else []
    text += "\n".join(
        _RUNS.format(
            format=name,
            module=module,
            load=load,
            preprocess=_PIXELS.format(height=height, width=width),
            predict=predict,
        )
        for name, (module, load, predict) in ((name, _LINES[name]) for name in shown)
    )
    if "safetensors" in formats:
        text += "\n" * bool(shown) + _TENSORS
    return text + _TRUST * ("torch-export" in formats)


def _size(facts: Facts, formats: Sequence[str], fixed: bool) -> str:
    size = size_text(facts.input_size)
    if fixed:
        return f"of {size} pixels"
    always = [FORMATS[name].file for name in formats if FORMATS[name].always_fixed]
    return f"of any size (trained at {size}" + (f"; `{always[0]}` takes that alone)" if always else ")")


def _told(name: str, opset: int) -> str:
    if name == "onnx":
        return f"ONNX, opset {opset}"
    return f"{name}, by torch {torch.__version__}" if _LINES.get(name, "")[:1] == ("torch",) else name


def _name(facts: Facts, number: int) -> str:
    if number < len(facts.classes):
        return facts.classes[number]
    return "not scored" if facts.classes else "-"
