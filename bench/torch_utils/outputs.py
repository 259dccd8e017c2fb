"""What a network gives, whatever it is wrapped in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def tensors_in(output: Any) -> list[Tensor]:
    """The tensors of an output in their order: of tuples, lists, mappings and dataclasses, however nested.

    >>> [tuple(tensor.shape) for tensor in tensors_in({"out": logits, "aux": [coarse, None]})]
    [(2, 12, 64, 64), (2, 12, 8, 8)]

    What is neither a tensor nor holds any, such as None, is left out.
    """
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = output.values()
    elif is_dataclass(output) and not isinstance(output, type):
        output = [getattr(output, field.name) for field in fields(output)]
    elif not isinstance(output, (list, tuple)):
        return []
    return [tensor for part in output for tensor in tensors_in(part)]
