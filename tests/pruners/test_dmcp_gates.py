"""DMCP's formulas against hand-made numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bench.pruners.dmcp.gates import (
    FAR,
    Layout,
    budget_loss,
    expected_width,
    gate_layout,
    gates_by_rank,
    marginals,
    prefix,
    sample_width,
    scores_from_width,
    shift_to_budget,
    shifted,
)

PROBABILITIES = [0.9, 0.8, 0.5, *[0.9] * 6]
WIDE = gate_layout(64)


def logits(probabilities: list[float]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).logit()


@pytest.mark.parametrize(
    ("channels", "size", "always"), [(64, 6, 10), (256, 25, 31), (512, 51, 53), (2048, 204, 212), (20, 2, 2)]
)
def test_the_published_division(channels: int, size: int, always: int) -> None:
    assert gate_layout(channels) == Layout(always, size, 9)
    assert gate_layout(channels).channels == channels


@pytest.mark.parametrize(("channels", "always"), [(1, 1), (2, 1), (6, 1), (10, 1), (11, 2), (16, 2), (19, 2)])
def test_narrow_groups_go_by_single_channels(channels: int, always: int) -> None:
    assert gate_layout(channels) == Layout(always, 1, channels - always)


def test_marginals_and_the_mean_width_by_hand() -> None:
    chain = logits(PROBABILITIES)
    wanted = [0.9, 0.72, 0.36, 0.324, 0.2916, 0.26244, 0.236196, 0.2125764, 0.19131876]
    assert marginals(chain).tolist() == pytest.approx(wanted)
    assert expected_width(WIDE, chain).item() == pytest.approx(10 + 6 * sum(wanted))
    assert expected_width(WIDE, chain).item() == pytest.approx(30.989, abs=5e-4)
    assert expected_width(WIDE, torch.full((9,), -10.0)).item() == pytest.approx(10.0003, abs=5e-5)
    assert expected_width(WIDE, torch.full((9,), 10.0)).item() == pytest.approx(63.988, abs=5e-4)
    assert expected_width(WIDE, torch.full((9,), 0.0)).item() == pytest.approx(15.99, abs=5e-3)
    assert expected_width(WIDE, torch.full((9,), 2.0)).item() == pytest.approx(40.2, abs=0.05)


def test_sampling_agrees_with_the_mean() -> None:
    chain, generator = logits(PROBABILITIES), torch.Generator().manual_seed(0)
    draws = torch.tensor([sample_width(WIDE, chain, generator) for _ in range(4000)], dtype=torch.float64)
    assert set(draws.tolist()) <= {10.0 + 6 * k for k in range(10)}
    # Four standard errors.
    assert draws.mean().item() == pytest.approx(30.989, abs=4 * draws.std().item() / math.sqrt(4000))
    for k, share in enumerate(marginals(chain).tolist(), start=1):
        assert (draws >= 10 + 6 * k).double().mean().item() == pytest.approx(share, abs=0.033)


def test_a_walk_stops_at_its_first_failure_and_follows_the_seed() -> None:
    blocked = torch.tensor([50.0, 50.0, -50.0, *[50.0] * 6])
    assert sample_width(WIDE, blocked, torch.Generator().manual_seed(1)) == 10 + 2 * 6
    runs = [
        [sample_width(WIDE, logits(PROBABILITIES), generator) for _ in range(20)]
        for generator in (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    ]
    assert runs[0] == runs[1] != runs[2]


def test_invariants_of_the_mean_width() -> None:
    generator = torch.Generator().manual_seed(3)
    for channels in (1, 7, 16, 64, 300):
        layout = gate_layout(channels)
        chain = 2 * torch.randn(layout.steps, generator=generator, dtype=torch.float64)
        assert (marginals(chain).diff() <= 0).all()
        width = expected_width(layout, chain)
        assert layout.always <= width <= channels
        for step in range(layout.steps):
            wider = chain.clone()
            wider[step] += 0.1
            assert expected_width(layout, wider) > width


def test_early_steps_count_more() -> None:
    chain = torch.full((9,), 0.7, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(expected_width(WIDE, chain), chain)
    assert (gradient > 0).all()
    assert (gradient.diff() < 0).all()


def test_gates_of_the_ranks() -> None:
    gates = gates_by_rank(WIDE, logits(PROBABILITIES))
    assert gates.shape == (64,)
    assert gates[:10].tolist() == [1] * 10
    assert gates[10:16].tolist() == pytest.approx([0.9] * 6)
    assert gates[58:].tolist() == pytest.approx([0.19131876] * 6)
    assert prefix(Layout(2, 1, 3), 3).tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("expected", "gradient"), [(500, -2e-4), (900, -1e-3), (960, 0), (1001, 1.9608e-3), (1300, 2.8571e-4)]
)
def test_the_pull_of_the_budget(expected: float, gradient: float) -> None:
    macs = torch.tensor(float(expected), dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(0.1 * budget_loss(macs, 1000), macs)
    assert found.item() == pytest.approx(gradient, rel=1e-4, abs=1e-12)


def test_the_budget_loss_by_hand() -> None:
    def loss(macs: float) -> float:
        return budget_loss(torch.tensor(macs, dtype=torch.float64), 1000).item()

    assert loss(500.0) == pytest.approx(math.log(500))
    assert loss(960.0) == 0
    assert loss(1000.0) == pytest.approx(math.log(50))
    assert loss(1300.0) == pytest.approx(math.log(350))


def test_the_shift_that_meets_a_budget() -> None:
    chain = {"a": logits(PROBABILITIES), "b": torch.zeros(9, dtype=torch.float64)}

    def macs(shift: float) -> float:
        widths = [expected_width(WIDE, values).item() for values in shifted(chain, shift).values()]
        return widths[0] * widths[1]

    for target in (150.0, 1000.0, 4000.0):
        assert macs(shift_to_budget(macs, target)) == pytest.approx(target)
    assert shift_to_budget(macs, 64.0 * 64.0) > 20
    assert macs(shift_to_budget(macs, 64.0 * 64.0)) == pytest.approx(64 * 64)
    # Out of reach on either side.
    assert shift_to_budget(macs, 5000.0) == pytest.approx(FAR)
    assert shift_to_budget(macs, 99.0) == pytest.approx(-FAR)


def test_scores_keep_the_rounded_width_at_threshold_one() -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    for width, kept in ((0.6, 1), (1.4, 1), (1.6, 2), (3.49, 3), (3.51, 4), (5.0, 5)):
        scores = scores_from_width(order, width)
        assert (scores >= 1).nonzero().flatten().tolist() == sorted(order[:kept].tolist())
        assert torch.equal(scores.argsort(descending=True), order)
        # Twice the threshold, half the width.
        assert int((scores >= 2).sum()) == math.floor(width / 2 + 0.5)
