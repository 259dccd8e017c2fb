"""Draws the images networks disagree on most: input, label, predictions, and where which of them is right."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bench.datasets.base import Classes
from bench.measure.baseline import Baseline
from bench.measure.inference import predict
from bench.report.label_pictures import NOT_SCORED, indexed
from bench.torch_utils.memory_format import contiguous

# Okabe and Ito's colours where something is lost or won, told apart by the colour-blind too.
ALONE = {"right": (228, 228, 228), "wrong": (213, 94, 0), "not scored": NOT_SCORED}
"""What one prediction can be, and the colours of that."""

PAIR = {
    "both right": (228, 228, 228),
    "both wrong, alike": (150, 150, 150),
    "only the baseline right": (213, 94, 0),
    "only the candidate right": (0, 114, 178),
    "both wrong, differently": (240, 228, 66),
    "not scored": NOT_SCORED,
}
"""What two predictions can be, and the colours of that."""

APART = ("wrong", "only the baseline right", "only the candidate right", "both wrong, differently")
"""Where one prediction differs from the label, or two from each other."""

_WIDTH = 640
_QUALITY, _SMALL_QUALITY = 85, 70


@dataclass(frozen=True)
class Panel:
    """One image of a split.

    Attributes:
        name: of its file, without the ending.
        pictures: caption -> picture as a `data:` address.
        verdicts: key of `PAIR` or `ALONE` -> pixels.
    """

    name: str
    pictures: dict[str, str]
    verdicts: dict[str, int]


def segment(
    baseline: Baseline, networks: Mapping[str, nn.Module], index: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What networks make of one image of the split.

    Args:
        baseline: the data, and how networks are scored.
        networks: name -> network, on the device.
        index: which image.

    Returns:
        The image as it is on disk, uint8 [3, H, W], its label, uint8 [H, W], and by name the class predicted for each
        pixel, int64 [H, W] on the CPU.
    """
    image, label = baseline.data.load(baseline.split, index)
    shown = contiguous(baseline.data.network_input(image)[None].to(baseline.device))
    with torch.inference_mode():
        maps = {
            name: predict(model.eval(), shown, label.shape, baseline.scoring)[0].cpu()
            for name, model in networks.items()
        }
    return image, label, maps


def panels_of(baseline: Baseline, networks: Mapping[str, nn.Module], pixels: Tensor, count: int) -> list[Panel]:
    """Panels of the images of the split that have the most pixels of some kind.

    Args:
        baseline: the data, and how networks are scored.
        networks: name -> network: one, or two to compare with each other.
        pixels: of that kind in each image, int64 [N]; an image without one gets no panel.
        count: the most panels.
    """
    # A stable order: of equals the first.
    chosen = [index for index in pixels.argsort(descending=True, stable=True).tolist() if pixels[index] > 0][:count]
    names = baseline.data.names(baseline.split)
    return [make_panel(names[index], *segment(baseline, networks, index), baseline.data.classes) for index in chosen]


def make_panel(name: str, image: Tensor, label: Tensor, maps: Mapping[str, Tensor], classes: Classes) -> Panel:
    """Draws one panel.

    Args:
        name: of the image.
        image: uint8 [3, H, W], RGB.
        label: integer [H, W], class ids and `ignore_index`.
        maps: what the one or two networks predict, integer [H, W], by their names.
        classes: the label set.
    """
    arrays = [entry.numpy() for entry in maps.values()]
    colours = PAIR if len(arrays) == 2 else ALONE
    judged = verdicts(label.numpy(), arrays, len(classes.names))
    ids = {"label": label.numpy(), **dict(zip(maps, arrays, strict=True))}
    pictures = {"input": _photograph(image.permute(1, 2, 0).numpy())}
    pictures |= {caption: _map(entry, classes.palette) for caption, entry in ids.items()}
    pictures["difference" if len(arrays) == 2 else "errors"] = _map(judged, list(colours.values()))
    counted = np.bincount(judged.ravel(), minlength=len(colours)).tolist()
    return Panel(name, pictures, dict(zip(colours, counted, strict=True)))


def verdicts(label: np.ndarray, predictions: Sequence[np.ndarray], scored: int) -> np.ndarray:
    """Which predictions are right where.

    Args:
        label: integer [H, W]; what is no scored class is not judged.
        predictions: one or two, integer [H, W].
        scored: number of scored classes.

    Returns:
        uint8 [H, W]: places in `ALONE` or `PAIR`.
    """
    right = [prediction == label for prediction in predictions]
    void = label >= scored
    if len(right) == 1:
        judged = np.select([void, right[0]], [2, 0], 1)
    else:
        both, alike = right[0] & right[1], predictions[0] == predictions[1]
        judged = np.select([void, both, alike, right[0], right[1]], [5, 0, 1, 2, 3], 4)
    return judged.astype(np.uint8)


def loss_picture(image: Tensor, label: Tensor, maps: Sequence[Tensor], classes: Classes, width: int) -> str:
    """A small picture of what one network labels rightly and another one does not: in orange on the pale image.

    Args:
        image: uint8 [3, H, W], RGB.
        label: integer [H, W], class ids and `ignore_index`.
        maps: what both predict, integer [H, W].
        classes: the label set.
        width: the most pixels it is wide.

    Returns:
        A `data:` address.
    """
    pale = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())).convert("L").convert("RGB")
    pale = np.asarray(pale.resize(tuple(label.shape[::-1]), Image.Resampling.BICUBIC)) // 2 + 127
    judged = verdicts(label.numpy(), [entry.numpy() for entry in maps], len(classes.names))
    kind = "only the baseline right"
    lost = judged == list(PAIR).index(kind)
    shown = Image.fromarray(np.where(lost[..., None], np.array(PAIR[kind]), pale).astype(np.uint8))
    size = (width, max(1, round(width * shown.height / shown.width)))
    # A mean over the pixels: what is lost stays seen where it is narrow.
    small = shown.resize(size, Image.Resampling.BOX) if shown.width > width else shown
    return data_address(small, "JPEG", quality=_SMALL_QUALITY)


def _map(ids: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> str:
    # Between two classes' colours lies a third one's: nothing may be smoothed.
    return data_address(_fitted(indexed(ids, colours), Image.Resampling.NEAREST), "PNG", optimize=True)


def _photograph(pixels: np.ndarray) -> str:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return data_address(_fitted(image, Image.Resampling.BICUBIC), "JPEG", quality=_QUALITY)


def _fitted(image: Image.Image, smooth: Image.Resampling) -> Image.Image:
    """As wide as a page shows it at most; pages make small pictures larger by themselves."""
    if image.width <= _WIDTH:
        return image
    return image.resize((_WIDTH, max(1, round(_WIDTH * image.height / image.width))), smooth)


def data_address(image: Image.Image, kind: str, **settings: object) -> str:
    """A picture as the `data:` address that a page holds it in."""
    packed = io.BytesIO()
    image.save(packed, format=kind, **settings)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(packed.getvalue()).decode()}"
