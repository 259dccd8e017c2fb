"""The parts of a day, the most valuable first."""

from __future__ import annotations

from typing import Any

from tests.device_day import baseline, cuda, latency, oracle, training

PARTS = {part.name: part for part in (cuda.PART, training.PART, latency.PART, oracle.PART, baseline.PART)}

# Sizes that a CPU is through with in seconds.
TINY: dict[str, Any] = {
    "input_size": (32, 48),
    "models": ("unet_small",),
    "batch": 2,
    "images": 4,
    "epochs": 2,
    "workers": 0,
    "rounds": 10,
    "units": 1,
    "matrix": 64,
    "baseline": "unet_small",
    "most_epochs": 2,
}
