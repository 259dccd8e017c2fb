"""Benchmarks of a tiny network on a tiny data set, run without a command line.

Pictures of summaries, which `tests/report` looks at, would take a third of the time; they are drawn where a test asks.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from bench.datasets.options import DataOptions
from bench.engine.options import PruneOptions
from bench.engine.session import Session
from bench.jobs.selection import EVERYTHING, Selection
from bench.measure.baseline import Baseline
from bench.measure.options import ScoringOptions, TimingOptions
from bench.plan.target import Goal
from bench.pruners import make_pruners
from bench.pruners.base import Method
from bench.report.summary_record import ComparisonRow
from bench.sweep.cells import cells_of
from bench.sweep.finetune_all import finetune_benchmark
from bench.sweep.grid import Job, grid
from bench.sweep.run import run_cells
from bench.training.distillation import distillation_of
from bench.training.options import DistillOptions, TrainOptions

QUICK = PruneOptions(calib_images=2, calib_batch_size=2, recalibration_images=2)
UNTIMED = TimingOptions(latency=False, latency_channels_last=False)
TIMED = TimingOptions(latency_warmup=0, latency_runs=10, latency_channels_last=False)
RECIPE = TrainOptions(epochs=1, batch_size=4, lr=0.01)
SCORING = ScoringOptions()


def undrawn() -> contextlib.AbstractContextManager[object]:
    """Summaries in the block have no picture."""
    return patch("bench.report.summary.plot_tradeoffs", return_value=False)


def run_benchmark(
    session: Session, pruners: Mapping[str, Method], jobs: Sequence[Job], finetune: TrainOptions | None, out: Path
) -> list[ComparisonRow]:
    return run_cells(cells_of(session, pruners, jobs, finetune, out), session, out)


class Benchmark:
    def __init__(self, data_root: Path, baseline: Path, out: Path):
        self.draws = False
        self.data, self.baseline, self.out = DataOptions("camvid", str(data_root), num_workers=0), baseline, out

    def reference(self, timing: TimingOptions = UNTIMED, scoring: ScoringOptions = SCORING, seed: int = 0) -> Baseline:
        return Baseline(self.baseline, self.data, scoring, timing, device=torch.device("cpu"), seed=seed)

    def run(
        self,
        methods: Sequence[str] = ("l1", "random"),
        ratios: Sequence[float] = (0.1,),
        seeds: Sequence[int] = (0,),
        *,
        kind: str = "channels",
        options: PruneOptions = QUICK,
        settings: dict[str, Any] | None = None,
        timing: TimingOptions = UNTIMED,
        scoring: ScoringOptions = SCORING,
        finetune: TrainOptions | None = None,
        seed: int = 0,
    ) -> list[dict[str, Any]]:
        session = Session(self.reference(timing, scoring, seed), options, self.out / "scores")
        pruners = make_pruners(methods, settings or {})
        jobs = grid(methods, [Goal(kind, ratio) for ratio in ratios], seeds)
        with self._pictures():
            return run_benchmark(session, pruners, jobs, finetune, self.out)

    def finetune(
        self,
        recipe: TrainOptions = RECIPE,
        distill: DistillOptions | None = None,
        selection: Selection = EVERYTHING,
        **changes: Any,
    ) -> list[dict[str, Any]]:
        reference = self.reference(**changes)
        taught = distillation_of(distill or DistillOptions(), reference.saved.model, reference.digest)
        with self._pictures():
            return finetune_benchmark(reference, recipe, self.out, taught, selection)

    def _pictures(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self.draws else undrawn()

    def recipe(self) -> dict[str, Any]:
        """What the report of the only job says about its fine-tuning."""
        (path,) = self.out.glob("*/finetuned_report.json")
        return json.loads(path.read_text())["finetune"]["recipe"]

    def summary(self, name: str = "benchmark_summary") -> dict[str, Any]:
        return json.loads((self.out / f"{name}.json").read_text())

    def written(self, name: str) -> dict[str, int]:
        """Folder -> when the file was last written, in nanoseconds."""
        return {path.parent.name: path.stat().st_mtime_ns for path in self.out.glob(f"*/{name}")}


def of_method(folders: dict[str, int], method: str) -> dict[str, int]:
    return {name: written for name, written in folders.items() if name.startswith(method)}


def numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    timed = ("seconds", "baseline_latency_ms", "latency_ms", "speedup", "speedup_low", "speedup_high")
    return [{key: value for key, value in row.items() if key not in timed} for row in rows]
