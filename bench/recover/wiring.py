"""How the layers of a network are joined, as far as a repair needs to know: seen in one small forward pass.

Tensors are followed by identity: what a norm reads and what a sum adds up are the very tensors that layers gave. Where
something works between a layer and its norm or its sum, nothing is claimed.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench.channels.layer_axes import WEIGHTED
from bench.torch_utils.contexts import flags_kept
from bench.torch_utils.dry_run import blank_image
from bench.torch_utils.hooks import calls_seen

_BATCHNORM = nn.modules.batchnorm._BatchNorm
_SUMS = {"add", "add_", "__add__", "__iadd__", "__radd__"}


@dataclass(frozen=True)
class Call:
    """A tensor by the call of a module that gave or read it.

    Attributes:
        module: its name.
        number: the how-manieth call of it in a forward pass, from 0.
        is_input: whether the tensor is what the call read, rather than what it gave.
    """

    module: str
    number: int
    is_input: bool = False


@dataclass(frozen=True)
class Wiring:
    """What is joined to the convolutions and linear layers of a network.

    Attributes:
        calls: layer -> how often it runs in a forward pass in evaluation mode; those that do not run are left out.
        norms: layer -> the BatchNorm that reads its output as it is.
        trunks: layer -> the tensor that is added to what the layer, or its norm, gives, and is there before the layer
            runs: the rest of the sum that a residual branch ends in.
    """

    calls: dict[str, int]
    norms: dict[str, str]
    trunks: dict[str, Call]


@torch.no_grad()
def read_wiring(model: nn.Module) -> Wiring:
    """Reads the wiring off a forward pass on a small blank image; the network is left as it was."""
    layers = dict(model.named_modules())
    leaves = [name for name, layer in layers.items() if not any(True for _ in layer.children())]
    calls: Counter[str] = Counter()
    order: dict[Call, int] = {}
    ends: dict[Call, str] = {}
    norms: dict[str, str] = {}
    trunks: dict[str, Call] = {}
    origins = _Origins()

    def note(name: str, inputs: tuple[Any, ...], output: Any) -> None:
        read = inputs[0] if inputs else None
        call, source = Call(name, calls[name]), origins.of(read)
        calls[name] += 1
        if source is None and output is not read:
            source = Call(name, call.number, is_input=True)
            origins.note(read, source)
            order[source] = len(order)
        order[call] = len(order)
        if isinstance(layers[name], WEIGHTED):
            ends[call] = name
        elif isinstance(layers[name], _BATCHNORM) and ends.get(source) == source.module:
            ends[call], norms[source.module] = source.module, name
        # A module that does nothing in evaluation mode gives back what it read.
        if output is not read or source is None:
            origins.note(output, call)

    def when(call: Call) -> int:
        """When a tensor was made; what a norm gives counts from the layer in front of it."""
        return order[Call(ends[call], call.number) if call in ends else call]

    def added(one: Any, other: Any) -> None:
        pair = [origins.of(one), origins.of(other)]
        if None in pair or one.shape != other.shape:
            return
        earlier, later = sorted(pair, key=when)
        end = ends.get(later)
        # A layer with a norm behind it ends a branch by way of the norm.
        if end is not None and later.module == norms.get(end, end) and order[earlier] < when(later):
            trunks.setdefault(end, earlier)

    with flags_kept(model), calls_seen(model, leaves, note), _SumsSeen(added):
        model.eval()(blank_image(model))
    found = {name: count for name, count in calls.items() if isinstance(layers[name], WEIGHTED)}
    return Wiring(found, norms, trunks)


class TensorsKept:
    """Keeps tensors of a forward pass that are needed again later in it."""

    def __init__(self, wanted: Iterable[Call]):
        """Keeps nothing before it is shown calls: `calls_seen(model, kept.modules, kept.see)`."""
        self._wanted = set(wanted)
        self.modules = {call.module for call in self._wanted}
        self.restart()

    def restart(self) -> None:
        """To be called before each pass."""
        self._calls: Counter[str] = Counter()
        self._found: dict[Call, Tensor] = {}

    def see(self, name: str, inputs: tuple[Any, ...], output: Any) -> None:
        """Keeps what a call read or gave, where that is wanted."""
        for call in (Call(name, self._calls[name]), Call(name, self._calls[name], is_input=True)):
            if call in self._wanted:
                self._found[call] = inputs[0] if call.is_input else output
        self._calls[name] += 1

    def take(self, call: Call) -> Tensor:
        """What was kept of a call; it is let go."""
        return self._found.pop(call)


class _Origins:
    """Which call gave or read a tensor, as long as it is there and nothing has changed it."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int, Call]] = {}

    def note(self, tensor: Any, call: Call) -> None:
        if isinstance(tensor, Tensor):
            self._known[id(tensor)] = weakref.ref(tensor), tensor._version, call

    def of(self, tensor: Any) -> Call | None:
        reference, version, call = self._known.get(id(tensor), (None, 0, None))
        # A tensor that is gone may have left its place to another.
        is_same = reference is not None and reference() is tensor and tensor._version == version
        return call if is_same else None


class _SumsSeen(TorchFunctionMode):
    """Shows the two sides of each sum before it is formed."""

    def __init__(self, see: Callable[[Any, Any], None]):
        super().__init__()
        self._see = see

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _SUMS and len(args) > 1 and isinstance(args[1], Tensor):
            self._see(args[0], args[1])
        return func(*args, **(kwargs or {}))
