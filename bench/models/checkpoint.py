"""Saved networks: plain tensors and plain data, loadable with `torch.load(weights_only=True)`.

A file is `{"format", "model": {name, outputs, kwargs}, "channels", "state_dict", "meta"}`. A pruned network
is rebuilt by making the dense one and narrowing its layers to the saved shapes. A plain state dict (also
inside `{"state_dict": ...}` or `{"model": ...}`) of a dense network opens too, when the caller says which
network it is. Tensors are contiguous in files and in what is opened, whatever memory format a network was trained in:
files of the time before kept that, and networks were timed in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.channels.layer_axes import adopt_shapes, adopt_sizes, sizes_without_tensors
from bench.errors import BenchError, first_line
from bench.models import ModelSpec, build_model, check_model
from bench.models.output_layers import output_layers, outputs_of, with_fresh_outputs
from bench.models.state_dict_file import as_state_dict, fitting_tensors, read_file, write_file
from bench.models.wrapper_names import unwrapped
from bench.system.console import say
from bench.system.files import plain
from bench.torch_utils.dry_run import blank_image, stand_in
from bench.torch_utils.memory_format import contiguous

FORMAT = "segmentation-pruning-bench/1"

# Only shapes are looked at, so the size does not matter.
_TRIED = (64, 64)

Channels = dict[str, list[int]]
"""Group name -> the channels of the dense network that were kept; a group not named is whole."""

Head = Literal["saved", "fresh", "fitting"]
"""Whose output layers an opened network gets; see `load_model`."""


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
        "state_dict": stored_tensors(saved.model),
        "meta": plain(saved.meta),
    }
    if saved.state:
        content["state"] = saved.state
    if saved.channels:
        # A dense network has them from its factory.
        content["sizes"] = sizes_without_tensors(saved.model)
    write_file(path, content)


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network as files hold them: on the CPU, contiguous."""
    return {name: contiguous(tensor.detach().cpu()) for name, tensor in model.state_dict().items()}


def load_model(
    path: Path | str, *, name: str | None = None, outputs: int | None = None, head: Head = "saved"
) -> SavedModel:
    """Opens a dense, pruned or fine-tuned network on the CPU.

        >>> save_model("network.pt", SavedModel(model, ModelSpec("unet_small", outputs=12)))
        >>> saved = load_model("network.pt", name="unet_small")
        >>> saved.spec.outputs, saved.channels, saved.model.training
        (12, {}, False)

    Args:
        path: the file.
        name: the network the caller expects; required for a plain state dict.
        outputs: the number of outputs the caller expects; by default what the file has.
        head: whose output layers the network gets: `saved`, those of the file; `fresh`, new ones; or `fitting`, new
            ones where those of a plain state dict are missing or of another number. New ones are announced.

    Raises:
        UsageError: no network is called `name`.
        BenchError: missing, truncated or foreign file; another network or class count than expected; a
            tensor that does not fit, named.
    """
    if name is not None:
        check_model(name)
    content = read_file(path)
    if "format" not in content:
        return _open_plain(path, content, name, outputs, head)
    if content["format"] != FORMAT:
        raise BenchError(f"{path} has format '{content['format']}'; this version reads '{FORMAT}'")
    _check_form(path, content)
    spec = ModelSpec(**content["model"])
    if name is not None and spec.name != name:
        raise BenchError(f"{path} holds a {spec.name}, not a {name}; pass `model={spec.name}` or another file")
    weights = content["state_dict"]
    if head == "fresh":
        spec = replace(spec, outputs=outputs or spec.outputs)
        weights = with_fresh_outputs(weights, spec)
    elif outputs is not None:
        check_outputs(path, spec, outputs)
    model = _rebuild(path, spec, weights, narrowed=bool(content["channels"]), sizes=content.get("sizes"))
    if head == "fresh":
        _announce(path, spec)
    return SavedModel(model, spec, content["channels"], content["meta"], content.get("state", {}))


