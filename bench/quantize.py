"""Old name of `bench.measure.int8`, for programs written when it was the only one."""

from __future__ import annotations

from bench.measure.int8 import load_int8

__all__ = ["load_int8"]
