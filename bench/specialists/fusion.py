"""The head that fuses the last features of frozen specialists into logits of all classes, and its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError, DamagedFile
from bench.measure.operators import OperatorCalls
from bench.models.checkpoint import stored_tensors
from bench.models.parts import conv_bn_relu, initialise
from bench.models.state_dict_file import fitting_tensors, read_file, write_file
from bench.specialists.deployment import spelt
from bench.specialists.features import LastFeatures
from bench.specialists.opened import Specialist
from bench.system.files import plain
from bench.torch_utils.dry_run import stand_in
from bench.torch_utils.memory_format import contiguous

FUSION = "fusion_model.pt"

FORMAT = "segmentation-pruning-bench/fusion-1"

AGAIN = "run `python -m bench.specialists fuse` again"
"""How a head, and the single network beside it, are written again."""


@dataclass(frozen=True)
class HeadSpec:
    """How a head is built.

    Attributes:
        channels: of the last features of each specialist, in their order.
        width: channels between the layers of the head.
        outputs: of the head: one a class, as the baseline has them.
    """

    channels: tuple[int, ...]
    width: int
    outputs: int


class FusionHead(nn.Module):
    """A 1x1 convolution that mixes all features, a 3x3 that looks around, and a classifier.

    Args:
        spec: its widths.
    """

    def __init__(self, spec: HeadSpec):
        super().__init__()
        self.spec = spec
        self.mix = nn.Sequential(
            nn.Conv2d(sum(spec.channels), spec.width, kernel_size=1, bias=False),
            nn.BatchNorm2d(spec.width),
            nn.ReLU(inplace=True),
        )
        self.around = nn.Sequential(*conv_bn_relu(spec.width, spec.width, bias=False))
        self.classifier = nn.Conv2d(spec.width, spec.outputs, kernel_size=1)
        initialise(self, self.classifier)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features [N, D_i, h_i, w_i] -> logits [N, outputs, h, w] at the largest of these resolutions."""
        size = max((tuple(found.shape[-2:]) for found in features), key=lambda sides: sides[0] * sides[1])
        return self.classifier(self.around(self.mix(torch.cat([scaled(found, size) for found in features], dim=1))))


def scaled(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [N, C, h, w] at another resolution, bilinearly."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


class Fused(nn.Module):
    """Specialists and their head as one network: images [N, 3, H, W] -> logits [N, outputs, H, W].

    Specialists stay frozen, and in evaluation mode whatever the mode of the rest is.

    Attributes:
        specialists: each gives its last features.
        head: what fuses them.
    """

    def __init__(self, specialists: Sequence[LastFeatures], head: FusionHead):
        super().__init__()
        self.specialists, self.head = nn.ModuleList(specialists), head
        self.specialists.requires_grad_(False)

    def train(self, mode: bool = True) -> Fused:
        """Sets the mode of the head alone."""
        super().train(mode)
        self.specialists.eval()
        return self

    def features(self, images: Tensor) -> list[Tensor]:
        """The last features of each specialist."""
        with torch.no_grad():
            # Laid out as they come from another process, so that both ways compute the same.
            return [contiguous(specialist(images)) for specialist in self.specialists]

    def forward(self, images: Tensor) -> Tensor:
        """The logits, at the size of the images."""
        return scaled(self.head(self.features(images)), images.shape[-2:])


def head_macs(head: FusionHead, features: Sequence[Tensor]) -> int:
    """Multiply-accumulates of a head on features of some shapes, of one image."""
    with stand_in(head) as shadow, OperatorCalls(shadow).noting() as operators:
        shadow([torch.zeros(1, *found.shape[1:]) for found in features])
    return operators.macs


def save_head(
    path: Path,
    head: nn.Module,
    spec: HeadSpec,
    specialists: Sequence[dict[str, Any]],
    meta: dict[str, Any],
) -> None:
    """Writes a head: plain tensors and plain data, in one piece or not at all.

    Args:
        path: the file.
        head: the network.
        spec: its widths.
        specialists: the record of each (`Specialist.as_record`), whose features it reads.
        meta: how it came about.
    """
    content = {
        "format": FORMAT,
        "head": plain(asdict(spec)),
        "specialists": plain(list(specialists)),
        "state_dict": stored_tensors(head),
        "meta": plain(meta),
    }
    write_file(path, content)


def read_head(path: Path) -> dict[str, Any]:
    """What `save_head` wrote, its form checked.

    Raises:
        BenchError: missing, damaged, or another kind of file.
    """
    try:
        content = read_file(path)
    except DamagedFile as error:
        raise DamagedFile(f"{path} is damaged or no fusion head; {AGAIN}", path) from error
    if content.get("format") != FORMAT:
        raise BenchError(f"{path} holds no fusion head; {AGAIN}")
    widths = content.get("head")
    is_whole = (
        isinstance(widths, dict)
        and set(widths) == {"channels", "width", "outputs"}
        and isinstance(content.get("specialists"), list)
        and all(isinstance(found, dict) for found in content["specialists"])
        and isinstance(content.get("state_dict"), dict)
        and isinstance(content.get("meta"), dict)
    )
    if not is_whole:
        raise DamagedFile(f"{path} is damaged: a part of it is missing or of another form; {AGAIN}", path)
    return content


def open_head(path: Path, specialists: Sequence[Specialist], device: torch.device) -> FusionHead:
    """Opens the head that was trained on the features of some specialists.

    Raises:
        BenchError: missing or damaged, or trained on others.
    """
    if not path.is_file():
        raise BenchError(f"{path} is missing; run `python -m bench.specialists fuse` first")
    content = read_head(path)
    for found, specialist in zip(content["specialists"], specialists, strict=False):
        if found != plain(specialist.as_record()):
            raise BenchError(f"{path} was trained on another {found.get('file')} than {specialist.path}; {AGAIN}")
    if len(content["specialists"]) != len(specialists):
        groups = ", ".join(spelt(found.get("classes", ())) for found in content["specialists"])
        raise BenchError(f"{path} fuses specialists of the classes {groups}; {AGAIN}")
    spec = HeadSpec(tuple(content["head"]["channels"]), content["head"]["width"], content["head"]["outputs"])
    head = FusionHead(spec)
    weights = fitting_tensors(content["state_dict"], head.state_dict(), where=f"{path} does not fit its head")
    head.load_state_dict(weights)
    return head.to(device).eval().requires_grad_(False)
