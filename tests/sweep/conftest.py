"""A benchmark for each test."""

from __future__ import annotations

import pytest
from toy_benchmarks import Benchmark


@pytest.fixture
def bench(tiny_camvid, shallow_baseline, tmp_path):
    """The benchmark commands on a tiny network and data set, with results in one folder."""
    return Benchmark(tiny_camvid, shallow_baseline, tmp_path / "out")


@pytest.fixture
def fine_bench(tiny_camvid, tiny_baseline, tmp_path):
    """The same on a network of so many channels that a target is met closely."""
    return Benchmark(tiny_camvid, tiny_baseline, tmp_path / "out")
