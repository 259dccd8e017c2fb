"""Looking at what layers give while a network runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn


@contextlib.contextmanager
def outputs_seen(model: nn.Module, names: Iterable[str], see: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Shows the outputs of some layers in every forward pass of the block.

    Args:
        model: the network; its hooks are gone after the block.
        names: modules to look at.
        see: called with a module's name and its output before anything else reads or changes that; a tensor that
            it returns takes the output's place. A layer that runs twice in a pass is shown twice.
    """
    with contextlib.ExitStack() as hooks:
        for name in names:

            def show(_module: nn.Module, _inputs: object, output: Tensor, name: str = name) -> Tensor | None:
                return see(name, output)

            handle = model.get_submodule(name).register_forward_hook(show)
            hooks.callback(handle.remove)
        yield


def channels_first(layer: nn.Module, output: Tensor) -> Tensor:
    """A layer's output with its channels on axis 1 and at least one axis behind: [N, C, ...]."""
    is_last = isinstance(layer, (nn.Linear, nn.LayerNorm))
    maps = output.movedim(-1, 1) if is_last else output
    return maps if maps.dim() > 2 else maps.unsqueeze(-1)
