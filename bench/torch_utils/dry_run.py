"""Forward passes on shapes alone, and inputs that only have the right shape."""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.errors import BenchError, first_line
from bench.torch_utils.contexts import attention_in_parts, flags_kept
from bench.torch_utils.hooks import outputs_seen
from bench.torch_utils.network_form import form_of, trial_size


@contextlib.contextmanager
def stand_in(model: nn.Module) -> Iterator[nn.Module]:
    """A copy in evaluation mode whose tensors have a shape, a type and a device but no memory.

    A copy, because a forward pass (or thop) may leave something behind in the modules. Fake tensors rather
    than the meta device, because a network may make tensors of its own on the device it believes to be on.

    Raises:
        BenchError: the pass in the block asks for values.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    tensors = itertools.chain(model.parameters(), model.buffers())
    # deepcopy takes what its memo knows for copied already.
    shadow = copy.deepcopy(model, {id(tensor): mode.from_tensor(tensor) for tensor in tensors}).eval()
    # Fused attention is one operator that not every torch release counts; its parts are always counted.
    try:
        with attention_in_parts(), mode, torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _quiet():
            yield shadow
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise BenchError(
            f"{type(model).__name__} asks for values of its features ({first_line(error)}), by `.item()`, `if` or "
            "`nonzero`, say; what it costs is counted on shapes alone, so take that out of its forward pass"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the traceback that fake tensors log before they raise."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    was, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was


def blank_image(model: nn.Module, input_size: tuple[int, int] | None = None, batch: int = 1) -> Tensor:
    """An input [batch, channels, H, W] of the type and on the device of a network's parameters.

    Without a size it has the one that the network is looked at with (`bench.torch_utils.network_form.trial_size`).
    """
    like = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.empty(0))
    return like.new_zeros((batch, form_of(model).input_channels, *(input_size or trial_size(model))))


@torch.no_grad()
def folded_layers(model: nn.Module, names: Collection[str]) -> set[str]:
    """The layers among some to whose first axis more belongs than the images: windows, rows, tokens in front.

    Which of their rows are whose no shape tells, if there are several images.

    Args:
        model: left as it was.
        names: modules that give one tensor.
    """
    found: set[str] = set()

    def look(name: str, output: Tensor) -> None:
        if len(output) != 1:
            found.add(name)

    with flags_kept(model), outputs_seen(model, names, look):
        model.eval()(blank_image(model))
    return found
