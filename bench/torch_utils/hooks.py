"""Looking at what layers of a network read and give while it runs; every hook is gone after the block it is for.

>>> with outputs_seen(model, ["stem", "head"], lambda name, output: print(name, tuple(output.shape))):
...     model(images)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn


@contextlib.contextmanager
def calls_seen(
    model: nn.Module, names: Iterable[str], see: Callable[[str, tuple[Any, ...], Any], Any]
) -> Iterator[None]:
    """Shows the calls of some layers, once they have run, in every forward pass of the block.

    Args:
        model: the network; its hooks are gone after the block.
        names: modules to look at.
        see: called with a module's name, its positional inputs and its output before anything else reads or changes
            that; what it returns, if not None, takes the output's place. A layer that runs twice is shown twice.
    """
    with contextlib.ExitStack() as hooks:
        for name in names:

            def show(_module: nn.Module, inputs: tuple[Any, ...], output: Any, name: str = name) -> Any:
                return see(name, inputs, output)

            handle = model.get_submodule(name).register_forward_hook(show)
            hooks.callback(handle.remove)
        yield


def outputs_seen(
    model: nn.Module, names: Iterable[str], see: Callable[[str, Any], Any]
) -> contextlib.AbstractContextManager[None]:
    """Shows the outputs of some layers alone: `calls_seen` whose `see` is called with a name and an output."""
    return calls_seen(model, names, lambda name, _inputs, output: see(name, output))


@contextlib.contextmanager
def inputs_seen(model: nn.Module, names: Iterable[str], see: Callable[[str, tuple[Any, ...]], None]) -> Iterator[None]:
    """Shows what some layers are about to read, before they run, in every forward pass of the block.

    Args:
        model: the network; its hooks are gone after the block.
        names: modules to look at.
        see: called with a module's name and its positional inputs. A layer that runs twice is shown twice.
    """
    with contextlib.ExitStack() as hooks:
        for name in names:

            def show(_module: nn.Module, inputs: tuple[Any, ...], name: str = name) -> None:
                see(name, inputs)

            handle = model.get_submodule(name).register_forward_pre_hook(show)
            hooks.callback(handle.remove)
        yield


def channels_first(layer: nn.Module, output: Tensor) -> Tensor:
    """A layer's output with its channels on axis 1 and at least one axis behind: [N, C, ...]."""
    is_last = isinstance(layer, (nn.Linear, nn.LayerNorm))
    maps = output.movedim(-1, 1) if is_last else output
    return maps if maps.dim() > 2 else maps.unsqueeze(-1)
