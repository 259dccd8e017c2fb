"""Training: images a second by `fit`, beside a plain loop over the same images in the same process."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils import data
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from bench.data import SegmentationData
from bench.datasets.options import DataOptions
from bench.datasets.synthetic import draw_dataset
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel
from bench.train_eval import fit
from bench.training.options import TrainOptions
from tests.device_day.day import Part, Row, Setting, Step

OUTPUTS, VOID, LR = 12, 11, 0.01
UNIQUE = 92
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def drawn(setting: Setting) -> Path:
    """The folder of the drawn images, in CamVid's layout."""
    root = setting.scratch / "drawn"
    if not root.is_dir():
        drawn = min(setting.images, UNIQUE)
        draw_dataset(root, images={"train": drawn, "val": 4, "test": 4}, size=setting.input_size)
        # Drawing takes longer than what is measured; a loader reads copies as it reads others.
        for number in range(drawn, setting.images):
            for folder in (root / "train", root / "trainannot"):
                shutil.copyfile(folder / f"train_{number % drawn:04d}.png", folder / f"train_{number:04d}.png")
    return root


def network(name: str) -> nn.Module:
    """A network with the weights of seed 0."""
    torch.manual_seed(0)
    return build_model(ModelSpec(name, OUTPUTS))


def waited(device: torch.device) -> float:
    """The time once the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@cache
def peak(side: int, device: torch.device) -> float:
    """TFLOP/s of products of bf16 matrices, the best of five times; what a device's share of its peak is a share of."""
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    one @ other
    seconds = []
    for _ in range(5):
        began = waited(device)
        for _ in range(4):
            one @ other
        seconds.append((waited(device) - began) / 4)
    return 2e-12 * side**3 / min(seconds)


class PlainImages(data.Dataset):
    """What torchvision's reference script does with an image: scaled by 0.5 to 2, flipped, cropped, normalised."""

    def __init__(self, root: Path, size: tuple[int, int]):
        self._paths, self._size = sorted((root / "train").glob("*.png")), size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path = self._paths[index]
        image = Image.open(path).convert("RGB")
        label = Image.open(path.parent.with_name("trainannot") / path.name)
        factor = 0.5 + 1.5 * torch.rand(()).item()
        scaled = [round(factor * side) for side in self._size]
        image = transforms.pil_to_tensor(transforms.resize(image, scaled))
        label = torch.from_numpy(np.array(transforms.resize(label, scaled, InterpolationMode.NEAREST)))[None]
        if torch.rand(()) < 0.5:
            image, label = transforms.hflip(image), transforms.hflip(label)
        missing = [max(0, side - found) for side, found in zip(self._size, scaled, strict=True)]
        image = transforms.pad(image, [0, 0, missing[1], missing[0]])
        label = transforms.pad(label, [0, 0, missing[1], missing[0]], fill=VOID)
        room = [found - side for found, side in zip(image.shape[1:], self._size, strict=True)]
        top, left = (int(torch.randint(0, most + 1, ())) for most in room)
        image, label = (transforms.crop(part, top, left, *self._size) for part in (image, label))
        return transforms.normalize(image / 255, MEAN, STD), label[0].long()


def plain_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in bf16, with the auxiliary head's where there is one."""
    with torch.autocast(images.device.type, torch.bfloat16):
        output = model(images)
    outputs = output if isinstance(output, dict) else {"out": output}
    losses = {
        name: nn.functional.cross_entropy(logits.float(), labels, ignore_index=VOID) for name, logits in outputs.items()
    }
    return losses["out"] + 0.4 * losses.get("aux", 0.0)


def plain_epochs(setting: Setting, model: nn.Module, root: Path, deadline: float) -> list[float]:
    """Images a second of each epoch of a plain loop: SGD, bf16, channels last, torch's own loader."""
    device = setting.device
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=1e-4)
    keep = {"persistent_workers": True, "prefetch_factor": 4} if setting.workers else {}
    loader = data.DataLoader(PlainImages(root, setting.input_size), setting.batch, shuffle=True, drop_last=True,
                             num_workers=setting.workers, pin_memory=device.type == "cuda", **keep)  # fmt: skip
    rates = []
    while len(rates) < setting.epochs and (len(rates) < 2 or time.monotonic() < deadline):
        began, seen = waited(device), 0
        for images, labels in loader:
            images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            plain_loss(model, images, labels.to(device, non_blocking=True)).backward()
            optimizer.step()
            seen += len(images)
        rates.append(seen / (waited(device) - began))
    return rates


