"""Networks beside their baseline: measured, drawn, and their predictions written; what eval.py calls."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from bench.datasets.recorded import check_recorded
from bench.errors import BenchError, UsageError
from bench.jobs.robustness import robustness_beside
from bench.measure.baseline import Baseline
from bench.measure.evaluation_report import EvaluationReport
from bench.models.checkpoint import SavedModel, load_model
from bench.report.disagreement_panels import panels_of, segment
from bench.report.html_page import html_page
from bench.report.label_pictures import prediction_picture, write_ids
from bench.report.options import PageOptions
from bench.system.files import make_folder, write_json, write_text


def evaluate_pair(
    baseline: Baseline, candidate: Path | None, report: Path, page: PageOptions, *, corruptions: bool = False
) -> EvaluationReport:
    """Measures a candidate beside the baseline, or the baseline alone.

    Args:
        baseline: the network and its data.
        candidate: file of a network for the same data set, if there is one.
        report: the JSON file to write.
        page: whether a page of the same name is put beside it, and what that shows.
        corruptions: also score both under corruptions.

    Returns:
        What the report says.

    Raises:
        UsageError: the report has the name of the page.
    """
    page_path = report.with_suffix(".html")
    if page.html and report.suffix.lower() == page_path.suffix:
        raise UsageError(f"--report names the JSON file; pass {report.with_suffix('.json')}, the page goes beside it")
    make_folder(report.parent)
    networks = {"baseline": baseline.saved.model}
    if candidate is None:
        measured, apart = baseline.describe(), baseline.evaluation.wrong
    else:
        saved = _candidate(baseline, candidate)
        networks["candidate"] = saved.model.to(baseline.device)
        evaluation, apart = baseline.evaluate_beside(saved.model)
        measured = baseline.compare(candidate, saved, evaluation=evaluation)
    if corruptions:
        side = measured["candidate"]
        measured["robustness"] = robustness_beside(
            baseline, networks.get("candidate"), side and side["quality"]["miou"]
        )
    write_json(report, measured)
    if page.html:
        shown = panels_of(baseline, networks, apart, page.html_images) if page.html_images else None
        write_text(page_path, html_page(measured, shown, baseline.data.classes))
    return measured


def write_predictions(baseline: Baseline, candidate: Path | None, folder: Path, *, label_ids: bool = False) -> int:
    """Writes what a network predicts for each image of the split as a PNG of the image's name and the label's size.

    Args:
        baseline: the network and its data.
        candidate: file of the network; without one it is the baseline.
        folder: where to.
        label_ids: write the ids of the data set's label files, grey, as its evaluation server wants them. Otherwise
            pixels hold the numbers the network is trained on, shown in the data set's colours.

    Returns:
        The number of files.

    Raises:
        UsageError: label ids of a data set whose files hold the training numbers themselves.
        BenchError: two images of one name, or a folder that cannot be written.
    """
    data = baseline.data
    ids = data.dataset.label_ids
    if label_ids and ids is None:
        raise UsageError(f"{data.name} has no label ids but the ones it is trained on; leave --predict-ids out")
    names = data.names(baseline.split)
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise BenchError(f"two images of {baseline.split} are called {twice}; rename one, they would share a file")
    make_folder(folder)
    model = baseline.saved.model if candidate is None else _candidate(baseline, candidate).model
    for name, prediction in baseline.predictions(model, "predictions"):
        path = folder / f"{name}.png"
        if label_ids:
            write_ids(path, np.array(ids, np.uint8 if max(ids) <= 255 else np.uint16)[prediction.numpy()])
        else:
            write_ids(path, prediction.numpy(), data.classes)
    return len(names)


def _candidate(baseline: Baseline, path: Path) -> SavedModel:
    saved = load_model(path, name=baseline.saved.spec.name, outputs=baseline.data.classes.outputs)
    data = baseline.data
    check_recorded(saved.meta, path, data.name, data.classes.names, data.normalization)
    return saved


def draw_pair(baseline: Baseline, candidate: Path | None, index: int, path: Path) -> None:
    """Draws one image of the split, its label, and what baseline and candidate make of it.

    Args:
        baseline: the network and its data.
        candidate: file of the other network, if there is one.
        index: which image of the split.
        path: the PNG to write.
    """
    data = baseline.data
    count = len(data.names(baseline.split))
    if not 0 <= index < count:
        raise UsageError(
            f"--picture-index {index} is not one of the {count} images of {baseline.split} (0 to {count - 1})"
        )
    networks = {"baseline": baseline.saved.model}
    if candidate is not None:
        networks[candidate.stem] = _candidate(baseline, candidate).model.to(baseline.device)
    image, label, maps = segment(baseline, networks, index)
    make_folder(path.parent)
    prediction_picture(path, image, {"label": label, **maps}, data.classes)
