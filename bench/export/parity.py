"""Whether an exported file gives the numbers of its network, and how long both take."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.config.values import size_text
from bench.errors import BenchError
from bench.export.facts import Facts
from bench.export.formats import Network
from bench.measure.latency import Effort, timed_rounds
from bench.measure.latency_mode import PLAIN_MODE

TOLERANCE = 1e-4
"""How far a logit may be from the network's, where none of these is above 1; else as a share of the largest."""

_OF_ROUNDING = 10
"""How many times as far it may be as the network's own logits are from those that it has in double precision. Another
order of the same sums loses as much as the network itself, and a norm folded into a convolution a few times as much.
More than `TOLERANCE` only in networks that are hardly trained, and very deep."""

BATCHES = (1, 2)

_LARGER = (17, 9)
"""By how many rows and columns the second of two sizes is larger: odd, so that nothing divides it."""


def check_parity(network: Network, model: nn.Module, facts: Facts, *, fixed: bool, what: str) -> dict[str, Any]:
    """Runs a network and its exported file on the same images, of two sizes where it takes any, in two batch sizes.

    Args:
        network: the file.
        model: the network it was made of.
        facts: of both.
        fixed: whether the file takes images of `facts.input_size` alone.
        what: what the file is called, for messages.

    Returns:
        `sizes` and `batches` that were tried, `largest_difference` of two logits, and `largest_logit`.

    Raises:
        BenchError: a logit differs by more than `TOLERANCE`, and by more than single precision explains.
    """
    sizes = [facts.input_size]
    if not fixed:
        sizes.append(tuple(side + more for side, more in zip(facts.input_size, _LARGER, strict=True)))
    generator = torch.Generator().manual_seed(0)
    difference, largest = 0.0, 0.0
    for size in sizes:
        for batch in BATCHES:
            images = torch.randn(batch, facts.input_channels, *size, generator=generator)
            with torch.inference_mode():
                expected, given = model(images), network(images)
            found = _difference(given, expected)
            limit = TOLERANCE * max(1.0, expected.abs().max().item())
            # Written so that what is no number fails.
            if not found <= limit:
                limit = max(limit, _OF_ROUNDING * _difference(expected, exact_logits(model, images)))
            if not found <= limit or found == math.inf:
                raise BenchError(
                    f"{what} is not the network: on {batch} x {size_text(size)} a logit differs by {found:.2g}, "
                    f"{limit:.2g} are allowed; it was not written"
                )
            difference, largest = max(difference, found), max(largest, expected.abs().max().item())
    return {"sizes": sizes, "batches": BATCHES, "largest_difference": difference, "largest_logit": largest}


@torch.inference_mode()
def exact_logits(model: nn.Module, images: Tensor) -> Tensor:
    """The network's logits, computed in double precision."""
    return copy.deepcopy(model).double()(images.double())


def _difference(given: Tensor, expected: Tensor) -> float:
    return (given - expected).abs().max().item() if given.shape == expected.shape else float("inf")


def time_beside(networks: Mapping[str, Network], facts: Facts, effort: Effort) -> dict[str, Any]:
    """Times networks by turns on one image, as `bench.measure.latency` does.

    Args:
        networks: name -> network on the CPU; the first is what the others are compared with.
        facts: their size and channels.
        effort: warm-up passes, timed rounds and the time limit.

    Returns:
        `input_size`, `rounds`, `warmup`, `threads`, and by network `median_ms` and, but for the first, `speedup` with
        the ends of its 95 % interval.
    """
    images = torch.rand(1, facts.input_channels, *facts.input_size, generator=torch.Generator().manual_seed(0))
    passes = {name: (network, images) for name, network in networks.items()}
    found = timed_rounds(passes, torch.device("cpu"), PLAIN_MODE, effort)
    first, *others = networks
    rows: dict[str, Any] = {name: {"median_ms": float(np.median(found.times[name]))} for name in networks}
    for name in others:
        rows[name] |= dict(zip(_SPEEDUP, found.speedup(first, name), strict=True))
    return {
        "input_size": facts.input_size,
        "rounds": len(found.orders),
        "warmup": found.warmup,
        "threads": torch.get_num_threads(),
        "networks": rows,
    }


_SPEEDUP: Sequence[str] = ("speedup", "speedup_low", "speedup_high")
