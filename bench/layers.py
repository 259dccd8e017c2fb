"""Old name of `bench.channels.layer_axes`, for methods written when it was the only one."""

from __future__ import annotations

from bench.channels.layer_axes import out_filters

__all__ = ["out_filters"]
