"""A tiny network and data set for tests of training, and a program that trains the one on the other.

`python tests/toy_training.py FOLDER [--kill EPOCH,BATCH] [flags of TrainOptions]` runs `fit` as a process of its
own; each process also writes its final weights to FOLDER/rankN.pt, and what an evaluation of the last state says to
FOLDER/evaluationN.pt.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cli.entry import run
from bench.cli.parser import Parser, collect
from bench.datasets.base import Classes
from bench.datasets.fingerprint import DataFiles
from bench.errors import BenchError, Diverged
from bench.models import MODELS, ModelEntry, ModelSpec, build_model
from bench.models.checkpoint import SavedModel
from bench.system import processes
from bench.training.distillation import Distillation
from bench.training.options import DistillOptions, TrainOptions

CLASSES = Classes(("red", "green", "blue"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)), outputs=4, ignore_index=3)
TOY = ModelEntry("toy_training:toy_net", "for tests")
# The epoch that fails in one of the processes of a command that one of them leads.
_BROKEN = 8


class ToyNet(nn.Module):
    """Two convolutions; with a norm, dropout and an auxiliary head where asked for."""

    def __init__(self, outputs: int, norm: bool = True, dropout: float = 0.0, aux: bool = False):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=not norm),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.head = nn.Conv2d(8, outputs, 1)
        self.aux = nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, outputs, 1)) if aux else None

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        features = self.body(images)
        logits = self.head(features)
        if self.training and self.aux is not None:
            return {"out": logits, "aux": self.aux(features)}
        return logits


def toy_net(outputs: int, **kwargs: object) -> ToyNet:
    return ToyNet(outputs, **kwargs)


def new_network(**kwargs: object) -> SavedModel:
    """A toy network with the weights of seed 0; the registry must know `toy`."""
    torch.manual_seed(0)
    spec = ModelSpec("toy", CLASSES.outputs, kwargs)
    return SavedModel(build_model(spec), spec)


def toy_distillation(
    weight: float = 1.0, temperature: float = 1.0, mode: str = "pixel", seed: int = 1, **kwargs: object
) -> Distillation:
    """A toy network of other weights than those of `new_network` as a teacher."""
    torch.manual_seed(seed)
    return Distillation(ToyNet(CLASSES.outputs, **kwargs), f"toy {seed}", DistillOptions(weight, temperature, mode))


class ToyLoader:
    """This process's share of shuffled batches; `watch(epoch, batch)` is called before each is made."""

    def __init__(
        self, images: Tensor, labels: Tensor, batch_size: int, shard: slice, watch: Callable[[int, int], None]
    ):
        self._images, self._labels, self._watch = images, labels, watch
        self._batch_size, self._shard, self._epoch = batch_size, shard, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def _parts(self) -> list[Tensor]:
        order = torch.randperm(len(self._images), generator=torch.Generator().manual_seed(self._epoch))
        return [part[self._shard] for part in order.split(self._batch_size)]

    def __len__(self) -> int:
        return len(self._parts())

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number, part in enumerate(self._parts()):
            self._watch(self._epoch, number)
            yield self._images[part], self._labels[part]


class ToyData:
    """Coloured noise: the label of a pixel is its strongest colour. Row 0 is void unless `void` is False.

    Attributes:
        watch: called with epoch and number before each training batch is made.
    """

    name = "toys"
    classes = CLASSES
    input_size = (8, 8)
    crop_size = (8, 8)
    headline_split = "val"

    def __init__(
        self,
        images: int = 12,
        *,
        val_images: int = 5,
        void: bool = True,
        watch: Callable[[int, int], None] = lambda epoch, batch: None,
    ):
        generator = torch.Generator().manual_seed(1)
        self.train = self._draw(images, generator, void)
        self.val = self._draw(val_images, generator, void)
        self.watch = watch
        self.identity: dict[str, object] = {}
        self.seed = 0
        self.record = {"dataset": self.name, "classes": list(CLASSES.names), "input_size": self.input_size}

    def seeded(self, seed: int) -> ToyData:
        return self

    def _draw(self, count: int, generator: torch.Generator, void: bool) -> tuple[Tensor, Tensor]:
        images = torch.randn(count, 3, *self.input_size, generator=generator)
        labels = images.argmax(1)
        if void:
            labels[:, 0] = CLASSES.ignore_index
            labels[::3, :5] = CLASSES.ignore_index
        return images, labels

    def train_loader(
        self, batch_size: int, *, crop_size: tuple[int, int] | None = None, rank: int = 0, world: int = 1
    ) -> ToyLoader:
        return ToyLoader(*self.train, batch_size, slice(rank, None, world), self.watch)

    def eval_loader(
        self, split: str, batch_size: int = 2, *, rank: int = 0, world: int = 1
    ) -> list[tuple[Tensor, Tensor]]:
        images, labels = (part[rank::world] for part in getattr(self, split))
        return list(zip(images.split(batch_size), labels.split(batch_size), strict=True))

    def files(self, *splits: str) -> DataFiles:
        return DataFiles({})

    def check_labelled(self, *splits: str) -> None:
        pass

    def class_weights(self, rule: str = "median") -> Tensor:
        return torch.tensor([1.0, 2.0, 5.0, 0.0])


