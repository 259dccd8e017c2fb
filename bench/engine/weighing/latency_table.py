"""The table of layer times that `--objective latency` plans with: measured once on a device, and kept on disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bench.channels.groups import ChannelGroup
from bench.engine.session import Session
from bench.measure.latency import device_name
from bench.measure.latency_mode import PLAIN_MODE
from bench.measure.width_latencies import EFFORT, LayerTimes, measure_widths
from bench.plan.latency_model import LatencyCost
from bench.system.console import say
from bench.system.files import digest, make_folder, plain, read_json, write_json
from bench.system.kept_files import read_kept

FORMAT = "latency-table/1"


def latency_cost(session: Session) -> tuple[LatencyCost, Path]:
    """What networks take by their widths, and the file of the times it is made from.

    The file lies in the baseline's folder, or where that cannot be written in the session's. It is found again for the
    same baseline, device, threads, input size, precision and memory format. Where that format was left open, the one
    file there is is taken, whatever its format: which is the faster one is a measurement, and may come out otherwise.

    Args:
        session: the baseline, its groups and how latencies are timed.
    """
    baseline = session.baseline
    beside = baseline.checkpoint.parent
    folder = beside if os.access(beside, os.W_OK) else session.folder
    formats = (False, True) if baseline.leaves_format_open else (baseline.mode.channels_last,)
    identities = {channels_last: _identity(session, channels_last) for channels_last in formats}
    paths = {key: folder / f"latency_table_{digest(identity)}.json" for key, identity in identities.items()}
    there = [path for path in paths.values() if path.is_file()]
    path = there[0] if len(there) == 1 else paths[baseline.mode.channels_last]
    found = read_kept(path, lambda kept: read_json(kept)["layers"])
    if found is None:
        found = _measured(session, identities[baseline.mode.channels_last], path)
    times = {name: LayerTimes(**layer) for name, layer in found.items()}
    return LatencyCost(session.cost_table, times), path


def _measured(session: Session, identity: dict[str, Any], path: Path) -> dict[str, Any]:
    baseline, norms = session.baseline, norms_behind(session.groups)
    say(f"timing each layer of {baseline.saved.spec.name} at a few widths, kept in {path}")
    with session.stopwatch.stage("latency_table"):
        times = measure_widths(
            baseline.saved.model,
            norms,
            baseline.data.input_size,
            device=baseline.device,
            mode=baseline.mode,
        )
    layers = {name: asdict(layer) for name, layer in times.items()}
    make_folder(path.parent)
    write_json(path, {"format": FORMAT, "identity": identity, "effort": EFFORT, "layers": layers})
    return layers


def norms_behind(groups: Iterable[ChannelGroup]) -> dict[str, str]:
    """Layer -> the norm right behind it."""
    producers = (producer for group in groups for producer in group.producers)
    return {producer.layer.layer: producer.norm.layer for producer in producers if producer.norm is not None}


def _identity(session: Session, channels_last: bool) -> dict[str, Any]:
    baseline = session.baseline
    weight = next(baseline.saved.model.parameters())
    return plain(
        {
            "baseline": baseline.digest,
            "device": device_name(baseline.device),
            "threads": torch.get_num_threads(),
            "input_size": baseline.data.input_size,
            "type": str(weight.dtype).removeprefix("torch."),
            # Layers are timed neither compiled nor in larger batches.
            "mode": replace(PLAIN_MODE, amp=baseline.format_conditions["amp"], channels_last=channels_last),
        }
    )
