"""What a network costs to store and to run: parameters, multiply-accumulates, bytes.

MACs are counted from the operators a forward pass calls (`torch.utils.flop_counter`: convolutions, matrix
products and attention; no normalisation, activation or interpolation), and FLOPs are twice that. thop's count stands
beside them: it goes by modules, and its rules give normalisation, average pooling and upsampling something too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from thop import profile
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.channels.layer_axes import WEIGHTED
from bench.measure.activation_memory import LiveBytes
from bench.torch_utils.dry_run import blank_image, stand_in
from bench.torch_utils.hooks import calls_seen

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
    counter = FlopCounterMode(display=False)
    with stand_in(model) as shadow, counter, LiveBytes(shadow) as memory:
        image = blank_image(shadow, input_size)
        by_thop, _, layers = profile(shadow, inputs=(image,), verbose=False, ret_layer_info=True)
        by_kind = _thop_by_kind(shadow, layers)
    macs, thop_macs = counter.get_total_flops() // 2, int(by_thop)
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

    Returns:
        Layer name -> MACs, in the order of the network's modules.
    """
    layers, places = dict(model.named_modules()), weight_places(model, input_size)
    return {name: places[name] * layer.weight.numel() for name, layer in layers.items() if name in places}


def weight_places(model: nn.Module, input_size: tuple[int, int]) -> dict[str, int]:
    """Layer name -> places its whole weight is applied at while one image passes in evaluation mode.

    Convolutions and linear layers alone; those that the pass does not reach are left out.
    """
    counts: dict[str, int] = Counter()

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, WEIGHTED)}

    def count(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # A transposed convolution applies its weight once an input pixel, the others once an output pixel.
        pixels = inputs[0] if isinstance(layers[name], nn.ConvTranspose2d) else output
        channel_axis = -1 if isinstance(layers[name], nn.Linear) else 1
        counts[name] += pixels.numel() // pixels.shape[channel_axis]

    with stand_in(model) as shadow, calls_seen(shadow, layers, count):
        shadow(blank_image(shadow, input_size))
    return dict(counts)


def _thop_by_kind(model: nn.Module, layers: Mapping[str, tuple]) -> Counter[str]:
    """thop's MACs by the type of module, convolutions and linear layers left out.

    Args:
        model: the network or a part of it.
        layers: what thop says of the modules in it: name -> (MACs with all inside, parameters, the same of those).
    """
    found: Counter[str] = Counter()
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
