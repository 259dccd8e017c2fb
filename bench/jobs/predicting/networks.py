"""A network's file with all that it takes to show it images: a checkpoint, or an ONNX file that onnxruntime runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.config.values import size_text
from bench.datasets import DATASETS, classes_of, dataset_class
from bench.datasets.base import IMAGENET, Classes, Normalization, Size
from bench.datasets.classes_file import read_description, recorded
from bench.datasets.description import Description, usual_colour
from bench.datasets.options import DataOptions
from bench.datasets.recorded import check_recorded
from bench.errors import BenchError
from bench.export.onnx_file import OnnxNetwork
from bench.export.onnx_module import OnnxModule
from bench.models.checkpoint import load_model
from bench.models.options import ModelOptions
from bench.models.own_network import check_input
from bench.system.console import say


@dataclass(frozen=True)
class Network:
    """A network that can be shown images.

    Attributes:
        model: maps images [N, 3, h, w] to logits [N, C, h', w'].
        classes: what its outputs are called and shown as.
        input_size: (height, width) it sees images at; None: at their own.
        normalization: of images.
    """

    model: nn.Module
    classes: Classes
    input_size: Size | None
    normalization: Normalization


def open_checkpoint(path: Path, data: DataOptions, options: ModelOptions, device: torch.device) -> Network:
    """Opens a dense, pruned or fine-tuned network.

    Args:
        path: its file.
        data: `input_size`, `dataset` and `classes_file` are looked at; what they leave open, the file says.
        options: which network it is, where the file does not say that.
        device: where to put it.

    Raises:
        BenchError: as for `bench.load_model`, or the file contradicts the options.
    """
    saved = load_model(path, **options.in_file)
    described = _described(path, data, saved.meta)
    classes = _classes(path, data, saved.meta, described, saved.spec.outputs)
    known = data.dataset or saved.meta.get("dataset")
    usual = getattr(dataset_class(known), "native_size", None) if known in DATASETS else None
    size = data.input_size or saved.meta.get("input_size") or (described and described.input_size) or usual
    if size:
        check_input(saved.model, saved.spec.name, tuple(size))
    normalization = described.normalization if described else IMAGENET
    return Network(saved.model.to(device), classes, size and tuple(size), normalization)


def open_onnx(path: Path, data: DataOptions) -> Network:
    """Opens an ONNX file, `bench.export`'s or another one of a segmentation network.

    Args:
        path: the file.
        data: as for `open_checkpoint`.

    Raises:
        BenchError: as for `bench.export.onnx_file.OnnxNetwork`, or the file contradicts the options.
    """
    opened = OnnxNetwork(path)
    facts = opened.facts
    meta = {} if facts is None else {"dataset": facts.dataset, "classes": facts.classes}
    described = None if data.classes_file is None else read_description(Path(data.classes_file))
    if facts is not None and not (described or data.dataset):
        names = facts.classes or tuple(f"output {number}" for number in range(facts.outputs))
        classes = Classes(names, facts.colours[: len(names)], facts.outputs, -1)
    else:
        classes = _classes(path, data, meta, described, _outputs(opened))
    size = data.input_size or opened.input_size or (facts and facts.input_size) or (described and described.input_size)
    if opened.input_size not in (None, size):
        raise BenchError(
            f"{path} takes images of {size_text(opened.input_size)} alone; leave `input_size` out, or export the "
            "network for any size"
        )
    normalization = described.normalization if described else facts.normalization if facts else IMAGENET
    if facts is None and described is None:
        say(f"{path} does not say how images are normalised; taken: ImageNet's mean and deviation")
    return Network(OnnxModule(opened), classes, size, normalization)


def _outputs(network: OnnxNetwork) -> int:
    """Channels of its logits, which a file may leave open."""
    (channels,) = network.session.get_outputs()[0].shape[1:2]
    if not isinstance(channels, int):
        raise BenchError(f"{network.path} does not say how many outputs it has; export it with that number")
    return channels


def _described(path: Path, data: DataOptions, meta: Mapping[str, Any]) -> Description | None:
    """What a `classes.yaml` says: the one that was asked for, else that of the images the network was trained on."""
    if data.classes_file is not None:
        return read_description(Path(data.classes_file))
    return recorded(meta, f"{path}")


def _classes(
    path: Path, data: DataOptions, meta: Mapping[str, Any], described: Description | None, outputs: int
) -> Classes:
    """The label set that was asked for, else that of the data the network was trained on, else numbers."""
    if described:
        classes = described.classes
    elif data.dataset or meta.get("dataset") in DATASETS:
        name = data.dataset or meta["dataset"]
        classes = classes_of(replace(data, dataset=name))
        check_recorded(meta, path, name, classes.names)
    else:
        names = tuple(meta.get("classes") or (f"output {number}" for number in range(outputs)))
        classes = Classes(names, tuple(usual_colour(number + 1) for number in range(len(names))), outputs, -1)
    if len(classes.names) > outputs:
        raise BenchError(f"{path} has {outputs} outputs, fewer than the {len(classes.names)} classes they would show")
    return replace(classes, outputs=outputs)
