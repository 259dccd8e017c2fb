"""What a network costs to store and to run: parameters, multiply-accumulates, bytes.

MACs are counted from the operators a forward pass calls (`torch.utils.flop_counter`: convolutions, matrix
products and attention; no normalisation, activation or interpolation), and FLOPs are twice that.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

COUNTER = "torch.utils.flop_counter"


@dataclass(frozen=True)
class Cost:
    """The cost of one image through a network.

    Attributes:
        parameters: number of parameters; one shared by several layers counts once.
        nonzero_parameters: how many of them are not zero.
        macs: multiply-accumulates of a forward pass in evaluation mode.
        flops: 2 * macs.
        state_bytes: bytes of the tensors a checkpoint of the network stores.
        input_size: (height, width) of the image in pixels.
        counter: what counted.
    """

    parameters: int
    nonzero_parameters: int
    macs: int
    flops: int
    state_bytes: int
    input_size: tuple[int, int]
    counter: str = COUNTER


def measure_cost(model: nn.Module, input_size: tuple[int, int]) -> Cost:
    """Measures a network on one RGB image of (height, width) pixels."""
    macs = model_macs(model, input_size)
    nonzero = count_nonzero_parameters(model)
    return Cost(count_parameters(model), nonzero, macs, 2 * macs, state_bytes(model), tuple(input_size))


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_nonzero_parameters(model: nn.Module) -> int:
    """Number of parameters that are not zero, shared ones once."""
    return sum(int(parameter.count_nonzero()) for parameter in model.parameters())


def state_bytes(model: nn.Module) -> int:
    """Bytes of the tensors in the state dict, shared ones once."""
    tensors = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def model_macs(model: nn.Module, input_size: tuple[int, int], batch: int = 1) -> int:
    """Multiply-accumulates of one forward pass in evaluation mode.

    The pass runs on shapes alone: nothing is computed, no weight is copied, and the model stays as it is.

    Args:
        model: maps images [N, 3, H, W] to anything.
        input_size: (height, width) in pixels.
        batch: images a pass.
    """
    counter = FlopCounterMode(display=False)
    with stand_in(model) as shadow, counter:
        shadow(blank_image(shadow, input_size, batch))
    return counter.get_total_flops() // 2


def thop_macs(model: nn.Module, input_size: tuple[int, int]) -> int:
    """MACs of one image as thop counts them, to cross-check `model_macs`.

    thop goes by modules, normalisation, pooling and upsampling ones too; functions called in `forward`
    escape it but for matrix products.
    """
    from thop import profile

    with stand_in(model) as shadow:
        macs, _ = profile(shadow, inputs=(blank_image(shadow, input_size),), verbose=False)
    return int(macs)


@contextlib.contextmanager
def stand_in(model: nn.Module) -> Iterator[nn.Module]:
    """A copy in evaluation mode whose tensors have a shape, a type and a device but no memory.

    A copy, because a forward pass (or thop) may leave something behind in the modules. Fake tensors rather
    than the meta device, because a network may make tensors of its own on the device it believes to be on.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    tensors = itertools.chain(model.parameters(), model.buffers())
    # deepcopy takes what its memo knows for copied already.
    shadow = copy.deepcopy(model, {id(tensor): mode.from_tensor(tensor) for tensor in tensors}).eval()
    fast = torch.backends.mha.get_fastpath_enabled()
    # Fused attention is one operator that not every torch release counts; its parts are always counted.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with mode, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield shadow
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def blank_image(model: nn.Module, input_size: tuple[int, int], batch: int = 1) -> Tensor:
    """An input [batch, 3, H, W] of the type and on the device of a network's parameters."""
    like = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.empty(0))
    return like.new_zeros((batch, 3, *input_size))
