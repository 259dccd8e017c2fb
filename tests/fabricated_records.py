"""Folders of finished jobs as benchmark.py leaves them, made up: what reads records needs no network to be pruned."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.measure.latency_report import Latency, LatencyReport
from bench.system.files import digest, plain, write_json

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
LAYERS = tuple(f"stage{stage}.block{block}.conv{conv}" for stage in range(4) for block in range(3) for conv in range(2))
DENSE_MIOU, DENSE_MACS, DENSE_PARAMETERS = 0.6, 2_000_000_000, 3_000_000
SHA = "ab" * 32
PROVENANCE = {
    "command": "benchmark.py --config configs/quick.yaml", "time": "2026-01-01T00:00:00+00:00", "git": "0123456789ab",
    "python": "3.11.7", "torch": "2.13.0", "platform": "Linux", "processor": "a processor", "threads": 1, "cuda": None,
    "gpu": None,
}  # fmt: skip
SCORING = {"sliding_window": None, "stride": None, "scales": [1.0], "flip": False, "boundary_width": 0.0}


def quality(miou: float) -> dict[str, Any]:
    """Of a network whose classes all have the same IoU."""
    shares = {"pixel_accuracy": miou, "class_accuracy": miou, "frequency_weighted_iou": miou}
    rest = {"classes_present": len(CLASSES), "miou_interval": [miou - 0.01, miou + 0.01], "boundary": None}
    return {"miou": miou, "iou": dict.fromkeys(CLASSES, miou), **shares, **rest}


def cost(share: float) -> dict[str, Any]:
    """Of a network with a share of the dense one's MACs and, squared, of its parameters."""
    macs, parameters = round(share * DENSE_MACS), round(share**2 * DENSE_PARAMETERS)
    bytes_of = {"state_bytes": 4 * parameters, "peak_activation_bytes": 10**6}
    counted = {"parameters": parameters, "nonzero_parameters": parameters, "macs": macs, "flops": 2 * macs}
    thop = {"thop_macs": macs, "thop_percent": 0.0, "thop_note": "", "input_size": [360, 480], "counter": "a counter"}
    return {**counted, **bytes_of, **thop}


def network(path: str, miou: float, share: float) -> dict[str, Any]:
    """What a report says of one network."""
    file = {"path": path, "sha256": SHA if path == "best.pt" else digest(path) * 5 + "0000"}
    sizes = {"bytes_on_disk": 1000, "compressed_bytes": 900, "pruning": []}
    return {
        **file,
        **sizes,
        "widths": dict.fromkeys(LAYERS, round(64 * share)),
        "quality": quality(miou),
        "cost": cost(share),
    }


def report(path: str, miou: float, share: float, speedup: float | None = None) -> dict[str, Any]:
    """A `report.json`."""
    about = {"dataset": "camvid", "split": "test", "model": {"name": "unet_small", "outputs": 12, "kwargs": {}}}
    data = {"test": {"files": 466, "stat": "0011223344556677", "content": None}}
    sides = {"baseline": network("best.pt", DENSE_MIOU, 1.0), "candidate": network(path, miou, share), "change": None}
    head = {"format": "evaluation-report/1", **about, "input_size": [360, 480], "scoring": SCORING, "data": data}
    return {**head, **sides, "latency": speedup and latency(speedup), "layers": None, "layers_timed": None,
            "provenance": PROVENANCE}  # fmt: skip


def latency(speedup: float) -> dict[str, Any]:
    """The latency of a report: a dense network of 20 ms, and one that is faster by so much."""
    how = (50.0, 1e6, "float32", "channels_last")
    dense = Latency(20.0, 20.0, 20.0, *how)
    faster = Latency(20.0 / speedup, 1.0, 1.0, *how, speedup, 0.98 * speedup, 1.02 * speedup)
    networks = {"baseline": dense, "candidate": faster}
    return plain(LatencyReport(networks, (360, 480), 1, 10, 1, "a processor", 1))


def finished_job(
    out: Path, method: str, kept: float, seed: int, miou: float, *, tuned: bool = True, timed: bool = True
) -> Path:
    """Writes the folder of a job that kept a share of the MACs; returns it."""
    folder = out / f"{method}_macs{kept}_s{seed}_{digest([method, kept, seed])[:8]}"
    folder.mkdir(parents=True)
    before = miou - 0.1 if tuned else miou
    info = {
        "format": "pruning-info/1", "method": method, "method_options": {}, "seed": seed,
        "target": {"kind": "macs", "value": kept, "scope": "global"}, "options": {"round_to": 1, "repair": "none"},
        "plan": {"channel_ratio": 1 - kept}, "cost": {"before": cost(1.0), "after": cost(kept)},
        "quality": {"split": "test", "baseline": quality(DENSE_MIOU), "cut": quality(before / 2),
                    "recalibrated": quality(before)},
        "seconds": {"score": 2.5, "cut": 0.5}, "saved_model": str(folder / "pruned_model.pt"),
    }  # fmt: skip
    write_json(folder / "pruning_info.json", info)
    write_json(folder / "report.json", report(f"{folder.name}/pruned", before, kept, 1 / kept if timed else None))
    for name in ("pruned_model.pt", "done"):
        (folder / name).touch()
    if tuned:
        recipe = {"epochs": 2, "lr": 0.01, "seed": seed}
        history = [{"epoch": epoch, "seconds": 1.5} for epoch in range(2)]
        finetune = {"recipe": recipe, "best_epoch": 1, "val_miou": miou, "history": history}
        write_json(folder / "finetuned_report.json",
                   {**report(f"{folder.name}/finetuned", miou, kept), "finetune": finetune})  # fmt: skip
        (folder / "finetuned_model.pt").touch()
    return folder


def benchmark(
    out: Path, methods: Sequence[str], kept: Sequence[float], seeds: Sequence[int], *, tuned: bool = True
) -> Path:
    """Writes the jobs of a grid: each method is a point better than the one before it, seeds spread by half a point."""
    drawn = random.Random(0)
    for place, method in enumerate(methods):
        for share in kept:
            for seed in seeds:
                miou = DENSE_MIOU - 0.3 * (1 - share) + 0.01 * place + drawn.gauss(0, 0.005)
                finished_job(out, method, share, seed, miou, tuned=tuned)
    return out
