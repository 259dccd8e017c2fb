"""The data sets: one file each, one entry here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import unknown_name

if TYPE_CHECKING:
    from bench.datasets.base import Classes, Dataset
    from bench.datasets.options import DataOptions

# Name -> class; imported only when asked for.
DATASETS = {
    "camvid": "bench.datasets.camvid:CamVid",
    "cityscapes": "bench.datasets.cityscapes:Cityscapes",
    "synthetic": "bench.datasets.synthetic:Synthetic",
    "folder": "bench.datasets.folder:Folder",
}

DEFAULT = "synthetic"
"""The data set where neither a request nor a checkpoint names one: it needs no file."""


def dataset_class(name: str) -> type[Dataset]:
    """The class of a data set.

    Raises:
        UsageError: no data set of that name.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    module, _, attribute = DATASETS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def open_dataset(options: DataOptions, recorded: Mapping[str, Any] | None = None) -> Dataset:
    """Opens the data set that is asked for.

    Args:
        options: which one, where.
        recorded: what a network that was trained on it says of it.

    Raises:
        UsageError: no data set of that name, or options that it does not have.
        BenchError: missing or foreign files.
    """
    kind = dataset_class(options.dataset or DEFAULT)
    return kind.opened(root_of(options), options, recorded or {})


def classes_of(options: DataOptions, recorded: Mapping[str, Any] | None = None) -> Classes:
    """The classes of the data set that `open_dataset` opens, without looking for its files."""
    kind = dataset_class(options.dataset or DEFAULT)
    return kind.label_set(root_of(options), options, recorded or {})


def root_of(options: DataOptions) -> Path:
    """The folder of a data set."""
    return Path(options.data_root or Path("datasets") / (options.dataset or DEFAULT))
