"""Loaders over a data set: training batches, scoring batches, calibration batches, class weights.

What a training sample looks like depends only on (seed, epoch, index): not on the number of workers, on what
was loaded before, or on where a run was resumed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from bench.datasets import DEFAULT, dataset_class, transforms
from bench.datasets.base import Dataset
from bench.datasets.fingerprint import DataFiles
from bench.datasets.loaders import Loader, Samples, TrainLoader
from bench.datasets.options import DataOptions
from bench.datasets.split import Split
from bench.errors import BenchError
from bench.system.console import progress
from bench.torch_utils.batches import Batch, parts

Size = tuple[int, int]
Key = tuple[int, int]
"""(epoch, index) of a sample."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class SegmentationData:
    """A data set as the rest of the program sees it.

    Attributes:
        name: the registered name.
        dataset: the data set on disk.
        classes: its label set.
        input_size: (height, width) in pixels the network sees.
        crop_size: (height, width) of a training crop unless another is asked for.
        headline_split: the split whose score is reported.
        eval_batch_size: images a batch wherever a network is scored.
    """

    def __init__(
        self, options: DataOptions, *, seed: int = 0, input_size: Size | None = None, eval_batch_size: int = 4
    ):
        """Opens a data set.

        Args:
            options: which one, where, at what size.
            seed: seed of the order and the augmentation of training images.
            input_size: (height, width) used where the options name none, such as a checkpoint's; else
                the data set's own.
            eval_batch_size: images a batch in every scoring, that of a training's validation among them.

        Raises:
            UsageError: no data set of that name.
        """
        name = options.dataset or DEFAULT
        self.dataset: Dataset = dataset_class(name)(Path(options.data_root or Path("datasets") / name))
        self.name = self.dataset.name
        self.classes = self.dataset.classes
        self.headline_split = self.dataset.headline_split
        self.input_size = tuple(options.input_size or input_size or self.dataset.native_size)
        is_native = self.input_size == self.dataset.native_size
        self.crop_size = self.dataset.crop_size if is_native else self.input_size
        self.eval_batch_size = eval_batch_size
        self._seed = seed
        self._cache = options.cache
        self._workers = options.num_workers
        self._check = options.data_check
        self._splits: dict[str, Split] = {}

    @property
    def record(self) -> dict[str, Any]:
        """What a network that is trained on these data says of them; `bench.datasets.recorded` reads it."""
        return {
            "dataset": self.name,
            "classes": list(self.classes.names),
            "data_root": str(self.dataset.root.absolute()),
            "input_size": self.input_size,
        }

    def seeded(self, seed: int) -> SegmentationData:
        """The same data with the order and the augmentation of training images that another seed gives."""
        other = copy.copy(self)
        other._seed = seed
        return other

    def train_loader(
        self, batch_size: int, *, crop_size: Size | None = None, rank: int = 0, world: int = 1
    ) -> TrainLoader:
        """Shuffled, augmented batches of the training split.

        Every process gets equally many images; an incomplete last batch is dropped (it would upset BatchNorm)
        unless it is the only one.

        Args:
            batch_size: images a batch and process.
            crop_size: (height, width) of the crops; by default the input size, or the data set's usual crop
                where the input size is the data set's own.
            rank: this process.
            world: number of processes.
        """
        split = self._split("train", decoded=True)
        if len(split) < world:
            raise BenchError(f"{self.name} has {len(split)} training images for {world} processes; use fewer")
        crop_size = crop_size or self.crop_size
        samples = _TrainSamples(split, self._seed, self.input_size, crop_size, self.classes.ignore_index)
        return TrainLoader(samples, _EpochBatches(len(split), batch_size, self._seed, rank, world), self._workers)

    def eval_loader(self, split: str, batch_size: int | None = None, *, rank: int = 0, world: int = 1) -> Loader:
        """Batches in the order of names: images at the input size, labels at their own.

        With several processes each sees every `world`-th image; none is seen twice.

        Args:
            split: `train`, `val` or `test`.
            batch_size: images a batch; by default `eval_batch_size`, as everything that scores wants it.
            rank: this process.
            world: number of processes.
        """
        source, batch_size = self._split(split, decoded=True), batch_size or self.eval_batch_size
        indices = range(rank, len(source), world)
        batches = [list(indices[start : start + batch_size]) for start in range(0, len(indices), batch_size)]
        return Loader(_EvalSamples(source, self.input_size), batches, self._workers)

    def calibration(self, images: int, batch_size: int, seed: int, split: str = "train") -> list[Batch]:
        """Unaugmented batches of images with labels at the input size, for scores and losses.

        Args:
            images: how many, chosen by seed without replacement; all there are where more are asked for.
            batch_size: images a batch; see `parts` for the last.
            seed: seed of the choice.
            split: where they come from.
        """
        source = self._split(split)
        chosen = torch.randperm(len(source), generator=_generator(seed))[:images].tolist()

        def load(index: int) -> tuple[Tensor, Tensor]:
            image, label = source.load(index)
            return transforms.network_input(image, self.input_size), transforms.network_label(label, self.input_size)

        samples = list(self._in_threads(load, chosen, "loading calibration images"))
        return [_stacked(batch) for batch in parts(samples, batch_size)]

    def class_weights(self, rule: str = "median") -> Tensor:
        """Weights of the classes by how frequent they are in the training labels, float32 [outputs].

        Outputs that no training pixel has (void, absent classes) weigh 0.

        Args:
            rule: `median`, see `median_frequency`, or `log`, see `log_frequency`.
        """
        split = self._split("train")
        outputs = self.classes.outputs

        def count(index: int) -> np.ndarray:
            label = split.load_label(index)
            counts = np.bincount(label[label != self.classes.ignore_index].ravel(), minlength=outputs)
            return counts[:outputs]

        rules = {"median": median_frequency, "log": log_frequency}
        return rules[rule](
            np.stack(list(self._in_threads(count, range(len(split)), "counting the pixels of each class")))
        )

    def names(self, split: str) -> list[str]:
        """File names of a split's images without their endings, in the order of `load` and `eval_loader`."""
        return [pair.image.stem for pair in self._split(split).pairs]

    def load(self, split: str, index: int) -> tuple[Tensor, Tensor]:
        """One image as it is on disk, uint8 [3, H, W], and its label, uint8 [H, W]."""
        return self._split(split).load(index)

    def files(self, *splits: str) -> DataFiles:
        """The files of some splits, to be compared with those that an earlier result was made from."""
        return DataFiles({name: self._split(name).files for name in splits})

    def check_labelled(self, *splits: str) -> None:
        """Makes sure that some pixel of each split has a class.

        Raises:
            BenchError: a split of void alone.
        """
        for name in splits:
            self._split(name).check_labelled()

    def _split(self, name: str, *, decoded: bool = False) -> Split:
        if name not in self._splits:
            self._splits[name] = Split(self.dataset, name, self._check)
        split = self._splits[name]
        if decoded and self._cache and not split.is_decoded:
            split.decode(self._in_threads)
        return split

    def _in_threads(self, work: Callable[[Item], Result], items: Sequence[Item], label: str) -> Iterator[Result]:
        with ThreadPoolExecutor(max(1, self._workers)) as pool:
            yield from progress(pool.map(work, items), label, total=len(items))


