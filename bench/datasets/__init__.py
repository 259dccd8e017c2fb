"""The data sets: one file each, one entry here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from bench.errors import unknown_name

if TYPE_CHECKING:
    from bench.datasets.base import Dataset

# Name -> class; imported only when asked for.
DATASETS = {
    "camvid": "bench.datasets.camvid:CamVid",
    "cityscapes": "bench.datasets.cityscapes:Cityscapes",
    "synthetic": "bench.datasets.synthetic:Synthetic",
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
