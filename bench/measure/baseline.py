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
from bench.datasets import classes_of, dataset_class
from bench.datasets.options import DataOptions
from bench.datasets.recorded import check_recorded, said_of, settled
from bench.measure.cost import measure_cost
from bench.measure.evaluation import Evaluation, evaluate_both, evaluate_images, lost_images, predictions
from bench.measure.evaluation_report import (
    FORMAT,
    Change,
    CorruptedQuality,
    CostRecord,
    EvaluationReport,
    FileRecord,
    LayersTimed,
    NetworkRecord,
    cost_changes,
    file_record,
    network_record,
)
from bench.measure.inference import Scoring
from bench.measure.latency import Effort, device_name, precision_text, time_networks
from bench.measure.latency_format import faster_format
from bench.measure.latency_mode import LatencyMode
from bench.measure.latency_report import LatencyReport
from bench.measure.layer_costs import LayerCost, measure_layers
from bench.measure.options import ScoringOptions, TimingOptions
from bench.metrics import miou_change_interval
from bench.models.checkpoint import SavedModel, check_outputs, load_model
from bench.models.options import ModelOptions
from bench.models.own_network import check_input
from bench.models.state_dict_file import read_file, write_file
from bench.system import processes
from bench.system.console import say
from bench.system.devices import set_up
from bench.system.failures import memory_of
from bench.system.files import digest, file_digest, plain
from bench.system.kept_files import made_once
from bench.system.options import RunOptions
from bench.system.provenance import provenance


def open_network(
    checkpoint: Path, data_options: DataOptions, seed: int, *, network: ModelOptions, eval_batch_size: int
) -> tuple[SegmentationData, SavedModel]:
    """Opens a checkpoint, and the data set it was trained on at the size it was trained at unless one is asked for.

    Raises:
        UsageError: neither the options nor the checkpoint say which data set.
        BenchError: the checkpoint does not exist, or does not fit the data set or the model named.
    """
    if data_options.dataset is not None:
        dataset_class(data_options.dataset)  # a name that does not exist comes before whatever is wrong with the file
    saved = load_model(checkpoint, **network.in_file)
    data_options = settled(data_options, saved.meta, checkpoint)
    said = said_of(saved.meta, data_options.dataset)
    check_outputs(checkpoint, saved.spec, classes_of(data_options, said).outputs)
    data = SegmentationData(data_options, seed=seed, eval_batch_size=eval_batch_size, recorded=said)
    check_recorded(saved.meta, checkpoint, data.name, data.classes.names, data.normalization)
    check_input(saved.model, saved.spec.name, data.input_size)
    return data, saved


