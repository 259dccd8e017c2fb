"""Peak activation memory: the most bytes that the tensors of a forward pass take at once."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that were made in the block and are still there, after each operator.

    Views share memory with what they show and count once, and so do results in place. The network's weights and
    buffers do not count, nor does what a kernel takes for itself while it runs. The count depends on shapes and on
    the order of the operators alone: it is the same on fake tensors (`bench.torch_utils.dry_run.stand_in`).

    Attributes:
        live: bytes of the tensors alive.
        peak: the most there have been after any operator.
    """

    def __init__(self, model: nn.Module):
        """Begins at nothing.

        Args:
            model: the network whose own tensors do not count.
        """
        super().__init__()
        self.live = self.peak = 0
        self._known = {_memory(tensor) for tensor in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and _memory(tensor) not in self._known:
                self._add(tensor)
        self.peak = max(self.peak, self.live)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _memory(tensor)
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        weakref.finalize(storage, self._remove, key, size).atexit = False

    def _remove(self, key: int, size: int) -> None:
        self._known.remove(key)
        self.live -= size


def _memory(tensor: Tensor) -> int:
    """Names the memory a tensor lies in, as long as that is there."""
    return tensor.untyped_storage()._cdata
