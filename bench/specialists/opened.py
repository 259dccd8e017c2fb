"""The specialists of a grouping, opened from their files and checked to be what is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.errors import BenchError
from bench.measure.baseline import Baseline
from bench.models.checkpoint import SavedModel, load_model
from bench.specialists.deployment import Group, Grouping, specialist_file, spelt
from bench.specialists.features import LastFeatures, output_layer
from bench.specialists.pruning import FORMAT
from bench.specialists.records import record_beside, said_in


@dataclass(frozen=True)
class Specialist:
    """A specialist that is ready to be fused.

    Attributes:
        group: its classes.
        path: its file.
        sha256: of the file.
        saved: the network, in evaluation mode, its parameters frozen.
        record: what was written when it was made.
    """

    group: Group
    path: Path
    sha256: str
    saved: SavedModel
    record: dict[str, Any]

    @property
    def features(self) -> LastFeatures:
        """The network up to its last features."""
        return LastFeatures(self.saved.model, output_layer(self.saved))

    def as_record(self) -> dict[str, Any]:
        """What a fusion says of it."""
        return {"file": self.path.name, "sha256": self.sha256, "classes": list(self.group)}


def open_specialists(folder: Path, grouping: Grouping, threshold: float, baseline: Baseline) -> list[Specialist]:
    """Opens the specialists of a grouping, one a group, on the baseline's device.

    Args:
        folder: where they are.
        grouping: the groups.
        threshold: percent of the parameters that they lost.
        baseline: what they were pruned from.

    Raises:
        BenchError: one is missing, damaged, no specialist, of other classes, of another threshold or baseline.
    """
    return [_opened(folder, group, threshold, baseline) for group in grouping.groups]


def open_frozen(path: Path, device: torch.device, **expected: Any) -> SavedModel:
    """A network whose weights are not to change, on a device; the arguments are those of `load_model`."""
    saved = load_model(path, **expected)
    saved.model.to(device).requires_grad_(False)
    return saved


def _opened(folder: Path, group: Group, threshold: float, baseline: Baseline) -> Specialist:
    path = folder / specialist_file(group, threshold)
    again = f"run `python -m bench.specialists prune` with `params_reduction={threshold / 100:g}`"
    found = said_in(path, "specialist", "specialist", again)
    wanted = {
        "classes": list(group),
        "threshold": threshold,
        "baseline": baseline.digest,
        "dataset": baseline.data.name,
    }
    for key, value in wanted.items():
        if found.get(key) != value:
            held = _in_words(key, found.get(key))
            raise BenchError(f"{path} is of {held}, not of {_in_words(key, value)}; {again}")
    saved = open_frozen(path, baseline.device)
    if saved.spec.outputs != len(group) + 1:
        raise BenchError(
            f"{path} has {saved.spec.outputs} outputs, but {len(group)} classes and one for the rest; {again}"
        )
    record = record_beside(path, FORMAT, again)
    return Specialist(group, path, record["file"]["sha256"], saved, record)


def _in_words(key: str, value: Any) -> str:
    if key == "classes":
        return f"the classes {spelt(value)}" if isinstance(value, Sequence) and value else "unknown classes"
    return {"threshold": f"threshold {value}", "baseline": f"baseline {str(value)[:12]}"}.get(key, f"data set {value}")