def step_rate(setting: Setting, model: nn.Module, steps: int) -> float:
    """Images a second of the same steps on one batch that is on the device already."""
    device = setting.device
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(setting.batch, 3, *setting.input_size).to(device, memory_format=torch.channels_last)
    labels = torch.randint(0, OUTPUTS, (setting.batch, *setting.input_size)).to(device)

    def run(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            plain_loss(model, images, labels).backward()
            optimizer.step()

    run(2)
    began = waited(device)
    run(steps)
    return steps * setting.batch / (waited(device) - began)


def flops_of_an_image(setting: Setting, model: nn.Module) -> int:
    """Floating-point operations of a forward and a backward pass over one image."""
    model = model.to(setting.device).train()
    # Two images: a norm behind global pooling has nothing to average over in one.
    images = torch.randn(2, 3, *setting.input_size, device=setting.device)
    labels = torch.randint(0, OUTPUTS, (2, *setting.input_size), device=setting.device)
    with FlopCounterMode(display=False) as counter:
        plain_loss(model, images, labels).backward()
    return counter.get_total_flops() // 2


def fit_rates(setting: Setting, name: str, root: Path) -> list[float]:
    """Images a second of each epoch of `fit`, with what train.py does with `--amp bf16 --channels-last`."""
    options = DataOptions("synthetic", str(root), setting.input_size, cache=True, num_workers=setting.workers)
    recipe = TrainOptions(
        setting.epochs, setting.batch, lr=LR, amp="bf16", channels_last=True, eval_every=setting.epochs
    )
    saved = SavedModel(network(name), ModelSpec(name, OUTPUTS))
    result = fit(saved, SegmentationData(options), recipe, 0, setting.scratch / f"fit_{name}", device=setting.device)
    return [row["images_per_second"] for row in result.history]


def measured(setting: Setting, name: str, deadline: float) -> list[Row]:
    """One row: the rates, and what they are shares of."""
    root = drawn(setting)
    rate = statistics.median(fit_rates(setting, name, root)[1:])
    plain = statistics.median(plain_epochs(setting, network(name), root, deadline)[1:])
    alone = step_rate(setting, network(name), max(2, setting.images // setting.batch))
    flops = flops_of_an_image(setting, network(name))
    best = peak(setting.matrix, setting.device)
    return [
        {
            "model": name,
            "batch": setting.batch,
            "precision": "bfloat16 autocast, channels last",
            "images_per_second": rate,
            "plain_images_per_second": plain,
            "of_plain": rate / plain,
            "step_images_per_second": alone,
            # The share of an epoch that steps on images which are there would not need.
            "loader_share": max(0.0, 1 - rate / alone),
            "plain_loader_share": max(0.0, 1 - plain / alone),
            "gflops_per_image": 1e-9 * flops,
            "peak_tflops": best,
            "share_of_peak": 1e-12 * flops * rate / best,
            "step_share_of_peak": 1e-12 * flops * alone / best,
        }
    ]


def steps(setting: Setting) -> Iterator[Step]:
    """One for each network."""
    for name in setting.models:
        yield Step(name, lambda deadline, name=name: measured(setting, name, deadline))


COLUMNS = {"model": "", "batch": "d", "images_per_second": ".1f", "plain_images_per_second": ".1f", "of_plain": ".2f",
           "step_images_per_second": ".1f", "loader_share": ".1%", "plain_loader_share": ".1%", "peak_tflops": ".0f",
           "share_of_peak": ".1%", "step_share_of_peak": ".1%"}  # fmt: skip
PART = Part("training", "Training, images a second", 0.27, steps, COLUMNS)
