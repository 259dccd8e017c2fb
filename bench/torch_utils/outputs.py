"""What a network gives, whatever it is wrapped in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from bench.errors import BenchError

# What the field calls the logits among other things: torchvision's name, and that of transformers.
_USUAL = ("out", "logits")
AUXILIARY = "aux"
"""The name of an auxiliary head's logits, as torchvision has it."""


def tensors_in(output: Any) -> list[Tensor]:
    """The tensors of an output in their order: of tuples, lists, mappings and dataclasses, however nested.

    >>> [tuple(tensor.shape) for tensor in tensors_in({"out": logits, "aux": [coarse, None]})]
    [(2, 12, 64, 64), (2, 12, 8, 8)]

    What is neither a tensor nor holds any, such as None, is left out.
    """
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in (parts_of(output) or {}).values() for tensor in tensors_in(part)]


def parts_of(output: Any) -> dict[str, Any] | None:
    """The parts of an output by name, or by number where they have none; None of what has no parts.

    >>> list(parts_of({"out": 1, "aux": 2})), list(parts_of((1, 2)))
    (['out', 'aux'], ['0', '1'])
    """
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, (list, tuple)):
        return {str(position): part for position, part in enumerate(output)}
    return None


def logits_in(output: Any, key: str | int | None = None) -> Tensor:
    """The logits of an output: the output itself, or that part of it which can be nothing else.

    Without a key these are the part called `out` or `logits`, or else the only part that is maps [N, C, H, W]; where
    several could be, nothing is guessed.

    >>> logits_in({"out": logits, "aux": coarse}) is logits, logits_in([coarse, logits], key=1) is logits
    (True, True)

    Args:
        output: what a network gave.
        key: which part, by name, or by number from 0; an output that is a tensor has no parts and is taken as it is.

    Raises:
        BenchError: no part is called so, none is maps, or several are and none has a usual name.
    """
    if isinstance(output, Tensor):
        return _maps(output, "the output")
    parts = parts_of(output)
    if parts is None:
        raise BenchError(f"the network gives a {type(output).__name__}, not logits [N, C, H, W]")
    if key is not None:
        if str(key) not in parts and not _is_position(key, parts):
            raise BenchError(
                f"the network's output has no part '{key}', only {_listed(parts)}; pass another `output_key`"
            )
        part = parts[str(key)] if str(key) in parts else list(parts.values())[int(key)]
        return logits_in(part) if not isinstance(part, Tensor) else _maps(part, f"part {key} of the output")
    named = next((name for name in _USUAL if isinstance(parts.get(name), Tensor)), None)
    if named:
        return _maps(parts[named], f"part {named} of the output")
    maps = [part for part in parts.values() if isinstance(part, Tensor) and _is_maps(part)]
    if len(maps) == 1:
        return maps[0]
    why = "several maps" if maps else "no maps [N, C, H, W]"
    raise BenchError(f"the network's output has {why}: {_listed(parts)}; say with `output_key` which are the logits")


def auxiliary_in(output: Any) -> Tensor | None:
    """The logits of an auxiliary head, where an output has a part that is called `aux`."""
    part = (parts_of(output) or {}).get(AUXILIARY) if not isinstance(output, Tensor) else None
    return part if isinstance(part, Tensor) and _is_maps(part) else None


def _is_position(key: str | int, parts: Mapping[str, Any]) -> bool:
    return str(key).isdecimal() and int(key) < len(parts)


def _is_maps(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_floating_point()


def _maps(tensor: Tensor, what: str) -> Tensor:
    if not _is_maps(tensor):
        raise BenchError(
            f"{what} is {list(tensor.shape)}, not logits [N, C, H, W]; say with `output_key` where they are"
        )
    return tensor


def _listed(parts: Mapping[str, Any]) -> str:
    """Names and shapes of parts."""
    return ", ".join(
        f"{name} {list(part.shape) if isinstance(part, Tensor) else type(part).__name__}"
        for name, part in parts.items()
    )
