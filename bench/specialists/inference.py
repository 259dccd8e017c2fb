"""The last step: what fused specialists are worth beside the baseline and beside one network of the same total size."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.measure.baseline import Baseline
from bench.measure.cost import count_parameters, state_bytes
from bench.measure.evaluation import evaluate_images
from bench.measure.latency_report import LatencyReport
from bench.models.checkpoint import SavedModel
from bench.specialists.deployment import Grouping, spelt
from bench.specialists.fusing import SINGLE, opened_head
from bench.specialists.fusion import AGAIN, FUSION, Fused, FusionHead, scaled
from bench.specialists.group_labels import data_of_group
from bench.specialists.opened import Specialist, open_frozen, open_specialists
from bench.specialists.records import said_in
from bench.specialists.split import SplitFused, split_over_processes
from bench.system.console import say
from bench.system.files import file_digest, plain, write_json
from bench.system.options import RunOptions
from bench.system.provenance import provenance

INFERENCE = "inference.json"

FORMAT = "fused-inference/1"

BASELINE, HEAD, SINGLE_NETWORK = "baseline", "fusion head", "single pruned network"


class _Hashed(nn.Module):
    """A network, and a digest of all logits that it gave."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.sha = network, hashlib.sha256()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        self.sha.update(logits.detach().cpu().contiguous().numpy().tobytes())
        return logits


