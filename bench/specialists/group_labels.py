"""A data set as a specialist sees it: its own classes, and one for all others together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.channels.layer_axes import adopt_shapes
from bench.data import SegmentationData
from bench.datasets.base import Classes, Dataset, Pair
from bench.models.checkpoint import SavedModel
from bench.models.output_layers import output_axes
from bench.specialists.deployment import Group, spelt

BACKGROUND = "background"

_VOID = 255


def group_classes(classes: Classes, group: Group) -> Classes:
    """The label set of a specialist: class i is the i-th of the group, the last one is all other classes together."""
    background = BACKGROUND if BACKGROUND not in classes.names else "other classes"
    others = [number for number in range(len(classes.names)) if number not in group]
    weights = None
    if classes.weights is not None:
        rest = [classes.weights[number] for number in others]
        weights = (*(classes.weights[number] for number in group), sum(rest) / max(1, len(rest)))
    return Classes(
        (*(classes.names[number] for number in group), background),
        (*(classes.palette[number] for number in group), (0, 0, 0)),
        len(group) + 1,
        _VOID,
        weights,
    )


class GroupLabels(Dataset):
    """A data set whose labels tell the classes of a group from all others; void stays void."""

    def __init__(self, dataset: Dataset, group: Group):
        super().__init__(dataset.root)
        self._dataset = dataset
        self.name = dataset.name
        self.classes = group_classes(dataset.classes, group)
        self.native_size, self.crop_size = dataset.native_size, dataset.crop_size
        self.headline_split = dataset.headline_split
        self.normalization, self.augmentation = dataset.normalization, dataset.augmentation
        self.record, self.identity = dataset.record, {**dataset.identity, "group": spelt(group)}
        self.decoding = dataset.decoding
        self._ids = np.full(256, _VOID, dtype=np.uint8)
        self._ids[: len(dataset.classes.names)] = len(group)
        self._ids[list(group)] = np.arange(len(group))
        self._ids[dataset.classes.ignore_index] = _VOID

    def pairs(self, split: str) -> list[Pair]:
        """Those of the data set."""
        return self._dataset.pairs(split)

    def decode_label(self, path: Path) -> np.ndarray:
        """A label map of the data set in the group's ids, uint8 [H, W]."""
        return self._ids[self._dataset.decode_label(path)]


def data_of_group(data: SegmentationData, group: Group) -> SegmentationData:
    """The same images, with labels as the specialist of a group sees them."""
    return data.viewed(GroupLabels(data.dataset, group))


@torch.no_grad()
def with_group_outputs(saved: SavedModel, group: Group) -> SavedModel:
    """A network whose outputs are those of a group and one for everything else; changed in place.

    Outputs of the group keep their weights; the last output begins with the mean of the others'.

    Args:
        saved: a network with an output for each class, dense or pruned.
        group: fewer classes than it has outputs.
    """
    axes = output_axes(saved.spec)
    tensors = saved.model.state_dict()
    chosen = {name: _group_rows(tensors[name], axis, group) for name, axis in axes.items()}
    adopt_shapes(saved.model, {name: tuple(tensor.shape) for name, tensor in chosen.items()})
    saved.model.load_state_dict(chosen, strict=False)
    return replace(saved, spec=replace(saved.spec, outputs=len(group) + 1))


def _group_rows(tensor: Tensor, axis: int, group: Group) -> Tensor:
    own = torch.tensor(group, device=tensor.device)
    others = torch.tensor([row for row in range(tensor.shape[axis]) if row not in group], device=tensor.device)
    rest = tensor.index_select(axis, others).mean(dim=axis, keepdim=True)
    return torch.cat([tensor.index_select(axis, own), rest], dim=axis)
