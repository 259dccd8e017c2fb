"""Summaries without their picture, which takes longer than much of what is compared here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from toy_benchmarks import undrawn


@pytest.fixture(autouse=True)
def no_pictures() -> Iterator[None]:
    """None of the tests of this folder looks at one."""
    with undrawn():
        yield
