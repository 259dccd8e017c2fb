"""What counting and metrics cost in an evaluation, beside torchmetrics on the same predictions.

    python -m tests.benchmarks.evaluation_overhead [--model deeplabv3_resnet50] [--images 8] [--size 360,480]
        [--label-size 360,480] [--limit 3] [--device cpu]

Random weights; random images and labels of the data set's classes, a tenth of the pixels void, predictions of the
network. Each stage is timed on every image, and the stages of an image one right after the other; the first image is
run once more before. Exit status 1 where counting and metrics take more than `--limit` percent of the evaluation, or
where the two sides do not agree to 1e-6.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.config.values import parse_size
from bench.datasets import dataset_class
from bench.measure.inference import predict
from bench.metrics import ConfusionMatrix
from bench.models import ModelSpec, build_model
from bench.torch_utils import torchvision_compat as vision_compat  # noqa: F401 - torchmetrics imports torchvision


class Stopwatch:
    """Adds up the seconds of each stage; on CUDA until the device has finished it."""

    def __init__(self, device: torch.device):
        self.seconds: dict[str, float] = defaultdict(float)
        self._device = device

    def time(self, stage: str, work: Callable[[], Any]) -> Any:
        """Runs a piece of work and books its time."""
        start = self._now()
        result = work()
        self.seconds[stage] += self._now() - start
        return result

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def noise(classes: Any, number: int, size: tuple[int, int], label_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """An image and its label."""
    generator = torch.Generator().manual_seed(number)
    label = torch.randint(len(classes.names), (1, *label_size), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.1] = classes.ignore_index
    return torch.randn(1, 3, *size, generator=generator), label


@torch.inference_mode()
def measure(arguments: argparse.Namespace) -> tuple[dict[str, float], float]:
    """Seconds of each stage, and by how much the two sides' IoU differ."""
    from torchmetrics import JaccardIndex

    torch.manual_seed(0)
    device = torch.device(arguments.device)
    classes = dataset_class("camvid").classes
    model = build_model(ModelSpec(arguments.model, classes.outputs)).eval().to(device)
    ours = ConfusionMatrix(classes, device)
    settings = {"num_classes": classes.outputs, "ignore_index": classes.ignore_index, "average": None}
    theirs = JaccardIndex(task="multiclass", **settings).to(device)
    for warm in (True, False):
        watch = Stopwatch(device)
        for number in range(1 if warm else arguments.images):
            image, label = (part.to(device) for part in noise(classes, number, arguments.size, arguments.label_size))
            logits = watch.time("forward", lambda image=image: model(image))
            prediction = watch.time(
                "scaling and argmax",
                lambda logits=logits, label=label: predict(lambda _: logits, logits, label.shape[-2:]),
            )
            for stage, counter in (("ours", ours), ("torchmetrics", theirs)):
                watch.time(stage, lambda counter=counter, pair=(prediction, label): counter.update(*pair))
    quality = watch.time("ours", ours.quality)
    expected = watch.time("torchmetrics", theirs.compute)[: len(classes.names)].cpu().double()
    found = torch.tensor(list(quality.iou.values()), dtype=torch.float64)
    return dict(watch.seconds), (found - expected).abs().nan_to_num().max().item()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deeplabv3_resnet50")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=parse_size, default=(360, 480))
    parser.add_argument("--label-size", type=parse_size, default=(360, 480))
    parser.add_argument("--limit", type=float, default=3.0)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    seconds, difference = measure(arguments)
    evaluation = sum(value for stage, value in seconds.items() if stage != "torchmetrics")
    sizes = "images of {}x{}, labels {}x{}".format(*arguments.size, *arguments.label_size)
    where = f"{arguments.device}, {torch.get_num_threads()} threads"
    print(f"{arguments.model}, {arguments.images} {sizes}, {where}")
    print(f"evaluation {evaluation:.3f} s: forward, scaling and argmax, our counting and metrics with the interval")
    for stage, value in seconds.items():
        print(f"  {stage:20} {value:9.4f} s  {100 * value / evaluation:6.2f} %")
    print(f"largest difference of a class's IoU {difference:.1e}")
    if difference > 1e-6 or seconds["ours"] > arguments.limit / 100 * evaluation:
        sys.exit(1)


if __name__ == "__main__":
    main()
