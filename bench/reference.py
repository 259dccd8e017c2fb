"""The baseline every candidate is compared with: its data, quality and cost, measured once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.checkpoint import SavedModel, load_model
from bench.cost import measure_cost
from bench.data import SegmentationData
from bench.datasets import dataset_class
from bench.evaluation import evaluate
from bench.latency import LatencyReport, time_networks
from bench.options import DataOptions, MeasureOptions, RunOptions
from bench.runs import compressed_size, file_digest, plain, provenance

_COSTS = ("parameters", "nonzero_parameters", "macs", "flops", "state_bytes")


def open_network(
    checkpoint: Path, data_options: DataOptions, run: RunOptions, *, model: str | None
) -> tuple[SegmentationData, SavedModel]:
    """Opens a checkpoint, and the data set at the size the network was trained at unless one is asked for.

    Raises:
        BenchError: the checkpoint does not exist, or does not fit the data set or the model named.
    """
    outputs = dataset_class(data_options.dataset).classes.outputs
    saved = load_model(checkpoint, name=model, outputs=outputs)
    size = saved.meta.get("input_size")
    return SegmentationData(data_options, seed=run.seed, input_size=tuple(size) if size else None), saved


class Reference:
    """A baseline and what it scores.

    Attributes:
        checkpoint: its file.
        saved: the network, on the device.
        data: the data set at the network's input size.
        split: the split quality is measured on.
        device: where everything runs.
        is_timed: whether latency is among what is measured.
    """

    def __init__(
        self,
        checkpoint: Path,
        data_options: DataOptions,
        run: RunOptions,
        measure: MeasureOptions,
        *,
        device: torch.device,
        model: str | None = None,
    ):
        self.checkpoint, self.device, self._measure = checkpoint, device, measure
        self.is_timed = measure.latency
        self.data, self.saved = open_network(checkpoint, data_options, run, model=model)
        self.saved.model.to(device)
        self.split = measure.split or self.data.headline_split
        self._loader = self.data.eval_loader(self.split, measure.eval_batch_size)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the baseline's file."""
        return file_digest(self.checkpoint)

    @cached_property
    def record(self) -> dict[str, Any]:
        """The baseline's file and its size."""
        return file_record(self.checkpoint, self.digest)

    @cached_property
    def quality(self) -> dict[str, Any]:
        """Quality of the baseline on the split."""
        return self.score(self.saved.model, "baseline")

    @cached_property
    def cost(self) -> dict[str, Any]:
        """Parameters, MACs and bytes of the baseline."""
        return self.cost_of(self.saved.model)

    def score(self, model: nn.Module, label: str) -> dict[str, Any]:
        """Quality of any network on the same split, as plain data."""
        quality = evaluate(model, self._loader, self.data.classes, device=self.device, label=f"{label}, {self.split}")
        return plain(asdict(quality))

    def cost_of(self, model: nn.Module) -> dict[str, Any]:
        """Cost of any network at the same input size, as plain data."""
        return plain(asdict(measure_cost(model, self.data.input_size)))

    def time(self, candidate: nn.Module) -> LatencyReport:
        """Times the baseline and a candidate side by side, one image a pass."""
        candidate.to(self.device)
        networks = {"baseline": self.saved.model, "candidate": candidate}
        return time_networks(networks, self.data.input_size, device=self.device, options=self._measure)

    def compare(
        self,
        path: Path,
        candidate: SavedModel,
        *,
        quality: Mapping[str, Any] | None = None,
        latency: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """All that is measured on a candidate, beside the baseline.

        Args:
            path: the candidate's file.
            candidate: the network in it.
            quality: the candidate's quality on the split, where it is known already.
            latency: what `time` reported of a network of the same shape, likewise.

        Returns:
            What `report.json` holds.
        """
        quality = quality or self.score(candidate.model.to(self.device), "candidate")
        cost = self.cost_of(candidate.model)
        if latency is None and self.is_timed:
            latency = self.time(candidate.model).as_dict()
        report = {
            "format": "evaluation-report/1",
            "dataset": self.data.name,
            "split": self.split,
            "model": asdict(self.saved.spec),
            "input_size": self.data.input_size,
            "baseline": {**self.record, "quality": self.quality, "cost": self.cost},
            "candidate": {**file_record(path, file_digest(path)), "quality": quality, "cost": cost},
            "change": {
                "miou_points": 100 * (quality["miou"] - self.quality["miou"]),
                **cost_changes(self.cost, cost),
            },
            "latency": latency,
            "provenance": provenance(),
        }
        return plain(report)


def cost_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """Change of each cost in percent, negative where it fell."""
    return {f"{name}_percent": 100 * (after[name] / before[name] - 1) for name in _COSTS}


def file_record(path: Path, sha256: str) -> dict[str, Any]:
    """A file by name and content, and its bytes as it is and compressed: zeros take room until they are."""
    return {
        "path": path,
        "sha256": sha256,
        "bytes_on_disk": path.stat().st_size,
        "compressed_bytes": compressed_size(path),
    }
