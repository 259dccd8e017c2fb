"""The data set a checkpoint was trained on, as its file says: taken from there, and not contradicted by a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.datasets import DATASETS, DEFAULT, classes_of, dataset_class
from bench.datasets.base import IMAGENET, Normalization
from bench.datasets.classes_file import drawn_shares, recorded
from bench.datasets.options import DataOptions
from bench.errors import BenchError, UsageError
from bench.system.console import say


def settled(
    options: DataOptions, meta: Mapping[str, Any], path: Path | str, *, may_differ: bool = False
) -> DataOptions:
    """Fills what was left open about the data with what a checkpoint says, and shows what that was.

    Where the data lie is no property of a network: another folder is taken as it is, and one that a checkpoint names is
    left out where it does not exist.

    Args:
        options: what was asked for.
        meta: of the checkpoint: `dataset`, `classes`, `data_root`, `input_size` and `description`, as far as it has
            them.
        path: its file.
        may_differ: whether another data set than the checkpoint's may be asked for, to go on from its weights.

    Returns:
        The options with a data set; the size stays open where neither says one.

    Raises:
        UsageError: nothing says which data set, or the one that is said does not exist.
        BenchError: the request and the checkpoint contradict each other.
    """
    before = meta.get("dataset")
    name = options.dataset or before
    if name is None:
        raise UsageError(f"{path} does not say which data set it was trained on; pass `dataset=NAME`")
    if options.dataset is None and name not in DATASETS:
        raise UsageError(
            f"{path} was trained on the data set '{name}', which is not registered; known: {', '.join(DATASETS)}"
        )
    dataset_class(name)
    if not may_differ:
        _check_name(meta, path, name)
    root, folder = options.data_root, meta.get("data_root")
    if root is None and name == before and folder and Path(folder).is_dir():
        root = folder
    size = options.input_size or (tuple(meta["input_size"]) if meta.get("input_size") else None)
    chosen = replace(options, dataset=name, data_root=root, input_size=size)
    names = classes_of(chosen, said_of(meta, name)).names
    if not may_differ:
        check_recorded(meta, path, name, names)
        _check_split(meta, path, options)
    _show(options, chosen, path)
    return chosen


def said_of(meta: Mapping[str, Any], dataset: str) -> Mapping[str, Any]:
    """What a checkpoint says of a data set: nothing, if it was trained on another one."""
    return meta if meta.get("dataset") == dataset else {}


def normalization_of(meta: Mapping[str, Any], path: Path | str) -> Normalization:
    """How images were normalised for the network of a checkpoint.

    Raises:
        BenchError: what it says of its data is damaged.
    """
    described = recorded(meta, f"{path}")
    return described.normalization if described else IMAGENET


def check_recorded(
    meta: Mapping[str, Any],
    path: Path | str,
    dataset: str,
    classes: tuple[str, ...],
    normalization: Normalization | None = None,
) -> None:
    """Makes sure that a network was trained on some data.

    Args:
        meta: of its checkpoint.
        path: its file.
        dataset: name of the data set.
        classes: of it.
        normalization: of its images, where they are known.

    Raises:
        BenchError: with both values, where a checkpoint says that it was trained on others.
    """
    _check_name(meta, path, dataset)
    if meta.get("classes") and tuple(meta["classes"]) != classes:
        raise BenchError(
            f"{path} was trained on the classes {', '.join(meta['classes'])}; {dataset} has {', '.join(classes)}"
        )
    then = normalization_of(meta, path)
    if meta.get("dataset") and normalization not in (None, then):
        raise BenchError(
            f"{path} was trained on images normalised by {_numbers(then)}, {dataset} has {_numbers(normalization)}; "
            "give it the same, or another file"
        )


def _check_name(meta: Mapping[str, Any], path: Path | str, dataset: str) -> None:
    before = meta.get("dataset")
    if before is not None and before != dataset:
        raise BenchError(f"{path} was trained on {before}, not on {dataset}; pass `dataset={before}` or another file")


def _check_split(meta: Mapping[str, Any], path: Path | str, options: DataOptions) -> None:
    drawn = drawn_shares(meta, f"{path}")
    if drawn and options.split_seed not in (None, drawn.seed):
        raise BenchError(
            f"{path} was trained on the split that was drawn with seed {drawn.seed}; one of another seed would "
            "score it on images that it was trained on; leave `split_seed` out"
        )


def _numbers(normalization: Normalization) -> str:
    return f"mean {list(normalization.mean)} and std {list(normalization.std)}"


def _show(asked: DataOptions, chosen: DataOptions, path: Path | str) -> None:
    """Names what was taken from the file and is not what would have been without it."""
    flags = []
    if asked.dataset is None and chosen.dataset != DEFAULT:
        flags.append(f"--dataset {chosen.dataset}")
    usual_root = Path("datasets") / chosen.dataset
    if asked.data_root is None and chosen.data_root and Path(chosen.data_root).resolve() != usual_root.resolve():
        flags.append(f"--data-root {chosen.data_root}")
    usual_size = getattr(dataset_class(chosen.dataset), "native_size", None)
    if asked.input_size is None and chosen.input_size not in (None, usual_size):
        flags.append(f"--input-size {','.join(map(str, chosen.input_size))}")
    if flags:
        say(f"as {path} says: {' '.join(flags)}")
