"""By how much a method beats the random control."""

from __future__ import annotations

import math

import pytest

from bench.report.versus_random import gaps_to_control


def row(method: str, seed: int, miou: float | None, ratio: float = 0.3, macs: float = 0.5, **changes) -> dict:
    known = {"method": method, "target": "channels", "ratio": ratio, "seed": seed, "status": "done"}
    return {**known, "macs_kept": macs, "miou_finetuned": miou, **changes}


def gaps_of(*rows: dict) -> dict:
    return {(gap.method, gap.ratio): gap for gap in gaps_to_control(rows, "miou_finetuned")}


def test_a_gap_is_the_mean_of_the_seeds_differences():
    control = [row("random", seed, miou) for seed, miou in enumerate((0.30, 0.40, 0.50))]
    method = [row("taylor", seed, miou, macs=0.6) for seed, miou in enumerate((0.33, 0.42, 0.54))]
    gap = gaps_of(*control, *method)["taylor", 0.3]
    # Differences of 3, 2 and 4 points: mean 3, standard deviation 1; the control's own spread does not matter.
    assert gap.points == pytest.approx(3)
    assert gap.margin == pytest.approx(4.303 / math.sqrt(3))
    assert (gap.seeds, gap.verdict) == (3, "ahead")
    assert gap.macs_points == pytest.approx(10)


@pytest.mark.parametrize(
    ("mious", "verdict"),
    [((0.27, 0.38, 0.46), "behind"), ((0.33, 0.40, 0.49), "not told apart"), ((0.30, 0.40, 0.50), "not told apart")],
)
def test_a_method_is_behind_or_not_told_apart(mious: tuple[float, ...], verdict: str):
    control = [row("random", seed, miou) for seed, miou in enumerate((0.30, 0.40, 0.50))]
    method = [row("l1", seed, miou) for seed, miou in enumerate(mious)]
    assert gaps_of(*control, *method)["l1", 0.3].verdict == verdict


def test_one_seed_tells_nothing_apart():
    gap = gaps_of(row("random", 0, 0.1), row("l1", 0, 0.9))["l1", 0.3]
    assert (gap.points, gap.margin, gap.verdict) == (pytest.approx(80), None, "not told apart")


def test_only_what_both_were_scored_at_is_compared():
    rows = [row("random", 0, 0.3), row("random", 1, 0.3), row("random", 0, 0.2, ratio=0.5)]
    rows += [row("l1", 0, 0.4), row("l1", 1, None), row("l1", 2, 0.9), row("l1", 0, 0.1, ratio=0.1)]
    rows += [row("l2", 0, None, status="failed")]
    gaps = gaps_of(*rows)
    assert gaps.keys() == {("l1", 0.3)}
    assert gaps["l1", 0.3].seeds == 1
    assert gaps_of(row("l1", 0, 0.3)) == {}


def test_many_seeds_use_the_last_quantile():
    control = [row("random", seed, 0.3) for seed in range(20)]
    method = [row("l1", seed, 0.3 + (0.01 if seed % 2 else 0.03)) for seed in range(20)]
    gap = gaps_of(*control, *method)["l1", 0.3]
    assert gap.points == pytest.approx(2)
    assert gap.margin == pytest.approx(2.228 * math.sqrt(20 / 19) / math.sqrt(20))
