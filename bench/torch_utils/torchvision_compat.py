"""Makes `import torchvision` work beside a torch build that its native library was not built for.

The torchvision wheel of the package index is built for CUDA torch. Beside a CPU-only torch its native
library does not load, and the import dies because the operators it registers fake kernels for are
missing. Declaring their schemas is enough: the models and transforms used here call no native operator.
Import this module before torchvision; where the native library loads it changes nothing.
"""

from __future__ import annotations

import importlib

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _import_torchvision() -> torch.library.Library | None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(operator + _SCHEMA)
    importlib.import_module("torchvision")
    return library


# The declarations live as long as the library object does.
_LIBRARY = _import_torchvision()
