"""Weights that are numbers, and those that are not."""

from __future__ import annotations

import math

import pytest
import torch
import toy_networks as toys

from bench.torch_utils.finite import first_fault, has_finite_weights


def test_a_network_of_numbers_is_finite() -> None:
    # The count of batches is an integer, which has no infinity.
    model = toys.settled(toys.Chain())
    assert any(not tensor.is_floating_point() for tensor in model.state_dict().values())
    assert has_finite_weights(model)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["first.0.weight", "second.1.running_var", "head.bias"])
def test_a_single_value_of_a_weight_or_a_buffer_is_found(name: str, value: float) -> None:
    model = toys.settled(toys.Chain())
    with torch.no_grad():
        model.state_dict()[name].view(-1)[-1] = value
    assert not has_finite_weights(model)
    assert first_fault(model.state_dict()).startswith(f"{name} is not finite (1 of ")


def test_a_variance_below_zero_is_a_fault_though_finite() -> None:
    model = toys.settled(toys.Chain())
    assert first_fault(model.state_dict()) is None
    model.state_dict()["second.1.running_var"][2] = -0.25
    assert has_finite_weights(model)
    assert first_fault(model.state_dict()) == "second.1.running_var is a variance below 0 (-0.25)"
