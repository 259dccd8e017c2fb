"""Where a command runs."""

from __future__ import annotations

from dataclasses import dataclass

from bench.config.declare import option
from bench.config.values import positive, whole


@dataclass
class RunOptions:
    """Where and how reproducibly a command runs."""

    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    seed: int = option(0, "seed of everything random", parse=whole)
    threads: int | None = option(None, "CPU threads (default: torch's choice)", parse=positive)
    deterministic: bool = option(False, "only deterministic kernels (slower on CUDA)")
