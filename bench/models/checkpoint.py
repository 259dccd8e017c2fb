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
from bench.errors import BenchError, UsageError, first_line
from bench.models import ModelSpec, blank_model, check_model, new_model
from bench.models.output_layers import output_axes, output_layers, outputs_of, with_fresh_outputs
from bench.models.own_network import is_own, is_same_factory, name_factory, named_spelling
from bench.models.published_names import own_names
from bench.models.safetensors_file import SUFFIX, write_safetensors
from bench.models.state_dict_file import as_state_dict, fitting_tensors, read_file, write_file
from bench.models.wrapper_names import renamed, unwrapped
from bench.system.console import say
from bench.system.files import plain
from bench.torch_utils.dry_run import blank_image, stand_in
from bench.torch_utils.memory_format import contiguous
from bench.torch_utils.network_form import ATTRIBUTE, form_of
from bench.torch_utils.shared_parameters import share_again, shared_parameters

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

    A name that ends in `.safetensors` makes it a file of that kind (`bench.models.safetensors_file`).

        >>> save_model("network.pt", SavedModel(model, ModelSpec("unet_small", outputs=12), meta={"epochs": 0}))
        >>> load_model("network.pt").meta
        {'epochs': 0}

    Raises:
        BenchError: the file cannot be written, or is to be a `.safetensors` file and has a state of training, which
            such files do not hold.
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
    unsaved = _buffers_unsaved(saved.model)
    if unsaved:
        content["buffers"] = {name: contiguous(tensor.detach().cpu()) for name, tensor in unsaved.items()}
    if Path(path).suffix != SUFFIX:
        write_file(path, content)
    elif saved.state:
        raise BenchError(f"{path} cannot hold a state of training; save it as a .pt file")
    else:
        write_safetensors(path, content)


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network as files hold them: on the CPU, contiguous."""
    return {name: contiguous(tensor.detach().cpu()) for name, tensor in model.state_dict().items()}


def load_model(
    path: Path | str,
    *,
    name: str | None = None,
    outputs: int | None = None,
    head: Head = "saved",
    kwargs: Mapping[str, Any] | None = None,
    key_map: Mapping[str, str] | None = None,
) -> SavedModel:
    """Opens a dense, pruned or fine-tuned network on the CPU.

        >>> save_model("network.pt", SavedModel(model, ModelSpec("unet_small", outputs=12)))
        >>> saved = load_model("network.pt", name="unet_small")
        >>> saved.spec.outputs, saved.channels, saved.model.training
        (12, {}, False)

    Args:
        path: the file.
        name: the network the caller expects; required for a plain state dict, and for a network of the caller's own
            unless its factory was named before in this process: opening a file runs no code of itself.
        outputs: the number of outputs the caller expects; by default what the file has.
        head: whose output layers the network gets: `saved`, those of the file; `fresh`, new ones; or `fitting`, new
            ones where those of a plain state dict are missing or of another number. New ones are announced.
        kwargs: what the caller says of the network beside its name (`ModelSpec.kwargs`); a file that says otherwise is
            refused.
        key_map: for a plain state dict: how names of tensors begin in the file -> how in the network.

    Raises:
        UsageError: no network is called `name`, or `key_map` renames nothing.
        BenchError: missing, truncated or foreign file; another network or class count than expected; a
            tensor that does not fit, named.
    """
    if name is not None:
        check_model(name)
        name_factory(name)
    content = read_file(path)
    if "format" not in content:
        return _open_plain(
            path, content, name and ModelSpec(name, outputs or 1, dict(kwargs or {})), outputs, head, key_map
        )
    if key_map:
        raise BenchError(f"{path} has the names of its network already; leave `key_map` out")
    _check_form(path, content)
    spec = _expected(path, content, name, kwargs or {})
    weights = content["state_dict"]
    if head == "fresh":
        spec = replace(spec, outputs=outputs or spec.outputs)
        weights = with_fresh_outputs(weights, spec)
    elif outputs is not None:
        check_outputs(path, spec, outputs)
    model = _rebuild(
        path,
        spec,
        weights,
        narrowed=bool(content["channels"]),
        sizes=content.get("sizes"),
        buffers=content.get("buffers", {}),
    )
    if head == "fresh":
        _announce(path, spec)
    return SavedModel(model, spec, content["channels"], content["meta"], content.get("state", {}))


def read_stored(path: Path | str) -> dict[str, Any]:
    """What `save_model` wrote, its form checked; no network is built of it.

    Raises:
        BenchError: missing, truncated or foreign file.
    """
    content = read_file(path)
    _check_form(path, content)
    return content


def spec_in(path: Path | str, content: Mapping[str, Any]) -> ModelSpec:
    """How the network of a file is built, in the spelling under which its factory was named where it is the user's own.

    Raises:
        BenchError: it is the user's own, and nobody has named it.
    """
    spec = ModelSpec(**content["model"])
    return replace(spec, name=named_spelling(path, spec.name)) if is_own(spec.name) else spec


def _expected(path: Path | str, content: Mapping[str, Any], name: str | None, kwargs: Mapping[str, Any]) -> ModelSpec:
    """The spec of a file, if it is what the caller expects, with what may be said anew of a network in any file."""
    held = content["model"]["name"]
    is_same = name is None or held == name or (is_own(name) and is_same_factory(held, name))
    if not is_same:
        raise BenchError(f"{path} holds a {held}, not a {name}; pass `model={held}` or another file")
    spec = spec_in(path, content)
    said = dict(kwargs)
    if is_own(spec.name):
        form = {key: said.pop(key) for key in list(said) if key != "args"}
        spec, said = replace(spec, kwargs={**spec.kwargs, **form}), dict(said.get("args", {}))
    there = spec.kwargs.get("args", {}) if is_own(spec.name) else spec.kwargs
    for key, value in said.items():
        if key not in there or there[key] != value:
            found = f"{key}={there[key]}" if key in there else f"no {key}"
            raise BenchError(f"{path} holds a {spec.name} with {found}, not {key}={value}; leave `model_args` out")
    return spec


def _open_plain(
    path: Path | str,
    content: dict[str, Any],
    spec: ModelSpec | None,
    outputs: int | None,
    head: Head,
    key_map: Mapping[str, str] | None,
) -> SavedModel:
    weights = as_state_dict(path, content)
    if spec is None:
        raise BenchError(f"{path} is a plain state_dict; say with `model` which network it belongs to")
    # Before anything is looked for by its name.
    where, weights = f"{path} does not fit {spec.name}", renamed(weights, key_map or {}, path)
    expected = blank_model(spec)
    weights = own_names(expected, unwrapped(weights, expected.state_dict(), where), where)
    found = outputs_of(weights, spec)
    spec = replace(spec, outputs=outputs or found or 1)
    if is_own(spec.name):
        spec = new_model(spec)[1]
    is_fresh = head == "fresh" or (head == "fitting" and found != spec.outputs and bool(output_axes(spec)))
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
    """Raises BenchError unless a file is of this project's format and has the parts that its writer gave it."""
    if content.get("format") != FORMAT:
        raise BenchError(f"{path} has format '{content.get('format')}'; this version reads '{FORMAT}'")

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
        "buffers": is_mapping(content.get("buffers", {}), Tensor),
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
    size = form_of(model).trace_size or _TRIED
    try:
        if not hasattr(model, ATTRIBUTE):
            with stand_in(model) as shadow:
                shadow(blank_image(shadow, size))
        else:
            # Code of others may want the values of tensors, which a stand-in does not have.
            with torch.no_grad():
                model.eval()(blank_image(model, size))
    except RuntimeError as error:
        raise BenchError(f"{path} is damaged: its layers do not fit together ({first_line(error)})") from error


