"""How labels of axes pass through the operators of a forward pass, one rule an operator.

Moves take labels along, what is computed place by place joins them, sums drop them, products of matrices join what is
summed over. An operator without a rule holds all channels that reach it in place; the network itself decides in
the end (`bench.channels.exchange`), so a rule may leave out what only code can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from bench.channels.axis_labels import Axis, Labels
from bench.channels.budget import MOST_POSITIONS, Budget
from bench.torch_utils.outputs import tensors_in

Axes = list[Axis | None]
"""The labels of each axis of a tensor, None where there are none."""

Rule = Callable[["Flow", Any, tuple[Any, ...], dict[str, Any], Any], None]

_RULES: dict[str, Rule] = {}


class Flow:
    """The labels of the tensors of a forward pass.

    Attributes:
        labels: what was found out about them.
        running: names of the modules that run now, the innermost last.
    """

    def __init__(
        self,
        labels: Labels,
        of_stored: Callable[[Tensor], Axes | None],
        of_bare_norm: Callable[[str], Axis | None],
        computing: Collection[str],
        budget: Budget,
    ):
        """Begins with the tensors a network holds.

        Args:
            labels: gets what is found out.
            of_stored: the axes of a parameter or buffer, None for any other tensor.
            of_bare_norm: the channels of a normalisation without tensors, None for any other module.
            computing: names of layers that make their weights of others in every pass.
            budget: the time for it; channels of operators behind its end stay.
        """
        self._of_bare_norm, self._computing, self._budget = of_bare_norm, computing, budget
        self.labels, self.running = labels, [""]
        self._of_stored = of_stored
        self._axes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._makers: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    @property
    def where(self) -> str:
        """The module that runs now."""
        return self.running[-1]

    def of(self, tensor: Tensor) -> Axes:
        """The labels of a tensor's axes."""
        axes = self._axes.get(tensor)
        if axes is None:
            axes = self._of_stored(tensor)
        return axes if axes is not None and len(axes) == tensor.dim() else [None] * tensor.dim()

    def normed(self, axis: Axis | None) -> Axis | None:
        """The channels that a normalisation reads, joined with its own width if no tensor of it says that."""
        own = self._of_bare_norm(self.where)
        return axis if own is None or axis is None or len(own) != len(axis) else self.labels.join([axis, own])

    def put(self, tensor: Tensor, axes: Sequence[Axis | None]) -> None:
        """Gives a tensor's axes labels."""
        if tensor.dim() != len(axes) or any(
            axis is not None and len(axis) != size for axis, size in zip(axes, tensor.shape, strict=True)
        ):
            self.hold(*axes, why="changes shape")
        elif max(map(len, filter(_is_there, axes)), default=0) > MOST_POSITIONS:
            self.hold(*axes, why=f"has more than {MOST_POSITIONS} of them side by side")
        elif any(axis is not None for axis in axes):
            self._axes[tensor] = list(axes)

    def hold(self, *axes: Axis | None, why: str) -> None:
        """Says that channels on some axes stay."""
        if self.where in self._computing:
            why = "computes its weight in every pass (weight norm, spectral norm, a mask) and cannot be narrowed"
        for axis in axes:
            self.labels.fix(axis, f"{self.where or 'the network'} {why}")

    def maker(self, tensor: Tensor) -> str | None:
        """The layer whose output a tensor is."""
        return self._makers.get(tensor)

    def made(self, tensor: Tensor, layer: str | None) -> None:
        """Notes whose output a tensor is."""
        if layer is not None:
            self._makers[tensor] = layer

    def pass_operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Follows the labels through one operator that has run."""
        name = func.overloadpacket.__name__
        rule = _RULES.get(name)
        if rule is None and _is_pointwise(func):
            rule = place_by_place
        is_late = self._budget.is_spent
        if rule is not None and not is_late:
            rule(self, func, args, kwargs, out)
            return
        why = f"is not followed within {self._budget.seconds:g} s" if is_late else f"passes them through {name}"
        for tensor in tensors_in((args, kwargs)):
            self.hold(*self.of(tensor), why=why)


def _is_there(axis: Axis | None) -> bool:
    return axis is not None


_POINTWISE = {
    *("copy_", "masked_fill", "masked_fill_", "native_dropout", "_to_copy", "clone", "contiguous", "rrelu_with_noise"),
    *("bernoulli", "_prelu_kernel", "lift_fresh", "log_sigmoid_forward", "where", "fill_", "fill", "zero_"),
    *("hardswish", "hardswish_", "prelu", "log_sigmoid", "copy", "bucketize", "__and__", "__or__", "floor_divide"),
    *("polar", "complex", "real", "fake_quantize_per_tensor_affine", "_to_dense", "to_dense", "threshold"),
    *("_fused_dropout", "rrelu_with_noise_functional", "dropout", "dropout_", "lerp", "addcmul", "addcdiv"),
}


def _is_pointwise(func: Any) -> bool:
    name = func.overloadpacket.__name__
    if torch.Tag.pointwise in func.tags or name in _POINTWISE:
        return True
    # Not every operator that works in place has the tag of the one that does not.
    plain = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") else None
    return plain is not None and any(torch.Tag.pointwise in getattr(plain, one).tags for one in plain.overloads())


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule under the names of operators."""

    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


def place_by_place(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """The rule of what is computed place by place: its operands have their channels in common."""
    tensors = tensors_in((args, kwargs))
    results = tensors_in(out)
    if not results:
        return
    rank = results[0].dim()
    joined: Axes = []
    for axis in range(-rank, 0):
        size = results[0].shape[axis]
        found = [flow.of(t)[axis] for t in tensors if t.dim() >= -axis and t.shape[axis] == size]
        joined.append(flow.labels.join(found))
    if func._schema.is_mutable and tensors and _is_part(tensors[0]):
        for own, new in zip(flow.of(tensors[0]), joined, strict=True):
            if own is None:
                flow.hold(new, why="writes them into a part of a tensor")
    for result in results:
        if result.dim() == rank:
            flow.put(result, joined)
    if len(tensors) == 1:
        flow.made(results[0], flow.maker(tensors[0]) if func.overloadpacket.__name__ in _KEEPERS else None)


_KEEPERS = {"clone", "_to_copy", "contiguous"}


def _is_part(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()


@rule("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like")
def _like(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Constants, and random numbers, that are as wide as something: the state that a recurrence begins with."""
    # Of a part of a tensor, such as a single channel, the number is written in the code.
    if not _is_part(args[0]):
        flow.put(out, flow.of(args[0]))


@rule(
    *("new_zeros", "new_ones", "new_empty", "new_full", "arange", "zeros", "ones", "full", "empty", "equal"),
    *("is_nonzero", "item", "linspace", "scalar_tensor", "rand", "randn", "randperm", "eye", "tril_indices"),
    *("new_empty_strided", "empty_strided", "bernoulli_", "uniform_", "normal_", "random_", "empty_permuted"),
    *("is_same_size", "lift", "resize_", "set_", "logspace", "tril", "triu", "detach_", "_local_scalar_dense"),
)
def _begins_anew(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Constants and random numbers have no channels."""
