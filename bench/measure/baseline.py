"""The baseline every candidate is compared with: its data, quality and cost, measured once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.data import SegmentationData
from bench.datasets import dataset_class
from bench.datasets.options import DataOptions
from bench.errors import BenchError
from bench.measure.cost import measure_cost
from bench.measure.evaluation import Evaluation, evaluate_both, evaluate_images, predictions
from bench.measure.evaluation_report import (
    FORMAT,
    Change,
    CostRecord,
    EvaluationReport,
    FileRecord,
    NetworkRecord,
    cost_changes,
    file_record,
    network_record,
)
from bench.measure.inference import Scoring
from bench.measure.latency import Effort, time_networks
from bench.measure.latency_mode import LatencyMode
from bench.measure.latency_report import LatencyReport
from bench.measure.layer_costs import LayerCost, measure_layers
from bench.measure.options import ScoringOptions, TimingOptions
from bench.metrics import miou_change_interval
from bench.models.checkpoint import SavedModel, load_model
from bench.system.devices import set_up
from bench.system.failures import memory_of
from bench.system.files import file_digest, plain
from bench.system.options import RunOptions
from bench.system.provenance import provenance


def open_network(
    checkpoint: Path, data_options: DataOptions, seed: int, *, model: str | None, eval_batch_size: int
) -> tuple[SegmentationData, SavedModel]:
    """Opens a checkpoint, and the data set at the size the network was trained at unless one is asked for.

    Raises:
        BenchError: the checkpoint does not exist, or does not fit the data set or the model named.
    """
    outputs = dataset_class(data_options.dataset).classes.outputs
    saved = load_model(checkpoint, name=model, outputs=outputs)
    size = saved.meta.get("input_size")
    size = tuple(size) if size else None
    return SegmentationData(data_options, seed=seed, input_size=size, eval_batch_size=eval_batch_size), saved


class Baseline:
    """A baseline and what it scores.

    Attributes:
        checkpoint: its file.
        saved: the network, on the device.
        data: the data set at the network's input size.
        split: the split quality is measured on.
        device: where everything runs.
        is_timed: whether latency is among what is measured.
        scoring: how every network is scored.
        mode: how every network is timed.
    """

    def __init__(
        self,
        checkpoint: Path,
        data_options: DataOptions,
        scoring: ScoringOptions,
        timing: TimingOptions,
        *,
        device: torch.device,
        seed: int = 0,
        model: str | None = None,
    ):
        self.checkpoint, self.device = checkpoint, device
        self.is_timed, self._times_layers = timing.latency, timing.per_layer
        self.scoring, self.mode, self._effort = Scoring.of(scoring), LatencyMode.of(timing, device), Effort.of(timing)
        self.data, self.saved = open_network(
            checkpoint, data_options, seed, model=model, eval_batch_size=scoring.eval_batch_size
        )
        self.saved.model.to(device)
        self.split = scoring.split or self.data.headline_split
        self._loader = self.data.eval_loader(self.split)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the baseline's file."""
        return file_digest(self.checkpoint)

    @cached_property
    def evaluation(self) -> Evaluation:
        """Evaluation of the baseline on the split."""
        return self.evaluate(self.saved.model, "baseline")

    @cached_property
    def record(self) -> FileRecord:
        """The file of the baseline and its size."""
        return file_record(self.checkpoint, self.digest)

    @property
    def quality(self) -> dict[str, Any]:
        """Quality of the baseline on the split, as plain data."""
        return self.evaluation.record()

    @cached_property
    def cost(self) -> CostRecord:
        """Parameters, MACs and bytes of the baseline."""
        return self.cost_of(self.saved.model)

    def evaluate(self, model: nn.Module, label: str) -> Evaluation:
        """Scores any network on the same split.

        Raises:
            BenchError: no pixel of the split has a class.
        """
        name = f"scoring {label} on {self.split}"
        return self._checked(
            evaluate_images(
                model, self._loader, self.data.classes, device=self.device, label=name, scoring=self.scoring
            )
        )

    def evaluate_beside(self, candidate: nn.Module) -> tuple[Evaluation, Tensor]:
        """Scores a network and the baseline in one pass over the split.

        Returns:
            The candidate's evaluation, and how many scored pixels of each image the two label differently, int64 [N].

        Raises:
            BenchError: no pixel of the split has a class.
        """
        name = f"scoring baseline and candidate on {self.split}"
        networks = (self.saved.model, candidate, self._loader, self.data.classes)
        # What a cached property is given, it keeps.
        self.evaluation, evaluation, differing = evaluate_both(
            *networks, device=self.device, label=name, scoring=self.scoring
        )
        return self._checked(evaluation), differing

    def _checked(self, evaluation: Evaluation) -> Evaluation:
        if not evaluation.per_image.any():
            raise BenchError(
                f"no pixel of {self.data.name}'s {self.split} split is labelled with a class, so there is nothing to "
                "score; choose another `split`"
            )
        return evaluation

    def predictions(self, model: nn.Module, label: str) -> Iterator[tuple[str, Tensor]]:
        """Yields the name of each image of the split and what a network predicts for it, int64 [H, W] on the CPU."""
        found = predictions(
            model, self._loader, device=self.device, label=f"{label} on {self.split}", scoring=self.scoring
        )
        images = (image for batch, _ in found for image in batch.cpu())
        return zip(self.data.names(self.split), images, strict=True)

    def cost_of(self, model: nn.Module) -> CostRecord:
        """Cost of any network at the same input size, as plain data."""
        return plain(asdict(measure_cost(model, self.data.input_size)))

    def time(self, candidate: nn.Module | None = None, effort: float = 1.0) -> LatencyReport:
        """Times the baseline and, if there is one, a candidate side by side.

        Args:
            candidate: the other network.
            effort: see `time_beside`.
        """
        networks = {"baseline": self.saved.model}
        if candidate is not None:
            networks["candidate"] = candidate.to(self.device)
        return self.time_beside(networks, effort)

    def time_beside(self, networks: dict[str, nn.Module], effort: float = 1.0) -> LatencyReport:
        """Times any networks side by side, in the same mode and at the same input size.

        Args:
            networks: name -> network, on the device; the first is what the others are compared with.
            effort: the share of the warm-up, the rounds and the time limit that is spent; with less than all of it,
                one image a pass is timed alone.
        """
        mode = self.mode if effort == 1 else replace(self.mode, throughput_batch=0)
        with memory_of("timing", "use a smaller `latency_batch` or `input_size`"):
            return time_networks(
                networks, self.data.input_size, device=self.device, mode=mode, effort=self._effort.part(effort)
            )

    def times_alike(self, latency: LatencyReport) -> bool:
        """Whether latencies of an earlier report were measured in this mode."""
        return latency.mode == self.mode

    def layers(self, candidate: nn.Module | None = None) -> list[LayerCost] | None:
        """MACs and time of each layer, the candidate's beside the baseline's; None where they are not wanted."""
        if not self._times_layers:
            return None
        baseline, size = self.saved.model, self.data.input_size
        return measure_layers(baseline, candidate, size, device=self.device, mode=self.mode, effort=self._effort)

    def compare(
        self,
        path: Path,
        candidate: SavedModel,
        *,
        evaluation: Evaluation | None = None,
        cost: CostRecord | None = None,
        latency: LatencyReport | None = None,
    ) -> EvaluationReport:
        """All that is measured on a candidate, beside the baseline.

        Example:
            report = baseline.compare(path, load_model(path))
            write_json("report.json", report)

        Args:
            path: the candidate's file.
            candidate: the network in it.
            evaluation: the candidate's on the split, where it is known already.
            cost: the candidate's, likewise.
            latency: what `time` reported of a network of the same shape, likewise.
        """
        evaluation = evaluation or self.evaluate(candidate.model.to(self.device), "candidate")
        quality, cost = evaluation.record(), cost or self.cost_of(candidate.model)
        change = self._change(evaluation, cost)
        if latency is None and self.is_timed:
            latency = self.time(candidate.model)
        measured = network_record(file_record(path, file_digest(path)), candidate, quality, cost)
        return self._report(measured, change, latency, self.layers(candidate.model.to(self.device)))

    def describe(self) -> EvaluationReport:
        """All that is measured on the baseline alone: a report without a candidate."""
        return self._report(None, None, self.time() if self.is_timed else None, self.layers())

    def _change(self, evaluation: Evaluation, cost: CostRecord) -> Change:
        interval = miou_change_interval(self.evaluation.per_image, evaluation.per_image)
        return {
            "miou_points": 100 * (evaluation.quality.miou - self.evaluation.quality.miou),
            "miou_points_interval": interval and [100 * end for end in interval],
            **cost_changes(self.cost, cost),
        }

    def _report(
        self,
        candidate: NetworkRecord | None,
        change: Change | None,
        latency: LatencyReport | None,
        layers: list[LayerCost] | None,
    ) -> EvaluationReport:
        """Puts every report together; only here do its dataclasses become plain data."""
        report: EvaluationReport = {
            "format": FORMAT,
            "dataset": self.data.name,
            "split": self.split,
            "model": self.saved.spec,
            "input_size": self.data.input_size,
            "scoring": self.scoring,
            "baseline": network_record(self.record, self.saved, self.quality, self.cost),
            "candidate": candidate,
            "change": change,
            "latency": latency,
            "layers": layers,
            "provenance": provenance(),
        }
        return plain(report)


def open_baseline(
    checkpoint: Path | str,
    data_options: DataOptions,
    run: RunOptions,
    scoring: ScoringOptions,
    timing: TimingOptions,
    *,
    model: str | None = None,
) -> Baseline:
    """Sets up the device, and opens a baseline and its data there.

    Args:
        checkpoint: the baseline's file.
        data_options: the images.
        run: device, threads and seed.
        scoring: the split and how networks are scored on it.
        timing: whether and how they are timed.
        model: the network the file must hold, if that is known.
    """
    device = set_up(run)
    return Baseline(Path(checkpoint), data_options, scoring, timing, device=device, seed=run.seed, model=model)
