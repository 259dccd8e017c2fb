"""A network's file by itself: opened with what a program needs to use it, and what it says of one image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.datasets.base import IMAGENET
from bench.datasets.image_files import read_image
from bench.datasets.recorded import normalization_of
from bench.datasets.transforms import network_input
from bench.errors import UsageError
from bench.measure.inference import predict as choose_outputs
from bench.models.checkpoint import load_model


def load(
    path: Path | str, *, model: str | None = None, outputs: int | None = None, device: torch.device | str = "cpu"
) -> nn.Module:
    """Opens a dense, pruned or fine-tuned network for use.

        >>> save_model("network.pt", SavedModel(model, ModelSpec("unet_small", 12), meta={"input_size": [96, 128]}))
        >>> network = load("network.pt")
        >>> network(torch.zeros(1, 3, 96, 128)).shape, network.input_size, network.classes
        (torch.Size([1, 12, 96, 128]), (96, 128), ())

    Args:
        path: the file.
        model: the network the file must hold; required for a plain state dict.
        outputs: the number of outputs it must have; required for a plain state dict.
        device: where to put it.

    Returns:
        The network in evaluation mode: images [N, 3, H, W] -> logits [N, outputs, H, W]. Three attributes of it come
        from the file and are in no state dict: `classes`, the names of the scored classes by output (empty where the
        file has none), `input_size`, (height, width) in pixels that it was trained at (None likewise), and
        `normalization`, mean and standard deviation of its images. Everything else in the file is in what
        `bench.load_model` returns.

    Raises:
        UsageError: no network is called `model`.
        BenchError: as for `bench.load_model`.
    """
    saved = load_model(path, name=model, outputs=outputs)
    network = saved.model.to(device)
    network.classes = tuple(saved.meta.get("classes", ()))
    size = saved.meta.get("input_size")
    network.input_size = tuple(size) if size else None
    network.normalization = normalization_of(saved.meta, path)
    return network


@torch.inference_mode()
def predict(network: nn.Module, image: Path | str | np.ndarray, *, input_size: tuple[int, int] | None = None) -> Tensor:
    """The output a network chooses for each pixel of an image, as it is scored: scaled, normalised, and back.

        >>> save_model("network.pt", SavedModel(model, ModelSpec("unet_small", 12), meta={"input_size": [96, 128]}))
        >>> predict(load("network.pt"), np.zeros((480, 640, 3), np.uint8)).shape
        torch.Size([480, 640])

    Args:
        network: in evaluation mode, as `load` returns it.
        image: an image file, or uint8 [H, W, 3] in RGB.
        input_size: (height, width) that the network sees the image at; by default the network's `input_size`, else the
            image's own.

    Returns:
        int64 [H, W] on the CPU: numbers of outputs, at the size of the image.

    Raises:
        UsageError: an array of another type or shape.
        BenchError: a file that is missing or no image.
    """
    pixels = image if isinstance(image, np.ndarray) else read_image(Path(image))
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UsageError(f"an image is uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
    size = input_size or getattr(network, "input_size", None) or pixels.shape[:2]
    normalization = getattr(network, "normalization", IMAGENET)
    shown = network_input(torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1), tuple(size), normalization)
    device = next(network.parameters()).device
    return choose_outputs(network, shown[None].to(device), pixels.shape[:2])[0].cpu()
