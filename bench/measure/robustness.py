"""How well networks segment images that something has befallen: mIoU under each corruption at each severity."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from bench.datasets.corruptions import SEVERITIES, Corruption
from bench.measure.evaluation import evaluate_each
from bench.measure.evaluation_report import CorruptedQuality, EvaluationReport, RobustnessRecord
from bench.system.files import plain

if TYPE_CHECKING:
    from bench.measure.baseline import Baseline


def score_corrupted(
    baseline: Baseline, networks: Sequence[nn.Module], clean: Sequence[float], label: str
) -> list[CorruptedQuality]:
    """Scores networks under every corruption; each corrupted image is made once for all of them.

    Args:
        baseline: the data, the split, the device, and how networks are scored there.
        networks: all are on the device at once.
        clean: mIoU of each on the images as they are, 0..1.
        label: what they are called in progress bars.

    Raises:
        BenchError: the output of one of them is not finite.
    """
    data, split = baseline.data, baseline.split
    settings = {"device": baseline.device, "scoring": replace(baseline.scoring, boundary_width=0.0)}
    found: list[dict[str, list[float]]] = [{name: [] for name in SEVERITIES} for _ in networks]
    for name, constants in SEVERITIES.items():
        for severity in range(1, len(constants) + 1):
            loader = data.eval_loader(split, change=Corruption(name, severity))
            stage = f"scoring {label} on {split} under {name} {severity}"
            scores = evaluate_each(networks, loader, data.classes, label=stage, **settings)
            for shares, evaluation in zip(found, scores, strict=True):
                shares[name].append(evaluation.quality.miou)
    return [_summed_up(shares, miou) for shares, miou in zip(found, clean, strict=True)]


def _summed_up(shares: Mapping[str, Sequence[float]], clean: float) -> CorruptedQuality:
    # Every corruption has as many severities, so that this is the mean of the means, too.
    mean = statistics.fmean(share for severities in shares.values() for share in severities)
    return {"miou": mean, "retention": mean / clean if clean else None, "by_corruption": plain(dict(shares))}


def robustness_record(baseline: CorruptedQuality, candidate: CorruptedQuality | None) -> RobustnessRecord:
    """What a report says of both."""
    return plain({"corruptions": SEVERITIES, "baseline": baseline, "candidate": candidate})


def known_robustness(report: EvaluationReport, baseline: Baseline) -> RobustnessRecord | None:
    """What a report of an earlier run says, where that was measured beside this baseline, with these corruptions."""
    record = report.get("robustness")
    is_same = (
        record is not None
        and record["corruptions"] == plain(SEVERITIES)
        and report["baseline"]["sha256"] == baseline.digest
        and report["split"] == baseline.split
        and report["scoring"] == plain(baseline.scoring)
        and not baseline.data.files(baseline.split).changed_since(report.get("data"))
    )
    return record if is_same else None
