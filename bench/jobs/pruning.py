"""A pruning from a session to files: `pruned_model.pt`, how it was made, and what was measured on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.channels.groups import ChannelGroup, find_groups
from bench.datasets import classes_of
from bench.datasets.options import DataOptions
from bench.engine.options import PruneOptions
from bench.engine.pruning import prune_network
from bench.engine.session import Session
from bench.errors import UsageError
from bench.measure.baseline import Baseline
from bench.measure.evaluation_report import latency_of
from bench.measure.latency_report import LatencyReport
from bench.models import new_model
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.models.options import ModelOptions
from bench.plan.target import Goal
from bench.pruners.base import Method
from bench.system.files import plain, read_json, write_json
from bench.system.run_folder import CONTROLS, FINETUNED_REPORT, INFO, PRUNED, REPORT, run_folder


def prune_model(session: Session, pruner: Method, goal: Goal, seed: int, folder: Path) -> dict[str, Any]:
    """Prunes the baseline of a session and measures the result.

    The folder receives `pruned_model.pt`, `pruning_info.json` and `report.json`.

    Args:
        session: the baseline, and what is the same for all prunings.
        pruner: the method.
        goal: what to reach.
        seed: seed of the method and of its calibration images.
        folder: the job's own folder.

    Returns:
        What `pruning_info.json` says.
    """
    session.baseline.data.check_labelled(session.baseline.split)
    with run_folder(folder):
        pruned = prune_network(session, pruner, session.target(pruner, goal), seed)
        save_model(folder / PRUNED, pruned.saved)
        report = session.baseline.compare(
            folder / PRUNED, pruned.saved, evaluation=pruned.evaluation, cost=pruned.cost, latency=pruned.latency
        )
        write_json(folder / REPORT, {**report, "data": session.files_for(pruner).record()})
        info = {**pruned.info, "saved_model": str(folder / PRUNED)}
        write_json(folder / INFO, info)
    return info


def groups_of(
    checkpoint: str | None, network: ModelOptions, data: DataOptions, options: PruneOptions
) -> list[ChannelGroup]:
    """The groups of coupled channels of a network, and which of them a pruning would leave whole.

    Args:
        checkpoint: file of the network, of any number of outputs; without one it is built with fresh weights.
        network: which it is.
        data: the data set a network without a file is for.
        options: what to protect, and whether groups are tried out.

    Raises:
        UsageError: neither checkpoint nor model, or names that do not exist.
    """
    model = opened_network(checkpoint, network, data, "--list-groups").model
    return find_groups(model, ignore=options.ignore, protect_first=options.protect_first, check=options.tries_groups)


def opened_network(checkpoint: str | None, network: ModelOptions, data: DataOptions, flag: str) -> SavedModel:
    """The network of a file, of any number of outputs, or without a file a new one.

    Args:
        checkpoint: the file.
        network: which it is.
        data: the data set a network without a file is for.
        flag: what it is for, for the message.

    Raises:
        UsageError: neither checkpoint nor model, or names that do not exist.
    """
    if checkpoint is not None:
        return load_model(Path(checkpoint), head="fitting", **network.in_file)
    if network.model is None:
        raise UsageError(f"{flag} needs a network; pass --ckpt FILE or --model NAME")
    model, spec = new_model(network.spec(classes_of(data).outputs))
    return SavedModel(model.eval(), spec)


def latency_in(folder: Path) -> LatencyReport | None:
    """What was timed on the network of a finished pruning, if it was timed."""
    return latency_of(read_json(folder / REPORT))


def time_model(baseline: Baseline, folder: Path) -> None:
    """Adds the latency to the reports of a pruned network that were made without it or in another mode, if wanted."""
    report = read_json(folder / REPORT)
    latency = latency_of(report)
    if baseline.is_timed and not (latency and baseline.times_alike(latency)):
        candidate = load_model(folder / PRUNED, outputs=baseline.data.classes.outputs)
        report = plain({**report, "latency": baseline.time(candidate.model)})
        write_json(folder / REPORT, report)
    # What is trained in its place has the same shape, and so the same latency.
    others = [folder / name for name in (FINETUNED_REPORT, *(name for _, name in CONTROLS.values()))]
    for path in filter(Path.is_file, others if baseline.is_timed else ()):
        trained = read_json(path)
        if trained["latency"] != report["latency"]:
            write_json(path, {**trained, "latency": report["latency"]})
