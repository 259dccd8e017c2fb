"""The first step: from a baseline and its training images to `deploy_inf.csv`, with the tree as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.measure.baseline import Baseline
from bench.specialists.clustering import ClassTree, class_covariance, class_distances, cluster
from bench.specialists.dendrogram import draw_dendrogram
from bench.specialists.deployment import DEPLOYMENT, Grouping, read_deployment, write_deployment
from bench.specialists.features import LastFeatures, output_layer
from bench.specialists.options import GroupOptions
from bench.specialists.records import read_record
from bench.specialists.responses import ClassResponses, class_responses
from bench.system.console import say
from bench.system.files import plain, read_json, write_json
from bench.system.kept_files import read_kept
from bench.system.provenance import provenance

GROUPING, DENDROGRAM = "grouping.json", "dendrogram.png"

FORMAT = "class-grouping/1"

_COMMAND = "`python -m bench.specialists group`"


def group_classes(baseline: Baseline, options: GroupOptions, folder: Path) -> dict[str, Any]:
    """Groups the classes of a baseline for each number of devices, unless that was done on the same images.

    The folder receives `deploy_inf.csv`, `grouping.json` and `dendrogram.png`. A `deploy_inf.csv` that was changed by
    hand stays.

    Args:
        baseline: the network and its data.
        options: what classes are compared by.
        folder: the specialists' own.

    Returns:
        What `grouping.json` says.

    Raises:
        BenchError: the training images show fewer than two classes.
    """
    data, path = baseline.data, folder / GROUPING
    files = data.files("train")
    identity = plain(
        {
            "baseline": baseline.digest,
            "dataset": data.name,
            "classes": data.classes.names,
            "input_size": data.input_size,
            "responses": options.responses,
        }
    )
    kept = read_kept(path, read_json)
    is_same = isinstance(kept, dict) and kept.get("format") == FORMAT and kept.get("identity") == identity
    if is_same and files.fits(kept["data"], f"{GROUPING} was written") and (folder / DEPLOYMENT).is_file():
        say(f"{folder / DEPLOYMENT} is there already and stays; remove it to have it written again")
        return kept
    data.check_labelled("train")
    model = baseline.saved.model
    layer = output_layer(baseline.saved)
    network = LastFeatures(model, layer) if options.responses == "features" else model
    found = class_responses(network, data.eval_loader("train"), len(data.classes.names), baseline.device)
    tree, covariance = tree_of(found)
    names = [data.classes.names[number] for number in found.present]
    absent = [name for name in data.classes.names if name not in names]
    if absent:
        say(f"no training pixel shows {', '.join(absent)}: in no group")
    record = {
        "format": FORMAT,
        "identity": identity,
        "baseline": {"path": str(baseline.checkpoint.absolute()), "sha256": baseline.digest},
        "present": found.present,
        "pixels": found.pixels,
        "covariance": covariance,
        "distances": tree.distances,
        "linkage": tree.linkage,
        "cophenetic_correlation": tree.cophenetic,
        "groupings": tree.groupings,
        "data": files.record(),
        "provenance": provenance(),
    }
    draw_dendrogram(folder / DENDROGRAM, tree, names)
    write_deployment(folder, tree.groupings, data.classes.names)
    write_json(path, record)
    return plain(record)


def tree_of(found: ClassResponses) -> tuple[ClassTree, Any]:
    """The tree of the classes that are present, and the covariance of their responses.

    Raises:
        BenchError: there are fewer than two.
    """
    if len(found.present) < 2:
        raise BenchError(
            f"the training images show {len(found.present)} class; there is nothing to spread over devices"
        )
    covariance = class_covariance(found.means, found.spread)
    return cluster(class_distances(covariance), found.present), covariance


def recorded_baseline(folder: Path) -> str:
    """The file of the baseline whose classes were grouped.

    Raises:
        BenchError: none were grouped in that folder.
    """
    return _record(folder)["baseline"]["path"]


def groupings_for(baseline: Baseline, folder: Path) -> dict[int, Grouping]:
    """The groupings of `deploy_inf.csv`: number of devices -> grouping.

    Raises:
        BenchError: missing or wrong, or of another baseline or other data.
    """
    record, data = _record(folder), baseline.data
    wanted = {
        "baseline": baseline.digest,
        "dataset": data.name,
        "classes": list(data.classes.names),
        "input_size": list(data.input_size),
    }
    for key, value in wanted.items():
        if record["identity"].get(key) != value:
            what = {"baseline": "another baseline", "dataset": "another data set", "classes": "other classes"}
            raise BenchError(
                f"{folder / GROUPING} is of {what.get(key, 'another input size')}; run "
                f"{_COMMAND} again, or name the folder that belongs to it"
            )
    return read_deployment(folder, record["present"])


def _record(folder: Path) -> dict[str, Any]:
    path = folder / GROUPING
    record = read_record(path, f"run {_COMMAND} again", f"run {_COMMAND} into that folder first")
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise BenchError(f"{path} is no record of grouped classes; run {_COMMAND} again")
    return record
