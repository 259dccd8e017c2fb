"""The layers that make a network's outputs: which they are, how many outputs a file has, and fresh ones for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from bench.errors import UsageError
from bench.models import ModelSpec, blank_model
from bench.models.parts import CLASSIFIER_STD


def output_axes(spec: ModelSpec) -> dict[str, int]:
    """Tensor name -> the axis along which it has one entry an output: what differs between two numbers of outputs."""
    one, more = (blank_model(replace(spec, outputs=outputs)).state_dict() for outputs in (1, 2))
    return {
        name: next(axis for axis, size in enumerate(tensor.shape) if size != more[name].shape[axis])
        for name, tensor in one.items()
        if tensor.shape != more[name].shape
    }


def outputs_of(weights: Mapping[str, Tensor], spec: ModelSpec) -> int | None:
    """How many outputs the tensors of a file have; None where their output layers are missing or do not agree."""
    axes = output_axes(spec)
    found = {weights[name].shape[axis] for name, axis in axes.items() if name in weights and weights[name].ndim > axis}
    return found.pop() if len(found) == 1 else None


def with_fresh_outputs(weights: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """The tensors of a network with output layers that have learnt nothing.

    They are drawn as those of a new network (`bench.models.parts.initialise`) and are as wide towards what they read as
    they were, so that a pruned network's fit too.

    Args:
        weights: tensors of a file, of any number of outputs, or without output layers.
        spec: the network and the number of its outputs.

    Raises:
        UsageError: nothing tells the output layers of a network of the user's own: its factory takes no number of them.
    """
    axes = output_axes(spec)
    if not axes:
        raise UsageError(
            f"{spec.name} takes no number of outputs that tells which layers make them; leave out `reset_head`"
        )
    dense = blank_model(spec).state_dict()
    fresh = dict(weights)
    for name, axis in axes.items():
        shape = list(weights[name].shape if name in weights else dense[name].shape)
        shape[axis] = spec.outputs
        fresh[name] = torch.zeros(shape) if len(shape) == 1 else torch.normal(0.0, CLASSIFIER_STD, shape)
    return fresh


def output_layers(spec: ModelSpec) -> str:
    """The names of the layers, for a message."""
    return ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in output_axes(spec)))
