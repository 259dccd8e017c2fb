"""Saved networks: plain tensors and plain data, loadable with `torch.load(weights_only=True)`.

A file is `{"format", "model": {name, outputs, kwargs}, "channels", "state_dict", "meta"}`. A pruned network
is rebuilt by making the dense one and narrowing its layers to the saved shapes. A plain state dict (also
inside `{"state_dict": ...}` or `{"model": ...}`) of a dense network opens too, when the caller says which
network it is.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.layers import adopt_shapes
from bench.models import ModelSpec, build_model
from bench.runs import plain, whole_file

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
    """Writes a network in one piece."""
    content = {
        "format": FORMAT,
        "model": {"name": saved.spec.name, "outputs": saved.spec.outputs, "kwargs": plain(saved.spec.kwargs)},
        "channels": plain(saved.channels),
        "state_dict": {name: tensor.detach().cpu() for name, tensor in saved.model.state_dict().items()},
        "meta": plain(saved.meta),
    }
    if saved.state:
        content["state"] = saved.state
    with whole_file(path) as temporary:
        torch.save(content, temporary)


def load_model(path: Path | str, *, name: str | None = None, outputs: int | None = None) -> SavedModel:
    """Opens a dense, pruned or fine-tuned network on the CPU.

    Args:
        path: the file.
        name: the network the caller expects; required for a plain state dict.
        outputs: the number of outputs the caller expects; required for a plain state dict.

    Raises:
        BenchError: missing, truncated or foreign file; another network or class count than expected; a
            tensor that does not fit, named.
    """
    content = _read(path)
    if "format" not in content:
        return _open_plain(path, content, name, outputs)
    if content["format"] != FORMAT:
        raise BenchError(f"{path} has format '{content['format']}'; this version reads '{FORMAT}'")
    spec = ModelSpec(**content["model"])
    if name is not None and spec.name != name:
        raise BenchError(f"{path} holds a {spec.name}, not a {name}; pass --model {spec.name} or another file")
    if outputs is not None and spec.outputs != outputs:
        raise BenchError(
            f"{path} has {spec.outputs} outputs, the data set needs {outputs}; use a checkpoint trained on it"
        )
    model = _rebuild(path, spec, content["state_dict"], narrowed=bool(content["channels"]))
    return SavedModel(model, spec, content["channels"], content["meta"], content.get("state", {}))


def _read(path: Path | str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise BenchError(f"checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BenchError(
            f"{path} holds pickled Python objects, which are not loaded; save its state_dict() instead"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise BenchError(f"{path} is damaged or not a checkpoint ({str(error).splitlines()[0]})") from error
    if not isinstance(content, Mapping):
        raise BenchError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return dict(content)


def _open_plain(path: Path | str, content: dict[str, Any], name: str | None, outputs: int | None) -> SavedModel:
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    weights = {key.removeprefix("module."): value for key, value in content.items()}
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise BenchError(f"{path} is not a checkpoint: it holds neither this project's format nor a state_dict")
    if name is None or outputs is None:
        raise BenchError(f"{path} is a plain state_dict; say with --model which network it belongs to")
    spec = ModelSpec(name, outputs)
    return SavedModel(_rebuild(path, spec, weights, narrowed=False), spec)


def _rebuild(path: Path | str, spec: ModelSpec, weights: Mapping[str, Tensor], *, narrowed: bool) -> nn.Module:
    # On the meta device no weight is initialised only to be overwritten.
    with torch.device("meta"):
        model = build_model(spec)
    if narrowed:
        adopt_shapes(model, {key: tuple(tensor.shape) for key, tensor in weights.items()})
    expected = model.state_dict()
    for key, tensor in expected.items():
        if key not in weights:
            raise BenchError(f"{path} does not fit {spec.name}: tensor {key} is missing")
        if tensor.shape != weights[key].shape:
            raise BenchError(
                f"{path} does not fit {spec.name}: {key} is {list(weights[key].shape)}, "
                f"the network has {list(tensor.shape)}"
            )
    for key in weights:
        if key not in expected:
            raise BenchError(f"{path} does not fit {spec.name}: the network has no tensor {key}")
    # A copy, so that the network does not share memory with the file's mapping or the caller's tensors.
    model.load_state_dict({key: tensor.clone() for key, tensor in weights.items()}, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()