def _open_plain(
    path: Path | str, content: dict[str, Any], name: str | None, outputs: int | None, head: Head
) -> SavedModel:
    weights = as_state_dict(path, content)
    if name is None:
        raise BenchError(f"{path} is a plain state_dict; say with `model` which network it belongs to")
    # Before anything is looked for by its name.
    with torch.device("meta"):
        expected = build_model(ModelSpec(name, 1)).state_dict()
    weights = unwrapped(weights, expected, f"{path} does not fit {name}")
    found = outputs_of(weights, ModelSpec(name, 1))
    spec = ModelSpec(name, outputs or found or 1)
    is_fresh = head == "fresh" or (head == "fitting" and found != spec.outputs)
    if is_fresh:
        weights = with_fresh_outputs(weights, spec)
    elif found is not None:
        check_outputs(path, replace(spec, outputs=found), spec.outputs)
    model = _rebuild(path, spec, weights, narrowed=False)
    if is_fresh:
        _announce(path, spec)
    return SavedModel(model, spec)


def _announce(path: Path | str, spec: ModelSpec) -> None:
    say(f"{output_layers(spec)} of {path} begin anew, with {spec.outputs} outputs; the other layers are the file's")


def read_meta(path: Path | str) -> dict[str, Any]:
    """What a file says of how its network came about; nothing where it is a plain state dict.

    Raises:
        BenchError: missing, truncated or foreign file.
    """
    content = read_file(path)
    return content.get("meta", {}) if "format" in content else {}


def check_outputs(path: Path | str, spec: ModelSpec, outputs: int) -> None:
    """Raises BenchError unless a file's network has the number of outputs that a data set needs."""
    if spec.outputs != outputs:
        raise BenchError(
            f"{path} has {spec.outputs} outputs, the data set needs {outputs}; use a checkpoint trained on it, or "
            f"begin with new ones: train.py `ckpt={path}` `reset_head`"
        )


def _check_form(path: Path | str, content: Mapping[str, Any]) -> None:
    """Raises BenchError unless a file of this project's format has the parts that its writer gave it."""

    def is_mapping(value: Any, of: type = object) -> bool:
        return isinstance(value, Mapping) and all(isinstance(k, str) and isinstance(v, of) for k, v in value.items())

    model, meta = content.get("model"), content.get("meta")
    outputs = model.get("outputs") if is_mapping(model) else None
    size = meta.get("input_size") if is_mapping(meta) else None
    forms = {
        "model": is_mapping(model)
        and model.keys() <= {spec.name for spec in fields(ModelSpec)}
        and isinstance(model.get("name"), str)
        and isinstance(outputs, int)
        and outputs > 0
        and is_mapping(model.get("kwargs", {})),
        "state_dict": is_mapping(content.get("state_dict"), Tensor),
        "channels": is_mapping(content.get("channels")),
        "sizes": is_mapping(content.get("sizes", {}))
        and all(is_mapping(found, int) for found in content.get("sizes", {}).values()),
        "meta": is_mapping(meta),
        "meta's input_size": size is None
        or (isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(side, int) for side in size)),
    }
    wrong = next((part for part, is_right in forms.items() if not is_right), None)
    if wrong:
        raise BenchError(f"{path} is damaged: its {wrong} is missing or of another form; write it again")


def _check_fit(path: Path | str, model: nn.Module) -> None:
    """Raises BenchError where the layers of a pruned network are not as wide as each other read them."""
    try:
        with stand_in(model) as shadow:
            shadow(blank_image(shadow, _TRIED))
    except RuntimeError as error:
        raise BenchError(f"{path} is damaged: its layers do not fit together ({first_line(error)})") from error


def _rebuild(
    path: Path | str,
    spec: ModelSpec,
    weights: Mapping[str, Tensor],
    *,
    narrowed: bool,
    sizes: Mapping[str, Mapping[str, int]] | None = None,
) -> nn.Module:
    # On the meta device no weight is initialised only to be overwritten.
    try:
        with torch.device("meta"):
            model = build_model(spec)
    except TypeError as error:
        raise BenchError(f"{path}: {spec.name} cannot be built with its arguments {spec.kwargs} ({error})") from error
    if narrowed:
        adopt_sizes(model, sizes)
        adopt_shapes(model, {key: tuple(tensor.shape) for key, tensor in weights.items()})
    weights = fitting_tensors(weights, model.state_dict(), where=f"{path} does not fit {spec.name}")
    model.load_state_dict(weights, assign=True)
    if narrowed:
        _check_fit(path, model)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()
