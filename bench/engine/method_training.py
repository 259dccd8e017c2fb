"""Training that a method does before it scores: done once, kept on disk, and used again for every pruning it serves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.pruners.base import Pruner, Training
from bench.system.console import say
from bench.system.files import file_digest
from bench.system.run_folder import BEST, LAST, is_done, run_folder

NETWORK = "network.pt"


@dataclass(frozen=True)
class Prepared:
    """The network that is scored and cut.

    Attributes:
        model: the network, on the device: the baseline itself where the method trains nothing.
        learnt: what the method learnt besides the weights.
        record: what the training cost and where its network is; None where there was none.
    """

    model: nn.Module
    learnt: Mapping[str, Tensor]
    record: dict[str, Any] | None


def prepare(pruner: Pruner, saved: SavedModel, training: Training) -> Path:
    """Lets a method train a copy of a network, unless that was done; the file of the result.

    Args:
        pruner: a method that trains first.
        saved: the baseline, left as it is.
        training: what to train with. Its folder must belong to this training alone; it receives `network.pt`.
    """
    folder = training.folder
    if not is_done(folder, NETWORK):
        say(f"{pruner.name} trains the network before it scores it; the result is kept in {folder}")
        with run_folder(folder):
            network = replace(saved, model=copy.deepcopy(saved.model))
            outcome = pruner.prepare(network, training)
            meta = {**saved.meta, "preparation": {"method": pruner.name, **outcome.spent}}
            learnt = {name: tensor.detach().cpu() for name, tensor in outcome.learnt.items()}
            save_model(folder / NETWORK, replace(network, meta=meta, state={"learnt": learnt}))
        for name in (BEST, LAST):
            (folder / name).unlink(missing_ok=True)
    return folder / NETWORK


def open_prepared(path: Path, training: Training) -> Prepared:
    """Opens what `prepare` left."""
    opened = load_model(path)
    record = {
        "network": f"{path.parent.name}/{path.name}",
        "sha256": file_digest(path),
        **opened.meta["preparation"],
    }
    return Prepared(opened.model.to(training.device), opened.state["learnt"], record)
