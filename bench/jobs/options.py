"""Which jobs a comparison has, and how the sensitivity of groups is measured."""

from __future__ import annotations

from dataclasses import dataclass

from bench.config.declare import option
from bench.config.values import list_of, parse_bytes, parse_kept, parse_latency, parse_ratio, positive, share, whole


@dataclass
class GridOptions:
    """Which methods are compared, how far each prunes, and how often."""

    methods: list[str] = option(
        ["l1", "taylor", "random"], "methods; benchmark.py --list-methods names them", parse=list_of(str)
    )
    ratios: list[float] = option(
        [], "shares of the prunable channels to remove, or of the weights to zero", parse=list_of(parse_ratio)
    )
    seeds: list[int] = option(
        [], "seeds of each (method, target) (default: in benchmark.py --seed)", parse=list_of(whole)
    )
    target_macs: list[float] = option([], "instead of --ratios: shares of the MACs to keep", parse=list_of(parse_kept))
    target_params: list[float] = option(
        [], "instead of --ratios: shares of the parameters to keep", parse=list_of(parse_kept)
    )
    target_size: list[int] = option(
        [], "instead of --ratios: sizes of the saved tensors, such as 10MB", parse=list_of(parse_bytes)
    )
    target_latency: list[tuple[str, float]] = option(
        [],
        "instead of --ratios: shares of the baseline's latency to keep, or times on this device such as 12ms",
        parse=list_of(parse_latency),
    )
    report_only: bool = option(
        False, "make summary and leaderboard.html of --out-dir anew from the records in it, and exit"
    )


SCRATCH, SCRATCH_FULL = "scratch", "scratch-full"
"""Controls of a pruning: its shape from new weights, trained as fine-tuning is, and as the baseline was."""


def parse_control(text: str) -> str:
    """The name of a control."""
    if text not in (SCRATCH, SCRATCH_FULL):
        raise ValueError(f"'{text}' is no control; write {SCRATCH} or {SCRATCH_FULL}")
    return text


@dataclass
class ControlOptions:
    """What shows whether pruning was worth it."""

    controls: list[str] = option(
        [],
        f"also train the shape of each pruned network from new weights: {SCRATCH} by the recipe of fine-tuning, "
        f"{SCRATCH_FULL} by that of the baseline",
        parse=list_of(parse_control),
    )


@dataclass
class SensitivityOptions:
    """How each group's sensitivity to pruning is measured."""

    sensitivity_ratios: list[float] = option(
        [0.1, 0.3, 0.5, 0.7, 0.9],
        "shares of its channels that each group loses in turn for --sensitivity",
        parse=list_of(parse_ratio),
    )
    sensitivity_images: int = option(
        64,
        "images that --sensitivity scores each network on, of --split or else of the training images",
        parse=positive,
    )
    sensitivity_drop: float = option(
        1.0, "mIoU points a group's ratio may cost to be written to sensitivity_ratios.yaml", parse=share
    )
