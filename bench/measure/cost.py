"""What a network costs to store and to run: parameters, multiply-accumulates, bytes.

MACs are counted from the operators a forward pass calls (`bench.measure.operators`: convolutions, matrix
products and attention; no normalisation, activation or interpolation), and FLOPs are twice that. thop's count stands
beside them: it goes by modules, and its rules give normalisation, average pooling and upsampling something too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from thop import profile
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from bench.channels.layer_axes import WEIGHTED
from bench.measure.activation_memory import LiveBytes
from bench.measure.operators import OperatorCall, OperatorCalls, operator_calls
from bench.torch_utils.dry_run import blank_image, stand_in

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
        peak_activation_bytes: the most bytes that the image and all that a forward pass in evaluation mode makes of it
            take at once; see `bench.measure.activation_memory`.
        thop_macs: multiply-accumulates as thop counts them.
        thop_percent: how many percent of `macs` thop counts more.
        thop_note: one line: what makes that difference.
        input_size: (height, width) of the image in pixels.
        counter: what counted `macs`.
    """

    parameters: int
    nonzero_parameters: int
    macs: int
    flops: int
    state_bytes: int
    peak_activation_bytes: int
    thop_macs: int
    thop_percent: float
    thop_note: str
    input_size: tuple[int, int]
    counter: str = COUNTER


def measure_cost(model: nn.Module, input_size: tuple[int, int]) -> Cost:
    """Measures a network on one RGB image.

    The one forward pass, in evaluation mode, runs on shapes alone: nothing is computed, no weight is copied, and the
    model stays as it is.

        >>> cost = measure_cost(model, (360, 480))
        >>> cost.parameters, cost.macs
        (483036, 6146150400)

    Args:
        model: maps images [N, 3, H, W] to anything.
        input_size: (height, width) in pixels.
    """
    with stand_in(model) as shadow:
        # thop looks at weights, and those that are computed cost something each time.
        is_apart = any(map(is_parametrized, shadow.modules()))
        with OperatorCalls(shadow).noting() as operators, LiveBytes(shadow) as memory:
            # The image takes memory, too.
            image = blank_image(shadow, input_size)
            by_thop, layers = (shadow(image), {}) if is_apart else _by_thop(shadow, image)
        if is_apart:
            by_thop, layers = _by_thop(shadow, image)
        by_kind = _thop_by_kind(shadow, layers)
    macs, thop_macs = operators.macs, int(by_thop)
    return Cost(
        parameters=count_parameters(model),
        nonzero_parameters=count_nonzero_parameters(model),
        macs=macs,
        flops=2 * macs,
        state_bytes=state_bytes(model),
        peak_activation_bytes=memory.peak,
        thop_macs=thop_macs,
        thop_percent=100 * (thop_macs / macs - 1),
        thop_note=_thop_note(macs, thop_macs, by_kind),
        input_size=tuple(input_size),
    )


def _by_thop(shadow: nn.Module, image: Tensor) -> tuple[float, dict[str, tuple]]:
    """thop's count of one pass, and of each module in it."""
    macs, _, layers = profile(shadow, inputs=(image,), verbose=False, ret_layer_info=True)
    return macs, layers


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


def layer_macs(model: nn.Module, input_size: tuple[int, int]) -> dict[str, int]:
    """Multiply-accumulates of each convolution and linear layer that one image passes in evaluation mode.

    A layer whose weight a function uses counts, too. What no layer does, such as attention's products, does not.

    Returns:
        Layer name -> MACs, in the order of the network's modules.
    """
    layers = [name for name, layer in model.named_modules() if isinstance(layer, WEIGHTED)]
    counts: dict[str, int] = Counter()
    for call in operator_calls(model, input_size):
        counts[layer_of(call, layers)] += call.macs
    return {name: counts[name] for name in layers if name in counts}


def layer_of(call: OperatorCall, layers: Collection[str]) -> str | None:
    """The layer that makes a call, or whose weight a function multiplies; None where there is none."""
    owners = [call.module, *(weight.rpartition(".")[0] for weight in call.weights)]
    return next((name for name in owners if name in layers), None)


def _thop_by_kind(model: nn.Module, layers: Mapping[str, tuple]) -> Counter[str]:
    """thop's MACs by the type of module, convolutions and linear layers left out.

    Args:
        model: the network or a part of it.
        layers: what thop says of the modules in it: name -> (MACs with all inside, parameters, the same of those).
    """
    found: Counter[str] = Counter()
    if isinstance(model, torch.jit.ScriptModule):
        return found  # its parts have no types of their own
    for name, (macs, _, inner) in layers.items():
        module = model.get_submodule(name)
        if not isinstance(module, WEIGHTED):
            found[type(module).__name__] += int(macs - sum(part[0] for part in inner.values()))
        found += _thop_by_kind(module, inner)
    return +found


def _thop_note(macs: int, thop_macs: int, by_kind: Mapping[str, int]) -> str:
    """What makes thop's count another: the modules that only thop gives a cost, and what else differs."""
    rest = thop_macs - macs - sum(by_kind.values())
    parts = {**by_kind, **({"other operators": rest} if rest else {})}
    shown = ", ".join(f"{kind} {100 * count / macs:+.2f} %" for kind, count in parts.items())
    return f"thop also counts {shown}" if shown else "thop counts the same"