class _HeadAlone(nn.Module):
    """A head on features that are there already, so that it can be timed as networks are."""

    def __init__(self, head: FusionHead, features: Sequence[Tensor]):
        super().__init__()
        self.head, self._names = head, [f"features{number}" for number in range(len(features))]
        for name, found in zip(self._names, features, strict=True):
            # Buffers, so that they take the memory format in which networks are timed.
            self.register_buffer(name, found, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return scaled(self.head([getattr(self, name) for name in self._names]), images.shape[-2:])


def infer(
    baseline: Baseline,
    specialists_folder: Path,
    grouping: Grouping,
    threshold: float,
    folder: Path,
    run: RunOptions,
    *,
    split: bool,
) -> dict[str, Any]:
    """Scores and times the fused specialists of a grouping, and all that they are compared with.

    The folder receives `inference.json`.

    Args:
        baseline: the network they were pruned from, its data, and how networks are scored and timed.
        specialists_folder: where their files are.
        grouping: the groups.
        threshold: percent of the parameters that they lost.
        folder: where their head is, and the single network if there is one.
        run: of the specialists' own processes.
        split: whether each specialist runs in a process of its own.

    Returns:
        What `inference.json` says.

    Raises:
        BenchError: a specialist or the head is missing, damaged or of others.
    """
    specialists = open_specialists(specialists_folder, grouping, threshold, baseline)
    head, fusion = opened_head(folder, specialists, baseline.device)
    single = _single(folder / SINGLE, baseline)
    if split:
        say(f"each of {len(specialists)} specialists in a process of its own")
        with split_over_processes(specialists, head, run) as network:
            fused, sha256 = _scored(baseline, network)
            processes = _split_record(network)
    else:
        fused, sha256 = _scored(baseline, Fused([each.features for each in specialists], head))
        processes = None
    singly = baseline.evaluate(single.model, SINGLE_NETWORK).record() if single else None
    record = {
        "format": FORMAT,
        "devices": grouping.devices,
        "threshold": threshold,
        "silhouette": grouping.quality,
        "dataset": baseline.data.name,
        "split": baseline.split,
        "input_size": baseline.data.input_size,
        "scoring": baseline.scoring,
        "quality": {"baseline": baseline.quality, "fused": fused, "single": singly},
        "specialists": [_specialist_record(baseline, each) for each in specialists],
        "sizes": _sizes(baseline, specialists, head, fusion, single, folder),
        "latency": _latency(baseline, specialists, head, single) if baseline.is_timed else None,
        "logits_sha256": sha256,
        "processes": processes,
        "baseline": {"path": str(baseline.checkpoint), "sha256": baseline.digest},
        "fusion": {"path": str(folder / FUSION), "sha256": file_digest(folder / FUSION)},
        "data": baseline.data.files(baseline.split).record(),
        "provenance": provenance(),
    }
    write_json(folder / INFERENCE, record)
    return plain(record)


def _single(path: Path, baseline: Baseline) -> SavedModel | None:
    if not path.is_file():
        return None
    said = said_in(path, "single", "network that was pruned to be compared", AGAIN)
    if said.get("baseline") != baseline.digest:
        raise BenchError(f"{path} was pruned from another baseline; {AGAIN}")
    return open_frozen(path, baseline.device, outputs=baseline.data.classes.outputs)


def _scored(baseline: Baseline, network: nn.Module) -> tuple[dict[str, Any], str]:
    """Quality of the fused specialists, and the digest of their logits."""
    hashed = _Hashed(network)
    quality = baseline.evaluate(hashed, "the fused specialists").record()
    return quality, hashed.sha.hexdigest()


def _split_record(network: SplitFused) -> dict[str, Any]:
    """What the processes took; they work at the same time, and so share the cores of this machine."""
    seconds = np.array(network.seconds)
    slowest = seconds[:, :-1].max(axis=1)
    return {
        "processes": seconds.shape[1] - 1,
        "slowest_specialist_ms": 1000 * slowest.sum() / network.images,
        "head_ms": 1000 * seconds[:, -1].sum() / network.images,
        "total_ms": 1000 * (slowest + seconds[:, -1]).sum() / network.images,
        "sent_bytes_per_image": network.sent / network.images,
        "threads": torch.get_num_threads(),
    }


def _specialist_record(baseline: Baseline, specialist: Specialist) -> dict[str, Any]:
    """How a specialist by itself does: on its own classes, and where it has to label everything."""
    view = data_of_group(baseline.data, specialist.group)
    quality = evaluate_images(
        specialist.saved.model,
        view.eval_loader(baseline.split),
        view.classes,
        device=baseline.device,
        label=f"scoring the specialist of {spelt(specialist.group)} on {baseline.split}",
        scoring=baseline.scoring,
    ).record()
    names = view.classes.names[:-1]
    own = {name: quality["iou"][name] for name in names}
    known = [value for value in own.values() if value is not None]
    # The classes of other specialists are never what it says, so that each that is there has an IoU of 0.
    present = [
        name for name, value in baseline.quality["iou"].items() if value is not None or own.get(name) is not None
    ]
    parameters = specialist.record["parameters"]
    return {
        **specialist.as_record(),
        "names": names,
        "iou": own,
        "background_iou": quality["iou"][view.classes.names[-1]],
        "miou_own": sum(known) / len(known) if known else None,
        "miou_all": sum(known) / len(present) if present else None,
        "parameters": parameters["network"],
        "wanted_parameters": parameters["wanted"],
    }


def _sizes(
    baseline: Baseline,
    specialists: Sequence[Specialist],
    head: FusionHead,
    fusion: Mapping[str, Any],
    single: SavedModel | None,
    folder: Path,
) -> dict[str, dict[str, Any]]:
    """Name -> parameters, bytes of tensors and file, MACs, and how many times fewer bytes than the baseline's."""
    whole = baseline.cost

    def size(parameters: int, tensors: int, file: int, macs: int) -> dict[str, Any]:
        return {
            "parameters": parameters,
            "state_bytes": tensors,
            "file_bytes": file,
            "macs": macs,
            "compression": whole["state_bytes"] / tensors,
        }

    def of_network(saved: SavedModel, path: Path) -> dict[str, Any]:
        cost = baseline.cost_of(saved.model)
        return size(cost["parameters"], cost["state_bytes"], path.stat().st_size, cost["macs"])

    found = {BASELINE: of_network(baseline.saved, baseline.checkpoint)}
    parts = {f"specialist {spelt(each.group)}": of_network(each.saved, each.path) for each in specialists}
    parts[HEAD] = size(count_parameters(head), state_bytes(head), fusion["file"]["bytes"], fusion["macs"])
    keys = ("parameters", "state_bytes", "file_bytes", "macs")
    total = size(*(sum(part[key] for part in parts.values()) for key in keys))
    found |= {**parts, "specialists + head": total}
    if single:
        found[SINGLE_NETWORK] = of_network(single, folder / SINGLE)
    return plain(found)


def _latency(
    baseline: Baseline, specialists: Sequence[Specialist], head: FusionHead, single: SavedModel | None
) -> dict[str, Any]:
    """Times of one image, each network by turns with the machine to itself, as each device would have itself."""
    image = torch.rand(1, 3, *baseline.data.input_size, generator=torch.Generator().manual_seed(0)).to(baseline.device)
    extractors = {f"specialist {spelt(each.group)}": each.features for each in specialists}
    with torch.no_grad():
        features = [extractor(image) for extractor in extractors.values()]
    networks = {BASELINE: baseline.saved.model, **extractors, HEAD: _HeadAlone(head, features)}
    if single:
        networks[SINGLE_NETWORK] = single.model
    report = baseline.time_beside(networks)
    return {**plain(report), "split": split_time(report, list(extractors))}


def split_time(report: LatencyReport, specialists: Sequence[str]) -> dict[str, Any]:
    """The slowest specialist plus the head, round by round, beside the baseline: medians, and the tenth and ninetieth.

    Args:
        report: latencies of the baseline, the specialists and the head, timed in the same rounds.
        specialists: the names of the specialists in it.
    """
    times = {name: np.array(latency.times_ms) for name, latency in report.networks.items()}
    together = np.max([times[name] for name in specialists], axis=0) + times[HEAD]
    slowest = max(specialists, key=lambda name: report.networks[name].median_ms)
    low, middle, high = np.percentile(times[BASELINE] / together, (10, 50, 90)).tolist()
    return {
        "slowest": slowest,
        "slowest_ms": report.networks[slowest].median_ms,
        "head_ms": report.networks[HEAD].median_ms,
        "total_ms": float(np.median(together)),
        "speedup": middle,
        "speedup_p10": low,
        "speedup_p90": high,
    }
