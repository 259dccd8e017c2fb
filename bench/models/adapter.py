"""Any network as this project's networks are: images [N, C, H, W] of any size in, logits of that size out.

An adapted network is the same object of a class that is derived from its own: its layers keep their names, in groups as
in files, and everything that runs, traces, compiles or copies a network sees the adapted forward pass.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.functional import interpolate, pad

from bench.torch_utils.network_form import ATTRIBUTE, USUAL, NetworkForm, form_of
from bench.torch_utils.open_sizes import holds_always
from bench.torch_utils.outputs import AUXILIARY, auxiliary_in, logits_in

# Where wrappers keep the network: DataParallel and its like, torch.compile.
_WRAPPERS = {nn.DataParallel: "module", nn.parallel.DistributedDataParallel: "module"}
_COMPILED = "_orig_mod"


def adapt(model: nn.Module, form: NetworkForm = USUAL) -> nn.Module:
    """Makes a network take images of any size and give logits [N, outputs, H, W] of that size.

    Smaller logits are scaled up bilinearly, and where images must be multiples of something, they are padded with the
    mean colour on the right and at the bottom, and the logits cropped. An output of several parts becomes the logits
    in it (`bench.torch_utils.outputs.logits_in`); in training mode, where it has a part `aux` besides, a mapping
    `{"out": logits, "aux": logits}`.

        >>> network = adapt(nn.Conv2d(3, 12, kernel_size=1, stride=4))
        >>> network(torch.zeros(1, 3, 96, 128)).shape, isinstance(network, nn.Conv2d)
        (torch.Size([1, 12, 96, 128]), True)

    Args:
        model: the network, perhaps in a wrapper (DataParallel, torch.compile), which is taken off. Changed in place,
            but for one whose class has to stay (a GraphModule): the names of its layers begin with `network.` then.
        form: what is unusual about it.

    Returns:
        The network.
    """
    model = unwrapped_network(model)
    if _is_closed(model):
        model = _Shell(model).train(model.training)
    if not hasattr(model, ATTRIBUTE):
        model.__class__ = _adapted(type(model))
    setattr(model, ATTRIBUTE, form)
    return model


def as_it_was(model: nn.Module) -> nn.Module:
    """An adapted network with the class that it had before, in place; any other network as it is."""
    if hasattr(model, ATTRIBUTE) and hasattr(type(model), "network_class"):
        delattr(model, ATTRIBUTE)
        model.__class__ = type(model).network_class
    return model


def unwrapped_network(model: nn.Module) -> nn.Module:
    """A network without the wrappers around it."""
    while True:
        inner = next((getattr(model, name) for kind, name in _WRAPPERS.items() if isinstance(model, kind)), None)
        inner = getattr(model, _COMPILED, None) if inner is None else inner
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _is_closed(model: nn.Module) -> bool:
    """Whether a network would not take the forward pass of a derived class, or lose it when it is copied."""
    own_copy, own_forward = hasattr(type(model), "__deepcopy__"), "forward" in vars(model)
    return own_copy or own_forward or isinstance(model, torch.jit.ScriptModule)


class _Shell(nn.Module):
    """A network around one whose class has to stay."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


@functools.cache
def _adapted(kind: type[nn.Module]) -> type[nn.Module]:
    """A class of networks with an adapted forward pass."""

    class Adapted(kind):
        network_class = kind

        def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
            form = form_of(self)
            output = kind.forward(self, _padded(images, form.pad_to))
            return _fitted(output, images, form.pad_to, form.output_key, self.training)

        def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:
            # By its own class, because no module holds this one.
            _, _, *state = super().__reduce_ex__(protocol)
            return (_blank, (kind,), *state)

    Adapted.__name__, Adapted.__qualname__ = kind.__name__, kind.__qualname__
    Adapted.__module__, Adapted.__doc__ = kind.__module__, kind.__doc__
    return Adapted


def _blank(kind: type[nn.Module]) -> nn.Module:
    """An adapted network of a class, without any contents yet."""
    adapted = _adapted(kind)
    return adapted.__new__(adapted)


# Each one node for a tracer: what they do depends on sizes and types, which a traced network does not know.
@fx.wrap
def _padded(images: Tensor, multiple: int) -> Tensor:
    """Images with zeros, the mean colour, on the right and at the bottom, so that their sides are multiples."""
    rows, columns = (-side % multiple for side in images.shape[-2:])
    is_whole = holds_always(rows == 0) and holds_always(columns == 0)
    return images if is_whole else pad(images, (0, columns, 0, rows))


@fx.wrap
def _fitted(
    output: Any, images: Tensor, multiple: int, key: str | int | None, training: bool
) -> Tensor | dict[str, Tensor]:
    """The logits of an output at the size of the images; in training those of an auxiliary head beside them."""
    logits, auxiliary = logits_in(output, key), auxiliary_in(output) if training else None
    if auxiliary is None or auxiliary is logits:
        return _resized(logits, images, multiple)
    return {"out": _resized(logits, images, multiple), AUXILIARY: _resized(auxiliary, images, multiple)}


def _resized(logits: Tensor, images: Tensor, multiple: int) -> Tensor:
    height, width = images.shape[-2:]
    padded = (height + -height % multiple, width + -width % multiple)
    if not all(holds_always(have == want) for have, want in zip(logits.shape[-2:], padded, strict=True)):
        logits = interpolate(logits, size=padded, mode="bilinear", align_corners=False)
    is_whole = holds_always(padded[0] == height) and holds_always(padded[1] == width)
    return logits if is_whole else logits[..., :height, :width]
