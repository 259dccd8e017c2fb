"""Saved networks: plain tensors and plain data, loadable with `torch.load(weights_only=True)`.

A file is `{"format", "model": {name, outputs, kwargs}, "channels", "state_dict", "meta"}`. A pruned network
is rebuilt by making the dense one and narrowing its layers to the saved shapes. A plain state dict (also
inside `{"state_dict": ...}` or `{"model": ...}`) of a dense network opens too, when the caller says which
network it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.channels.layer_axes import adopt_shapes
from bench.errors import BenchError
from bench.models import ModelSpec, build_model, check_model
from bench.models.state_dict_file import as_state_dict, fitting_tensors, read_file, write_file
from bench.system.files import plain

FORMAT = "segmentation-pruning-bench/1"

Channels = dict[str, list[int]]
"""Group name -> the channels of the dense network that were kept; a group not named is whole."""


@dataclass
class SavedModel:
    """A network read from a file.

    Attributes:
        model: the network in evaluation mode.
        spec: how its dense form is built.
        channels: what pruning kept; empty for a dense network.
        meta: how it came about (plain data).
        state: training state (optimizer, epoch, ...) of a `last.pt`, else empty.
    """

    model: nn.Module
    spec: ModelSpec
    channels: Channels = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)


def save_model(path: Path | str, saved: SavedModel) -> None:
    """Writes a network, dense or pruned, with what it takes to open it again; in one piece or not at all.

        >>> save_model("network.pt", SavedModel(model, ModelSpec("unet_small", outputs=12), meta={"epochs": 0}))
        >>> load_model("network.pt").meta
        {'epochs': 0}

    Raises:
        BenchError: the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "model": {"name": saved.spec.name, "outputs": saved.spec.outputs, "kwargs": plain(saved.spec.kwargs)},
        "channels": plain(saved.channels),
        "state_dict": {name: tensor.detach().cpu() for name, tensor in saved.model.state_dict().items()},
        "meta": plain(saved.meta),
    }
    if saved.state:
        content["state"] = saved.state
    write_file(path, content)


def load_model(path: Path | str, *, name: str | None = None, outputs: int | None = None) -> SavedModel:
    """Opens a dense, pruned or fine-tuned network on the CPU.

        >>> save_model("network.pt", SavedModel(model, ModelSpec("unet_small", outputs=12)))
        >>> saved = load_model("network.pt", name="unet_small")
        >>> saved.spec.outputs, saved.channels, saved.model.training
        (12, {}, False)

    Args:
        path: the file.
        name: the network the caller expects; required for a plain state dict.
        outputs: the number of outputs the caller expects; required for a plain state dict.

    Raises:
        UsageError: no network is called `name`.
        BenchError: missing, truncated or foreign file; another network or class count than expected; a
            tensor that does not fit, named.
    """
    if name is not None:
        check_model(name)
    content = read_file(path)
    if "format" not in content:
        return _open_plain(path, content, name, outputs)
    if content["format"] != FORMAT:
        raise BenchError(f"{path} has format '{content['format']}'; this version reads '{FORMAT}'")
    spec = ModelSpec(**content["model"])
    if name is not None and spec.name != name:
        raise BenchError(f"{path} holds a {spec.name}, not a {name}; pass `model={spec.name}` or another file")
    if outputs is not None and spec.outputs != outputs:
        raise BenchError(
            f"{path} has {spec.outputs} outputs, the data set needs {outputs}; use a checkpoint trained on it"
        )
    model = _rebuild(path, spec, content["state_dict"], narrowed=bool(content["channels"]))
    return SavedModel(model, spec, content["channels"], content["meta"], content.get("state", {}))


def _open_plain(path: Path | str, content: dict[str, Any], name: str | None, outputs: int | None) -> SavedModel:
    weights = as_state_dict(path, content)
    if name is None or outputs is None:
        raise BenchError(f"{path} is a plain state_dict; say with `model` which network it belongs to")
    spec = ModelSpec(name, outputs)
    return SavedModel(_rebuild(path, spec, weights, narrowed=False), spec)


def _rebuild(path: Path | str, spec: ModelSpec, weights: Mapping[str, Tensor], *, narrowed: bool) -> nn.Module:
    # On the meta device no weight is initialised only to be overwritten.
    with torch.device("meta"):
        model = build_model(spec)
    if narrowed:
        adopt_shapes(model, {key: tuple(tensor.shape) for key, tensor in weights.items()})
    weights = fitting_tensors(weights, model.state_dict(), where=f"{path} does not fit {spec.name}")
    model.load_state_dict(weights, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()