def _rebuild(
    path: Path | str,
    spec: ModelSpec,
    weights: Mapping[str, Tensor],
    *,
    narrowed: bool,
    sizes: Mapping[str, Mapping[str, int]] | None = None,
    buffers: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    try:
        model = blank_model(spec)
    except UsageError as error:
        raise BenchError(f"{path}: {error}") from error
    shared = shared_parameters(model)
    if narrowed:
        adopt_sizes(model, sizes)
        adopt_shapes(model, {key: tuple(tensor.shape) for key, tensor in weights.items()})
    weights = fitting_tensors(weights, model.state_dict(), where=f"{path} does not fit {spec.name}")
    # Tensors that are one in a network of the user's own stay one.
    model.load_state_dict(weights, assign=not is_own(spec.name))
    share_again(shared)
    _set_buffers(path, spec, model, buffers or {})
    if narrowed:
        _check_fit(path, model)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def _buffers_unsaved(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that are in no state dict. A factory makes them, but perhaps not twice the same."""
    saved = model.state_dict().keys()
    return {name: tensor for name, tensor in model.named_buffers() if name not in saved}


def _set_buffers(path: Path | str, spec: ModelSpec, model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Gives a network the buffers of a file that are in no state dict; files of earlier versions have none."""
    known = _buffers_unsaved(model)
    for name, tensor in buffers.items():
        if name not in known:
            raise BenchError(f"{path} does not fit {spec.name}: the network has no buffer {name}")
        module, _, leaf = name.rpartition(".")
        model.get_submodule(module)._buffers[leaf] = tensor.clone()
