"""Pictures of the images that a cell's network lost the most on, small enough for the page of all cells."""

from __future__ import annotations

from pathlib import Path

from bench.measure.baseline import Baseline
from bench.models.checkpoint import load_model
from bench.report.disagreement_panels import loss_picture, segment
from bench.system.files import read_json, write_json
from bench.system.kept_files import read_kept
from bench.system.run_folder import FINETUNED, FINETUNED_REPORT, PRUNED, REPORT, WORST_IMAGES

WIDTH = 160


def draw_worst_images(baseline: Baseline, folder: Path) -> None:
    """Draws the images that the report of a job's last network names, unless that was done.

    Args:
        baseline: what it lost them to, and the images.
        folder: the job's; it receives `worst_images.json`.
    """
    is_tuned = (folder / FINETUNED_REPORT).is_file()
    report = read_json(folder / (FINETUNED_REPORT if is_tuned else REPORT))
    digest, path = report["candidate"]["sha256"], folder / WORST_IMAGES
    # A report of an earlier version names none.
    if "worst_images" not in report or (path.is_file() and (read_kept(path, read_json) or {}).get("sha256") == digest):
        return
    network = load_model(folder / (FINETUNED if is_tuned else PRUNED), outputs=baseline.data.classes.outputs).model
    networks = {"baseline": baseline.saved.model, "candidate": network.to(baseline.device)}
    images = []
    for lost in report["worst_images"]:
        image, label, maps = segment(baseline, networks, lost["index"])
        picture = loss_picture(image, label, [*maps.values()], baseline.data.classes, WIDTH)
        images.append({**{key: lost[key] for key in ("image", "baseline", "candidate")}, "picture": picture})
    write_json(path, {"format": "worst-images/1", "sha256": digest, "images": images})
