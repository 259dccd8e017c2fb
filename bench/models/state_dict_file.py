"""Files of tensors, read without running what they contain, and checked name by name against a network."""

from __future__ import annotations

import hashlib
import pickle
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.errors import BenchError, DamagedFile
from bench.models.safetensors_file import is_safetensors, read_safetensors
from bench.models.wrapper_names import unwrapped
from bench.system.failures import is_out_of_memory, not_written
from bench.system.files import whole_file
from bench.torch_utils.finite import first_fault

# Where training programs put a network among the other things of a file: the first there is counts.
_CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "network",
    "net",
    "weights",
    "params",
    "module",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "ema",
)

# What torch.load and its unpickler raise over damaged or foreign bytes.
_DAMAGE = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)


def read_file(path: Path | str) -> dict[Any, Any]:
    """Reads a file written by `torch.save`, or a `.safetensors` file, tensors on the CPU.

    Raises:
        DamagedFile: damaged, or holding other objects than plain ones.
        BenchError: missing, unreadable, or not a mapping.
    """
    if not Path(path).exists():
        raise BenchError(f"{path} does not exist; pass a checkpoint file")
    if not Path(path).is_file():
        raise BenchError(f"{path} is not a file; pass a checkpoint file")
    try:
        if is_safetensors(path):
            return read_safetensors(path)
        # Of what kind of pickle a file is torch warns; that it is none of ours is said below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedFile(
            f"{path} holds more than plain tensors (a pickled network?) or is no checkpoint; "
            "save the network's state_dict() instead",
            path,
        ) from error
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from error
    except _DAMAGE as error:
        if is_out_of_memory(error):
            raise
        raise DamagedFile(f"{path} is damaged or not a checkpoint; write or download it again", path) from error
    if not isinstance(content, Mapping):
        raise BenchError(f"{path} holds a {type(content).__name__}, not a checkpoint; pass a saved state_dict")
    return dict(content)


def write_file(path: Path | str, content: Mapping[str, Any]) -> None:
    """Writes plain data and tensors for `read_file`, in one piece or not at all.

    Raises:
        BenchError: the file cannot be written.
    """
    # Given an open file instead of a name, torch reports a missing folder as any writer does, takes names that are no
    # text, and puts the (temporary) name into no byte of the file.
    with whole_file(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # On a full disk torch's own writer stumbles over what Python's has raised before.
            if is_out_of_memory(error):
                raise
            raise not_written(path, error.__context__ or error) from error


def as_state_dict(path: Path | str, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a plain file: a state dict, or one inside `{"state_dict": ...}` and its like.

    Args:
        path: the file, for messages.
        content: what `read_file` returned.

    Raises:
        BenchError: there is no state dict in it, or several and none under a usual name.
    """
    while not _is_state_dict(content):
        inner = {key: value for key, value in content.items() if isinstance(value, Mapping)}
        usual = [key for key in _CONTAINERS if inner.get(key)]
        others = [key for key, value in inner.items() if _is_state_dict(value)]
        if not usual and len(others) > 1:
            raise BenchError(f"{path} holds several networks: {', '.join(map(str, others))}; save one by itself")
        if not usual and not others:
            raise BenchError(f"{path} is not a checkpoint: it holds neither this project's format nor a state_dict")
        content = inner[(usual or others)[0]]
    return dict(content)


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(key, str) and isinstance(item, Tensor) for key, item in content.items())


def fitting_tensors(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Copies tensors into the dtypes of a network after checking that they are exactly its tensors, and numbers.

    Args:
        weights: name -> tensor of a file; names may have those of wrappers before them.
        expected: name -> tensor of the network, possibly on the meta device.
        where: the beginning of the message: which file does not fit which network.

    Returns:
        One contiguous tensor for each name in `expected`, none sharing memory with `weights`.

    Raises:
        BenchError: the first tensor that is missing, has another shape or kind of number, is not the network's, or is
            not finite.
    """
    weights, fitted = unwrapped(weights, expected, where), {}
    for key, tensor in expected.items():
        if key in weights:
            given = weights[key]
        elif key.endswith("num_batches_tracked"):
            # Files older than torch 0.4.1, VGG's among them, have no such counter.
            given = torch.zeros(tensor.shape)
        else:
            raise BenchError(f"{where}: tensor {key} is missing")
        if given.shape != tensor.shape:
            raise BenchError(f"{where}: {key} is {list(given.shape)}, the network has {list(tensor.shape)}")
        kind = _kind(given)
        fits = {"plain": True, "whole": not tensor.is_floating_point(), "complex": tensor.is_complex()}
        if not fits.get(kind, False):
            raise BenchError(f"{where}: {key} holds {kind} numbers, the network {str(tensor.dtype).partition('.')[2]}")
        fitted[key] = given.to(tensor.dtype, copy=True, memory_format=torch.contiguous_format)
    for key in weights:
        if key not in expected:
            raise BenchError(f"{where}: the network has no tensor {key}")
    fault = first_fault(fitted)
    if fault:
        raise BenchError(f"{where}: {fault}; use a checkpoint of before the training failed")
    return fitted


def _kind(tensor: Tensor) -> str:
    """What a tensor's numbers are, where they are not simply there to be rounded to another precision."""
    if tensor.is_meta:
        return "no"
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_complex():
        return "complex"
    return "plain" if tensor.is_floating_point() else "whole"


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Sixty-four hexadecimal digits (SHA-256) that name tensors by their names, types, shapes and values."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        # As bytes, because numpy does not know every type; flat, because a single value has no bytes to look at.
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha.hexdigest()