class Baseline:
    """A baseline and what it scores.

    Attributes:
        checkpoint: its file.
        saved: the network, on the device.
        data: the data set at the network's input size.
        split: the split quality is measured on.
        device: where everything runs.
        is_timed: whether latency is among what is measured.
        leaves_format_open: whether nobody has said which memory format networks are timed in.
        scoring: how every network is scored; all are contiguous for it.
        robustness: what it scores under corruptions, once that was measured.
        shared: a folder in which several processes keep what is measured once for all of them, if there is one.
    """

    robustness: CorruptedQuality | None = None
    shared: Path | None = None

    def __init__(
        self,
        checkpoint: Path,
        data_options: DataOptions,
        scoring: ScoringOptions,
        timing: TimingOptions,
        *,
        device: torch.device,
        seed: int = 0,
        network: ModelOptions | None = None,
    ):
        self.checkpoint, self.device = checkpoint, device
        self.is_timed, self._times_layers = timing.latency, timing.per_layer
        self.scoring, self._mode, self._effort = Scoring.of(scoring), LatencyMode.of(timing, device), Effort.of(timing)
        self.leaves_format_open = timing.latency_channels_last is None
        self.data, self.saved = open_network(
            checkpoint,
            data_options,
            seed,
            network=network or ModelOptions(),
            eval_batch_size=scoring.eval_batch_size,
        )
        self.saved.model.to(device)
        self.split = scoring.split or self.data.headline_split
        self._loader = self.data.eval_loader(self.split)

    @cached_property
    def mode(self) -> LatencyMode:
        """How every network is timed; a memory format that was left open is found here, once, by measuring.

        Raises:
            BenchError: the network cannot be compiled.
        """
        if not self.leaves_format_open:
            return self._mode
        settings = {"device": self.device, "mode": self._mode, "effort": self._effort}
        choice = faster_format(self.saved.model, self.data.input_size, **settings)
        say(str(choice))
        return replace(self._mode, channels_last=choice.channels_last)

    @property
    def format_conditions(self) -> dict[str, Any]:
        """All that decides which memory format is the faster one, as plain data."""
        conditions = {
            "baseline": self.digest,
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "input_size": self.data.input_size,
            "amp": self._mode.amp,
            "compiled": self._mode.compiled,
        }
        return plain(conditions)

    def use_format(self, *, channels_last: bool) -> None:
        """Says which memory format networks are timed in, where that was left open."""
        self._mode, self.leaves_format_open = replace(self._mode, channels_last=channels_last), False

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the baseline's file."""
        return file_digest(self.checkpoint)

    @cached_property
    def evaluation(self) -> Evaluation:
        """Evaluation of the baseline on the split."""
        if self.shared is None:
            return self.evaluate(self.saved.model, "baseline")
        return self.shared_evaluation(self.shared, self.saved.model, self.digest, "baseline")

    def shared_evaluation(self, folder: Path, model: nn.Module, sha256: str, label: str) -> Evaluation:
        """Evaluation of a network on the split, from a folder that several processes share, each once.

        Args:
            folder: where it is kept, found again by all that it depends on.
            model: the network.
            sha256: of its file.
            label: what it is called.
        """
        files, data = self.data.files(self.split), self.data
        identity = plain(
            {
                "network": sha256,
                "data": [data.name, data.dataset.root.absolute(), data.input_size, self.split],
                "scoring": self.scoring,
                "device": device_name(self.device),
            }
        )
        path = folder / f"evaluation_{digest(identity)}.pt"

        def read(path: Path) -> Evaluation | None:
            kept = read_file(path)
            fits = files.fits(kept["data"], f"{path.name} was measured")
            return Evaluation.of_content(kept["evaluation"]) if fits else None

        def make() -> Evaluation:
            evaluation = self.evaluate(model, label)
            content = {"identity": identity, "evaluation": evaluation.content(), "data": files.record()}
            write_file(path, content)
            return evaluation

        return made_once(path, read, make, f"the score of {label}")

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
        self.data.check_labelled(self.split)
        name = f"scoring {label} on {self.split}"
        return evaluate_images(
            model, self._loader, self.data.classes, device=self.device, label=name, scoring=self.scoring
        )

    def evaluate_beside(self, candidate: nn.Module) -> tuple[Evaluation, Tensor]:
        """Scores a network and the baseline in one pass over the split.

        Returns:
            The candidate's evaluation, and how many scored pixels of each image the two label differently, int64 [N].

        Raises:
            BenchError: no pixel of the split has a class.
        """
        self.data.check_labelled(self.split)
        name = f"scoring baseline and candidate on {self.split}"
        networks = (self.saved.model, candidate, self._loader, self.data.classes)
        # What a cached property is given, it keeps.
        self.evaluation, evaluation, differing = evaluate_both(
            *networks, device=self.device, label=name, scoring=self.scoring
        )
        return evaluation, differing

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
        """Whether latencies of an earlier report were measured in this mode, all networks in its memory format."""
        return latency.mode == self.mode and latency.memory_formats == [self.mode.memory_format]

    def layers(self, candidate: nn.Module | None = None) -> list[LayerCost] | None:
        """MACs and time of each layer, the candidate's beside the baseline's; None where they are not wanted."""
        if not self._times_layers:
            return None
        baseline, size = self.saved.model, self.data.input_size
        return measure_layers(baseline, candidate, size, device=self.device, mode=self.mode, effort=self._effort)

    def _layers_timed(self) -> LayersTimed:
        return {
            "precision": precision_text(self.saved.model, self.device, self.mode.amp),
            "memory_format": self.mode.memory_format,
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
        }

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
        layers = self.layers(candidate.model.to(self.device))
        worst = lost_images(self.evaluation, evaluation, self.data.names(self.split))
        return {**self._report(measured, change, latency, layers), "worst_images": worst}

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
            "data": self.data.files(self.split).record(),
            "baseline": network_record(self.record, self.saved, self.quality, self.cost),
            "candidate": candidate,
            "change": change,
            "latency": latency,
            "layers": layers,
            "layers_timed": self._layers_timed() if layers else None,
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
    network: ModelOptions | None = None,
) -> Baseline:
    """Sets up the device, and opens a baseline and its data there.

    Args:
        checkpoint: the baseline's file.
        data_options: the images.
        run: device, threads and seed.
        scoring: the split and how networks are scored on it.
        timing: whether and how they are timed.
        network: what the file must hold, as far as that is known.
    """
    device = processes.own_device(set_up(run))
    return Baseline(Path(checkpoint), data_options, scoring, timing, device=device, seed=run.seed, network=network)
