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

from bench.datasets import dataset_class, transforms
from bench.datasets.base import Dataset, image_size, read_image
from bench.datasets.loaders import Loader, Samples, TrainLoader
from bench.datasets.options import DataOptions
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
        kind = dataset_class(options.dataset)
        self.dataset: Dataset = kind(Path(options.data_root or Path("datasets") / options.dataset))
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
        self._splits: dict[str, _Split] = {}

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

    def class_weights(self) -> Tensor:
        """Median-frequency weights of the training labels (Eigen and Fergus 2015), float32 [outputs].

        A class's frequency is its share of the labelled pixels of the images it appears in; its weight is the
        median frequency over its own. Outputs that no training pixel has (void, absent classes) weigh 0.
        """
        split = self._split("train")
        outputs = self.classes.outputs

        def count(index: int) -> np.ndarray:
            label = split.load_label(index)
            counts = np.bincount(label[label != self.classes.ignore_index].ravel(), minlength=outputs)
            return counts[:outputs]

        return median_frequency(
            np.stack(list(self._in_threads(count, range(len(split)), "counting the pixels of each class")))
        )

    def names(self, split: str) -> list[str]:
        """File names of a split's images without their endings, in the order of `load` and `eval_loader`."""
        return [pair.image.stem for pair in self._split(split).pairs]

    def load(self, split: str, index: int) -> tuple[Tensor, Tensor]:
        """One image as it is on disk, uint8 [3, H, W], and its label, uint8 [H, W]."""
        return self._split(split).load(index)

    def _split(self, name: str, *, decoded: bool = False) -> _Split:
        if name not in self._splits:
            self._splits[name] = _Split(self.dataset, name)
        split = self._splits[name]
        if decoded and self._cache and not split.is_decoded:
            split.decode(self._in_threads)
        return split

    def _in_threads(self, work: Callable[[Item], Result], items: Sequence[Item], label: str) -> Iterator[Result]:
        with ThreadPoolExecutor(max(1, self._workers)) as pool:
            yield from progress(pool.map(work, items), label, total=len(items))


class _Split:
    """The pairs of a split, decoded on demand or once into one buffer.

    One buffer for all images, because each shared tensor costs a file descriptor. It needs no shared memory of its
    own: forked workers see the parent's pages, and where workers are spawned torch shares it when it is sent.
    """

    def __init__(self, dataset: Dataset, name: str):
        self.pairs = dataset.pairs(name)
        self._dataset = dataset
        self._buffer: Tensor | None = None
        self._sizes: list[Size] = []
        self._offsets: list[int] = []

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def is_decoded(self) -> bool:
        return self._buffer is not None

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """The image, uint8 [3, H, W] stored channels last, and its label, uint8 [H, W]."""
        if self._buffer is not None:
            return self._slot(self._buffer, index)
        pair = self.pairs[index]
        image, label = read_image(pair.image), self._dataset.decode_label(pair.label)
        if image.shape[:2] != label.shape:
            raise BenchError(
                f"image {pair.image} is {_times(image.shape[:2])} but its label {pair.label} is "
                f"{_times(label.shape)} (height x width)"
            )
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label)

    def load_label(self, index: int) -> np.ndarray:
        """The label alone, uint8 [H, W]."""
        if self._buffer is not None:
            return self._slot(self._buffer, index)[1].numpy()
        return self._dataset.decode_label(self.pairs[index].label)

    def decode(self, in_threads: Callable[..., Iterator[Any]]) -> None:
        """Decodes the whole split."""
        self._sizes = [image_size(pair.image) for pair in self.pairs]
        ends = np.cumsum([4 * height * width for height, width in self._sizes]).tolist()
        self._offsets = [0, *ends]
        # The threads below could not write to a tensor made in inference mode, nor could training use it later.
        with torch.inference_mode(False):
            buffer = torch.empty(ends[-1], dtype=torch.uint8)

        def fill(index: int) -> None:
            image, label = self.load(index)
            image_slot, label_slot = self._slot(buffer, index)
            image_slot.copy_(image)
            label_slot.copy_(label)

        for _ in in_threads(fill, range(len(self)), "decoding images"):
            pass
        self._buffer = buffer

    def _slot(self, buffer: Tensor, index: int) -> tuple[Tensor, Tensor]:
        height, width = self._sizes[index]
        slot = buffer[self._offsets[index] : self._offsets[index + 1]]
        image, label = slot.split((3 * height * width, height * width))
        return image.view(height, width, 3).permute(2, 0, 1), label.view(height, width)


class _TrainSamples(Samples):
    def __init__(self, split: _Split, seed: int, input_size: Size, crop_size: Size, ignore_index: int):
        self._split = split
        self._seed = seed
        self._sizes = {"input_size": input_size, "crop_size": crop_size, "ignore_index": ignore_index}

    def sample(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, index = key
        image, label = self._split.load(index)
        # 1 + index, because 0 is the number of the epoch's order.
        return transforms.augment(image, label, _generator(self._seed, epoch, 1 + index), **self._sizes)


class _EvalSamples(Samples):
    def __init__(self, split: _Split, input_size: Size):
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
    """Median-frequency class weights.

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


def _stacked(samples: list[tuple[Tensor, Tensor]]) -> Batch:
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(labels)


def _generator(*numbers: int) -> torch.Generator:
    """A generator whose state is a function of the numbers."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _times(size: Sequence[int]) -> str:
    return "x".join(str(length) for length in size)
