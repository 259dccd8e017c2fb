"""Summaries without their picture, which `tests/report` looks at."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture takes longer than much of what is compared."""
    monkeypatch.setattr("bench.report.summary.plot_tradeoffs", lambda *_: False)
