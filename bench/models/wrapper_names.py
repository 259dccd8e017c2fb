"""The names of tensors as a network has them, whatever it was wrapped in when it was saved.

`DataParallel`, `torch.compile`, averaging, sharding, checkpointing, Lightning and MAC counters each add names of their
own; a file may carry those of several, one within the other, around the whole network or parts of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import BenchError, UsageError

# Parts of names that stand for a wrapper, at whatever depth, where the network has none of that name.
_MARKERS = ("_orig_mod", "module", "_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
# What wrappers count: the networks averaged, and multiply-accumulates and parameters as thop does.
_COUNTERS = ("n_averaged", "total_ops", "total_params")


def unwrapped(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Takes wrappers' names and counters off the tensors of a file.

    Args:
        weights: name -> tensor of a file.
        expected: name -> tensor of the network.
        where: the beginning of the message: which file does not fit which network.

    Returns:
        The tensors under the names of the network as far as it has them; the others under theirs.

    Raises:
        BenchError: two tensors would have one name.
    """
    own = {part for name in expected for part in name.split(".")}
    markers = {part for part in _MARKERS if part not in own}
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        short = ".".join(part for part in name.split(".") if part not in markers)
        if short in found and not torch.equal(found[short], tensor):
            raise BenchError(f"{where}: it holds two tensors that are {short} without their wrappers' names")
        if name in expected or short.rpartition(".")[2] not in _COUNTERS:
            found[short] = tensor
    prefix = _prefix(found, expected)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def renamed(weights: Mapping[str, Tensor], key_map: Mapping[str, str], path: Path | str) -> dict[str, Tensor]:
    """The tensors of a file under other names, as whoever knows both the file and the network says.

        >>> list(renamed({"encoder.stem.weight": tensor}, {"encoder.": "backbone."}, "network.pt"))
        ['backbone.stem.weight']

    Args:
        weights: name -> tensor of a file.
        key_map: how a name begins -> how it begins then; of several that fit the longest counts.
        path: the file, for messages.

    Raises:
        UsageError: no name begins so, or two tensors would have one name.
    """
    found: dict[str, Tensor] = {}
    unused = set(key_map)
    for name, tensor in weights.items():
        old = max((prefix for prefix in key_map if name.startswith(prefix)), key=len, default=None)
        unused.discard(old)
        new = name if old is None else key_map[old] + name.removeprefix(old)
        if new in found:
            raise UsageError(f"{path}: by `key_map` two tensors would be called {new}")
        found[new] = tensor
    if unused:
        raise UsageError(
            f"{path}: no tensor's name begins with '{min(unused)}' of `key_map`; they begin with {min(weights)}"
        )
    return found


def _prefix(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What stands before the network's names: before all of them, or else before all names there are."""
    needed = {name for name in expected if not name.endswith("num_batches_tracked")}
    first = min(needed, key=len, default="")
    before = [name.removesuffix(first) for name in found if name.endswith(f".{first}")]
    for prefix in before:
        if not needed <= found.keys() and all(prefix + name in found for name in needed):
            return prefix
    prefix = ""
    while expected.keys().isdisjoint(name.removeprefix(prefix) for name in found):
        nexts = {name.removeprefix(prefix).partition(".")[::2] for name in found}
        if len({head for head, _ in nexts}) != 1 or not all(rest for _, rest in nexts):
            return ""
        prefix += f"{next(iter(nexts))[0]}."
    return prefix