class _TrainSamples(Samples):
    def __init__(self, split: Split, seed: int, input_size: Size, crop_size: Size, ignore_index: int):
        self._split = split
        self._seed = seed
        self._sizes = {"input_size": input_size, "crop_size": crop_size, "ignore_index": ignore_index}

    def sample(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, index = key
        image, label = self._split.load(index)
        # 1 + index, because 0 is the number of the epoch's order.
        return transforms.augment(image, label, _generator(self._seed, epoch, 1 + index), **self._sizes)


class _EvalSamples(Samples):
    def __init__(self, split: Split, input_size: Size):
        self._split = split
        self._input_size = input_size

    def sample(self, key: int) -> tuple[Tensor, Tensor]:
        image, label = self._split.load(key)
        return transforms.network_input(image, self._input_size), label.long()


class _EpochBatches(data.Sampler):
    """Batches of (epoch, index) keys in an order that depends on the seed and the epoch."""

    def __init__(self, images: int, batch_size: int, seed: int, rank: int, world: int):
        self._images = images
        self._share = images // world
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world = world
        self.epoch = 0

    def __len__(self) -> int:
        return max(1, self._share // self._batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        order = torch.randperm(self._images, generator=_generator(self._seed, self.epoch, 0)).tolist()
        mine = order[self._rank : self._share * self._world : self._world]
        for batch in range(len(self)):
            chosen = mine[batch * self._batch_size : (batch + 1) * self._batch_size]
            yield [(self.epoch, index) for index in chosen]


def median_frequency(counts: np.ndarray) -> Tensor:
    """Median-frequency class weights (Eigen and Fergus 2015).

    A class's frequency is its share of the labelled pixels of the images it appears in; its weight is the median
    frequency over its own.

    Args:
        counts: int64 [images, classes], pixels of each class in each image.

    Returns:
        float32 [classes]; 0 for a class without pixels.
    """
    labelled = counts.sum(axis=1, keepdims=True)
    pixels = counts.sum(axis=0)
    present = pixels > 0
    frequency = pixels[present] / np.where(counts > 0, labelled, 0).sum(axis=0)[present]
    weights = np.zeros(counts.shape[1], np.float32)
    if present.any():
        weights[present] = np.median(frequency) / frequency
    return torch.from_numpy(weights)


def log_frequency(counts: np.ndarray) -> Tensor:
    """Class weights `1 / log(1.02 + p)` (ENet, Paszke et al. 2016), p a class's share of all labelled pixels.

    They lie between 1.4 and 50, so that no rare class drowns the others.

    Args:
        counts: int64 [images, classes], pixels of each class in each image.

    Returns:
        float32 [classes]; 0 for a class without pixels.
    """
    pixels = counts.sum(axis=0)
    weights = 1 / np.log(1.02 + pixels / max(1, pixels.sum()))
    return torch.from_numpy(np.where(pixels > 0, weights, 0).astype(np.float32))


def _stacked(samples: list[tuple[Tensor, Tensor]]) -> Batch:
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(labels)


def _generator(*numbers: int) -> torch.Generator:
    """A generator whose state is a function of the numbers."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