def run_led(arguments: argparse.Namespace, saved: SavedModel, data: ToyData) -> None:
    """A training that diverges, one that does not, and one in which a process that helps fails."""
    from bench.sweep.several_processes import dismissing, leads, led
    from bench.train_eval import fit

    teacher, options = toy_distillation(), collect(TrainOptions, arguments)
    baseline = SimpleNamespace(
        saved=SimpleNamespace(model=teacher.teacher), digest=teacher.sha256, data=data, device=torch.device("cpu")
    )

    def train(network: SavedModel, name: str, **changed: object) -> None:
        folder, recipe = arguments.folder / name, replace(options, **changed)
        fit(network, data, recipe, 0, folder, distillation=teacher, device=baseline.device)

    with led("cpu"), dismissing():
        if not leads(baseline):
            return
        with contextlib.suppress(Diverged):
            train(new_network(), "diverged", lr=1e30)
        train(saved, "two")
        for _ in range(2):
            try:
                train(new_network(), "broken", epochs=_BROKEN + 1)
            except BenchError as error:
                print(error, flush=True)
        os._exit(3)


def main(argv: list[str]) -> None:
    parser = Parser("toy_training.py", "Trains the toy network.", trains_together=True)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kill", default="", help="epoch,batch at which the (last) process kills itself")
    parser.add_argument("--slow", type=float, default=0.0, help="seconds a batch")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--no-dropout", action="store_true")
    parser.add_argument("--led", action="store_true", help="the first process alone trains; the others help it")
    parser.add_options("training", TrainOptions, epochs=4, batch_size=2, lr=0.1)
    arguments = parser.parse(argv)
    kill = tuple(int(part) for part in arguments.kill.split(",") if part)

    def watch(epoch: int, batch: int) -> None:
        if (epoch, batch) == kill and processes.world().rank == processes.world().size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if (arguments.led, epoch, processes.world().rank) == (True, _BROKEN, 1):
            raise BenchError("one of the images is damaged")
        time.sleep(arguments.slow)

    from bench.measure.evaluation import evaluate_images
    from bench.measure.inference import Scoring
    from bench.models.checkpoint import load_model
    from bench.train_eval import fit

    torch.set_num_threads(1)
    MODELS["toy"] = TOY
    kwargs = {"dropout": 0.0 if arguments.no_dropout else 0.3, "aux": True}
    if arguments.led:
        run_led(arguments, new_network(**kwargs), ToyData(watch=watch))
        return
    with processes.joined(torch.device("cpu")) as device:
        saved, data = new_network(**kwargs), ToyData(watch=watch)
        fit(
            saved,
            data,
            collect(TrainOptions, arguments),
            0,
            arguments.folder,
            resume=arguments.resume,
            device=device,
        )
        rank, world = processes.world().rank, processes.world().size
        torch.save(saved.model.state_dict(), arguments.folder / f"rank{rank}.pt")
        last = load_model(arguments.folder / "last.pt").model
        how = {"device": device, "scoring": Scoring(boundary_width=1)}
        loaders = (part.eval_loader("val", 2, rank=rank, world=world) for part in (data, ToyData(val_images=1)))
        whole, first = (evaluate_images(last, loader, CLASSES, **how) for loader in loaders)
        found = {**asdict(whole.quality), "per_image": whole.per_image, "first_image": first.per_image}
        torch.save(found, arguments.folder / f"evaluation{rank}.pt")


if __name__ == "__main__":
    run(main)
