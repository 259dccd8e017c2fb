"""CUT: removing the channels a plan does not keep: `from bench.cut import cut`."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """`cut` and `fresh_network`, imported when they are first asked for."""
    if name not in ("cut", "fresh_network"):
        raise AttributeError(f"module 'bench.cut' has no attribute '{name}'")
    from bench.cut import network

    return getattr(network, name)
