"""What channels are worth by curves: hulls by hand."""

from __future__ import annotations

import numpy as np

from bench.plan.sensitivity_curves import channel_losses


def test_between_two_points_every_channel_is_worth_the_same() -> None:
    assert channel_losses([(2, 1.0), (4, 5.0)], 6).tolist() == [0.5, 0.5, 2.0, 2.0, 2.0, 2.0]
    assert channel_losses([(4, 5.0), (2, 1.0)], 4).tolist() == [0.5, 0.5, 2.0, 2.0]


def test_a_curve_that_flattens_is_a_line() -> None:
    """Channels go from the least important one, so none is worth less than the one before."""
    assert channel_losses([(1, 4.0), (2, 6.0), (4, 8.0)], 4).tolist() == [2.0] * 4


def test_gains_and_falls_are_noise() -> None:
    assert channel_losses([(1, -0.5), (2, -1.0), (4, 2.0)], 4).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert channel_losses([(2, 3.0), (3, 1.0), (4, 6.0)], 4).tolist() == [1.0, 1.0, 1.0, 3.0]


def test_no_point_is_no_loss() -> None:
    assert channel_losses([], 3).tolist() == [0.0] * 3
    assert channel_losses([(0, 7.0)], 3).tolist() == [0.0] * 3


def test_worth_never_falls() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        points = [(int(count), float(loss)) for count, loss in zip(random.integers(0, 30, 6), random.random(6))]  # noqa: B905
        worth = channel_losses(points, 32)
        assert (np.diff(worth) >= -1e-12).all() and (worth >= 0).all()
        # A lower hull: no point lies below what the channels add up to.
        for count, _ in points:
            highest = max((loss for other, loss in points if other <= count), default=0.0)
            assert worth[:count].sum() <= highest + 1e-9
