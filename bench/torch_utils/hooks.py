"""Looking at what layers of a network read and give while it runs; every hook is gone after the block it is for.

>>> with outputs_seen(model, ["stem", "head"], lambda name, output: print(name, tuple(output.shape))):
...     model(images)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_NORMS_OVER_CHANNELS = (nn.LayerNorm, nn.RMSNorm)


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


@contextlib.contextmanager
def running_modules(model: nn.Module) -> Iterator[list[str]]:
    """The names of the modules that run, from the outermost to the innermost, kept up to date in the block.

    The network itself, whose name is empty, is always there; modules that take no hooks are left out.
    """
    running = [""]
    names = [name for name, module in model.named_modules() if name and not isinstance(module, torch.jit.ScriptModule)]

    def ended(_name: str, _output: Any) -> None:
        running.pop()

    with inputs_seen(model, names, lambda name, _inputs: running.append(name)), outputs_seen(model, names, ended):
        yield running


def channels_first(layer: nn.Module, output: Tensor) -> Tensor:
    """A layer's output with its channels on axis 1 and at least one axis behind: [N, C, ...]."""
    maps = output.movedim(channel_axis(layer, output), 1)
    return maps if maps.dim() > 2 else maps.unsqueeze(-1)


def channel_axis(layer: nn.Module, output: Tensor) -> int:
    """On which axis of its output a layer has its channels.

    The last one of linear layers and of norms over channels, but for norms of a class of their own that take and give
    [N, C, H, W]: their channels are where there are as many positions as the norm has.
    """
    last = output.dim() - 1
    if isinstance(layer, nn.Linear):
        return last
    if not isinstance(layer, _NORMS_OVER_CHANNELS):
        return 1
    size = layer.normalized_shape[-1]
    if type(layer).forward in (nn.LayerNorm.forward, nn.RMSNorm.forward) or output.shape[1] != size:
        return last
    return 1 if output.shape[last] != size or _takes_maps(layer, output, size) else last


def _takes_maps(layer: nn.Module, output: Tensor, size: int) -> bool:
    """Whether a norm takes maps whose last axis is not its channels: asked where an output does not tell."""
    maps = output.new_zeros((1, size, *(size + 1 for _ in output.shape[2:])))
    try:
        # Not the layer itself, whose hooks are what asks.
        type(layer).forward(layer, maps)
    except Exception:  # noqa: BLE001  a network's own code
        return False
    return True
