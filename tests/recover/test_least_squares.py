"""The regression under the repair: against torch.linalg.lstsq, and on numbers made by hand."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import Tensor

from bench.errors import BenchError
from bench.recover import least_squares
from bench.recover.least_squares import constant, moments, ridge, squared_error


def samples(groups: int = 3, count: int = 40, inputs: int = 5, outputs: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs with a mean, targets that depend on them, and weights to start from; float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(groups, count, inputs, generator=generator, dtype=torch.float64) + 2
    truth = torch.randn(groups, outputs, inputs, generator=generator, dtype=torch.float64)
    noise = torch.randn(groups, count, outputs, generator=generator, dtype=torch.float64)
    before = torch.randn(groups, outputs, inputs, generator=generator, dtype=torch.float64)
    return x, x @ truth.mT + 3 + 0.1 * noise, before


def test_the_example() -> None:
    assert doctest.testmod(least_squares).failed == 0


@pytest.mark.parametrize("share", [1e-12, 1e-3, 1.0, 1e6])
def test_ridge_is_lstsq_on_a_longer_system(share: float) -> None:
    """lambda ||W - W0||^2 is the square of further rows."""
    x, y, before = samples()
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    weights, taken = ridge(moments(x, y), before, share)
    assert taken == share
    for group in range(len(x)):
        root = (share * x[group].square().sum(0).mean()).sqrt()
        longer = torch.cat([x[group], root * torch.eye(5, dtype=torch.float64)])
        wanted = torch.linalg.lstsq(longer, torch.cat([y[group], root * before[group].T])).solution.T
        torch.testing.assert_close(weights[group], wanted)


def test_centred_moments_are_those_of_centred_samples() -> None:
    x, y, before = samples()
    found = moments(x, y)
    wanted = moments(x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True))
    for name, tensor in vars(found.centred()).items():
        torch.testing.assert_close(tensor, getattr(wanted, name), msg=name)
    weights, _ = ridge(found.centred(), before, 1e-12)
    added = constant(found, weights)
    # With a constant it is the regression on the inputs and a column of ones.
    ones = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
    both = torch.linalg.lstsq(ones, y).solution.mT
    torch.testing.assert_close(torch.cat([weights, added[..., None]], dim=-1), both)


def test_parts_add_up_and_errors_are_counted() -> None:
    x, y, weights = samples()
    whole = moments(x, y)
    parts = moments(x[:, :15], y[:, :15]) + moments(x[:, 15:], y[:, 15:])
    for name, tensor in vars(parts).items():
        torch.testing.assert_close(tensor, getattr(whole, name), msg=name)
    added = constant(whole, weights)
    torch.testing.assert_close(squared_error(whole, weights), (y - x @ weights.mT).square().sum(1))
    left = y - x @ weights.mT - added[:, None]
    torch.testing.assert_close(squared_error(whole, weights, added), left.square().sum(1))


def test_sums_are_in_double_precision() -> None:
    """In single precision the variance of 1 beside a mean of 10,000 would be lost in the squares."""
    generator = torch.Generator().manual_seed(1)
    x = (torch.randn(1, 5000, 3, generator=generator) + 1e4).float()
    y = (x.double() @ torch.tensor([[1.0], [-2.0], [0.5]]).double() - 7).float()
    found = moments(x, y)
    assert found.xx.dtype == torch.float64
    weights, _ = ridge(found.centred(), torch.zeros(1, 1, 3), 1e-9)
    torch.testing.assert_close(weights, torch.tensor([[[1.0, -2.0, 0.5]]]).double(), atol=1e-3, rtol=0)


def test_an_ill_conditioned_system_is_damped_more() -> None:
    x = torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    twice = torch.cat([x, x[..., :1]], dim=-1)
    y = twice @ torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    weights, taken = ridge(moments(twice, y), torch.zeros(1, 1, 3), 1e-18)
    assert 1e-18 < taken < 1e-9
    torch.testing.assert_close(twice @ weights.mT, y, atol=1e-6, rtol=1e-6)
    # Of two equal inputs each gets half: the shortest weights.
    torch.testing.assert_close(weights[0, 0], torch.tensor([2.0, 2.0, 2.0]).double(), atol=0.02, rtol=0)


def test_what_never_varies_keeps_its_weights() -> None:
    before = torch.tensor([[[1.5, -2.0]]])
    weights, _ = ridge(moments(torch.zeros(1, 9, 2), torch.ones(1, 9, 1)), before, 1e-3)
    torch.testing.assert_close(weights, before.double())


def test_what_is_not_finite_is_refused() -> None:
    x = torch.tensor([[[1.0], [float("nan")]]])
    with pytest.raises(BenchError, match="not finite"):
        ridge(moments(x, x), torch.ones(1, 1, 1), 1e-3)
