"""Training that a method does before it scores: done once, kept on disk, and used again for every pruning it serves."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.pruners.base import Pruner, Training
from bench.system.console import say
from bench.system.files import file_digest
from bench.system.kept_files import made_once
from bench.system.run_folder import BEST, LAST, is_done, run_folder
from bench.training.state import drop_outdated_run

NETWORK = "network.pt"


@dataclass(frozen=True)
class MethodNetwork:
    """The network that a method scores and cuts.

    Attributes:
        model: the network, on the device: the baseline itself where the method trains nothing.
        learnt: what the method learnt besides the weights.
        record: what the training cost and where its network is; None where there was none.
    """

    model: nn.Module
    learnt: Mapping[str, Tensor]
    record: dict[str, Any] | None


def train_by(pruner: Pruner, saved: SavedModel, training: Training) -> None:
    """Lets a method train a copy of a network.

    Args:
        pruner: a method that trains first.
        saved: the baseline, left as it is.
        training: what to train with. Its folder must belong to this training alone; it receives `network.pt`.
    """
    folder = training.folder
    say(f"{pruner.name} trains the network before it scores it; the result is kept in {folder}")
    with run_folder(folder):
        drop_outdated_run(folder, training.data.files("train", "val"))
        network = replace(saved, model=copy.deepcopy(saved.model))
        outcome = pruner.prepare(network, training)
        meta = {**saved.meta, "preparation": {"method": pruner.name, **outcome.spent}}
        learnt = {name: tensor.detach().cpu() for name, tensor in outcome.learnt.items()}
        state = {"learnt": learnt, "data": training.data.files("train", "val").record()}
        save_model(folder / NETWORK, replace(network, meta=meta, state=state))
    for name in (BEST, LAST):
        (folder / name).unlink(missing_ok=True)


def kept_or_made(training: Training, make: Callable[[], MethodNetwork], what: str) -> MethodNetwork:
    """What an earlier `train_by`, or one of another process, left in the training's folder; made where there is none.

    That of images or labels that have changed since is nothing.

    Args:
        training: what is trained with; its folder is looked at.
        make: trains.
        what: what it is, for a process that waits for another one.
    """
    folder = training.folder

    def read(path: Path) -> MethodNetwork | None:
        if not is_done(folder, NETWORK):
            return None
        before = load_model(path).state.get("data")
        fits = training.data.files("train", "val").fits(before, f"the network in {folder} was trained")
        return open_trained(training) if fits else None

    return made_once(folder / NETWORK, read, make, what, folder=True)


def open_trained(training: Training) -> MethodNetwork:
    """Opens what `train_by` left in the training's folder."""
    path = training.folder / NETWORK
    opened = load_model(path)
    record = {
        "network": f"{path.parent.name}/{path.name}",
        "sha256": file_digest(path),
        **opened.meta["preparation"],
    }
    return MethodNetwork(opened.model.to(training.device), opened.state["learnt"], record)
