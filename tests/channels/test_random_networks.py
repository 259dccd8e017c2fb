"""A few of the networks that `tests.reliability.random_cuts` draws."""

from __future__ import annotations

import pytest
from random_networks import fault_of


@pytest.mark.parametrize("seed", range(6))
def test_no_cut_that_is_called_possible_is_wrong(seed: int) -> None:
    assert fault_of(seed) is None
