"""The multiply-accumulates of a forward pass, operator by operator.

Convolutions of any number of dimensions, matrix products (so linear layers and `einsum`) and attention, whether a layer
calls them or a function does. Torch's own formulas (`torch.utils.flop_counter`) are the base; matrix-vector products,
which it leaves out, are added.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bench.channels.layer_axes import WEIGHTED
from bench.torch_utils.dry_run import blank_image, stand_in
from bench.torch_utils.hooks import running_modules

_aten = torch.ops.aten

# Operators that multiply matrices -> where among their arguments the two are.
_PRODUCTS = {
    **dict.fromkeys((_aten.mm, _aten.bmm, _aten.mv, _aten.dot, _aten.vdot), (0, 1)),
    **dict.fromkeys((_aten.addmm, _aten.baddbmm, _aten.addmv, _aten.addbmm), (1, 2)),
}
# Convolutions -> where among their arguments it says whether they are transposed.
_CONVOLUTIONS = {_aten.convolution: 6, _aten._convolution: 6}


@dataclass(frozen=True)
class OperatorCall:
    """One call of an operator that multiplies and adds.

    Attributes:
        operator: its name, such as `aten.bmm`.
        macs: multiply-accumulates.
        factors: numbers whose product that is; each the size of one or several axes of what is multiplied.
        weights: the parameters and buffers of the network that are multiplied, whole, by name.
        module: name of the innermost module that made the call; empty for the network itself.
    """

    operator: str
    macs: int
    factors: tuple[int, ...]
    weights: tuple[str, ...]
    module: str


class OperatorCalls(TorchDispatchMode):
    """Notes the calls of the operators that multiply and add, while it is `noting`.

    Attributes:
        calls: in their order.
    """

    def __init__(self, model: nn.Module):
        """Begins with none.

        Args:
            model: the network whose weights are recognised.
        """
        super().__init__()
        self.calls: list[OperatorCall] = []
        self._model = model
        self._running = [""]
        # By their memory, which the views of a weight share with it. Of tied weights the first name counts.
        self._weights: dict[int, tuple[str, int]] = {}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._weights.setdefault(_memory(tensor), (name, tensor.numel()))

    @property
    def macs(self) -> int:
        """Of all calls so far."""
        return sum(call.macs for call in self.calls)

    @contextlib.contextmanager
    def noting(self) -> Iterator[OperatorCalls]:
        """Notes what is called in the block."""
        with running_modules(self._model) as self._running, self:
            yield self

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        operator = func.overloadpacket
        if operator is _aten.native_batch_norm and (result := _normed(args)) is not None:
            return result
        is_known = operator in flop_registry or operator in _PRODUCTS
        if (
            not is_known
            and func.namespace == "aten"
            and func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
        ):
            # In inference mode an operator made of others comes as one.
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        if is_known:
            self._note(operator, args, kwargs, result)
        return result

    def _note(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        factors = factors_of(operator, args, result)
        if factors is None:
            factors = (flop_registry[operator](*args, **kwargs, out_val=result) // 2,)
        weights = tuple(filter(None, map(self._weight, args)))
        module = self._running[-1]
        self.calls.append(OperatorCall(str(operator), math.prod(factors), factors, weights, module))

    def _weight(self, operand: Any) -> str | None:
        """The name of the weight that an operand is."""
        # A bias is added, not multiplied.
        if not isinstance(operand, Tensor) or operand.dim() < 2:
            return None
        name, size = self._weights.get(_memory(operand), (None, 0))
        if operand.numel() == size:
            return name
        # What a layer makes of its weight just before it multiplies it, such as a standardised one.
        layer = self._model.get_submodule(self._running[-1])
        is_like = isinstance(layer, WEIGHTED) and operand.shape == layer.weight.shape
        return f"{self._running[-1]}.weight" if is_like else None


def _normed(args: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
    """What BatchNorm makes of a shape in evaluation mode; None where there is more to it.

    Taken apart into the operators it is made of, it takes more time than all convolutions.
    """
    features, *own, is_training = args[:6]
    if not isinstance(features, FakeTensor) or is_training or features.dim() < 2:
        return None
    if any(one is not None and len(one) != features.shape[1] for one in own):
        return None
    return torch.empty_like(features), features.new_empty(0), features.new_empty(0)


def factors_of(operator: Any, args: tuple[Any, ...], result: Any) -> tuple[int, ...] | None:
    """The numbers whose product an operator's multiply-accumulates are; None where only torch's formula tells.

    >>> factors_of(torch.ops.aten.mm, (torch.empty(5, 3), torch.empty(3, 7)), None)
    (5, 3, 7)
    """
    if operator in _PRODUCTS:
        left, right = (args[number] for number in _PRODUCTS[operator])
        return (*left.shape, right.shape[-1]) if right.dim() > 1 else tuple(left.shape)
    if operator in _CONVOLUTIONS:
        images, weight = args[:2]
        # A transposed convolution applies its weight once an input pixel, the others once an output pixel.
        pixels = images if args[_CONVOLUTIONS[operator]] else result
        return (len(pixels) * math.prod(pixels.shape[2:]), *weight.shape[:2], math.prod(weight.shape[2:]))
    return None


def operator_calls(model: nn.Module, input_size: tuple[int, int]) -> list[OperatorCall]:
    """The calls while one image passes a network in evaluation mode, on shapes alone.

    Args:
        model: maps images [N, 3, H, W] to anything; left as it was.
        input_size: (height, width) of the image in pixels.
    """
    with stand_in(model) as shadow, OperatorCalls(shadow).noting() as seen:
        shadow(blank_image(shadow, input_size))
    return seen.calls


def _memory(tensor: Tensor) -> int:
    """Names the memory a tensor lies in, as long as that is there."""
    return tensor.untyped_storage()._cdata
