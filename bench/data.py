"""Loaders over a data set: training batches, scoring batches, calibration batches, class weights.

What a training sample looks like depends only on (seed, epoch, index): not on the number of workers, on what
was loaded before, or on where a run was resumed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from bench.datasets import open_dataset, transforms
from bench.datasets.base import Dataset
from bench.datasets.class_weights import log_frequency, median_frequency
from bench.datasets.fingerprint import DataFiles
from bench.datasets.loaders import Loader, Samples, TrainLoader
from bench.datasets.options import DataOptions
from bench.datasets.split import Split
from bench.errors import BenchError, UsageError
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
        identity: what else than names, sizes and files decides the numbers of a training, by option.
        normalization: of the images that networks see.
        eval_batch_size: images a batch wherever a network is scored.
    """

    def __init__(
        self,
        options: DataOptions,
        *,
        seed: int = 0,
        input_size: Size | None = None,
        eval_batch_size: int = 4,
        recorded: Mapping[str, Any] | None = None,
    ):
        """Opens a data set.

        Args:
            options: which one, where, at what size.
            seed: seed of the order and the augmentation of training images.
            input_size: (height, width) used where the options name none, such as a checkpoint's; else
                the data set's own.
            eval_batch_size: images a batch in every scoring, that of a training's validation among them.
            recorded: what the file of a network says that was trained on these data.

        Raises:
            UsageError: no data set of that name, or nothing says at which size the network sees images.
            BenchError: missing or foreign files.
        """
        self.dataset: Dataset = open_dataset(options, recorded)
        self.name = self.dataset.name
        self.classes = self.dataset.classes
        self.headline_split = self.dataset.headline_split
        self.identity, self.normalization = self.dataset.identity, self.dataset.normalization
        size = options.input_size or input_size or self.dataset.native_size
        if size is None:
            raise UsageError(
                f"nothing says at which size the network sees images of {self.dataset.root}; pass `input_size=H,W`, or "
                "write input-size: [H, W] in classes.yaml"
            )
        self.input_size = tuple(size)
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
            **self.dataset.record,
        }

    @property
    def seed(self) -> int:
        """What order and augmentation of training images follow."""
        return self._seed

    def seeded(self, seed: int) -> SegmentationData:
        """The same data with the order and the augmentation of training images that another seed gives."""
        other = copy.copy(self)
        other._seed = seed
        return other

    def viewed(self, dataset: Dataset) -> SegmentationData:
        """The same images at the same sizes, with labels as another view of the data set decodes them."""
        other = copy.copy(self)
        other.dataset, other.classes, other.identity = dataset, dataset.classes, dataset.identity
        other._splits = {}
        return other

    def train_loader(
        self, batch_size: int, *, crop_size: Size | None = None, rank: int = 0, world: int = 1
    ) -> TrainLoader:
        """Shuffled, augmented batches of the training split.

        An incomplete last batch is dropped (it would upset BatchNorm) unless it is the only one.

        Args:
            batch_size: images a batch of all processes together, of which each gets its share.
            crop_size: (height, width) of the crops; by default the input size, or the data set's usual crop
                where the input size is the data set's own.
            rank: this process.
            world: number of processes.
        """
        split = self._split("train", decoded=True)
        if len(split) < world:
            raise BenchError(f"{self.name} has {len(split)} training images for {world} processes; use fewer")
        if batch_size < world:
            raise BenchError(f"a batch of {batch_size} has no image for some of {world} processes; use fewer")
        crop_size = crop_size or self.crop_size
        settings = {
            "input_size": self.input_size,
            "crop_size": crop_size,
            "ignore_index": self.classes.ignore_index,
            "normalization": self.normalization,
            "augmentation": self.dataset.augmentation,
        }
        samples = _TrainSamples(split, self._seed, settings)
        return TrainLoader(samples, _EpochBatches(len(split), batch_size, self._seed, rank, world), self._workers)

    def eval_loader(
        self,
        split: str,
        batch_size: int | None = None,
        *,
        rank: int = 0,
        world: int = 1,
        change: Callable[[Tensor, int], Tensor] | None = None,
    ) -> Loader:
        """Batches in the order of names: images at the input size, labels at their own, of one size in each batch.

        With several processes each sees every `world`-th image; none is seen twice.

        Args:
            split: `train`, `val` or `test`.
            batch_size: images a batch; by default `eval_batch_size`, as everything that scores wants it.
            rank: this process.
            world: number of processes.
            change: what befalls an image at the input size, given with its number in the split, uint8 -> uint8.
        """
        source, batch_size = self._split(split, decoded=True), batch_size or self.eval_batch_size
        sizes, batches = source.label_sizes, []
        for index in range(rank, len(source), world):
            if not batches or len(batches[-1]) == batch_size or sizes[batches[-1][0]] != sizes[index]:
                batches.append([])
            batches[-1].append(index)
        settings = {"input_size": self.input_size, "normalization": self.normalization}
        return Loader(_EvalSamples(source, settings, change), batches, self._workers)

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
            return self.network_input(image), transforms.network_label(label, self.input_size)

        samples = list(self._in_threads(load, chosen, "loading calibration images"))
        return [_stacked(batch) for batch in parts(samples, batch_size)]

    def network_input(self, image: Tensor) -> Tensor:
        """What the network sees of an image: uint8 [3, H, W] -> float32 [3, height, width], scaled and normalised."""
        return transforms.network_input(image, self.input_size, self.normalization)

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

        counts = self._in_threads(count, range(len(split)), "counting the pixels of each class")
        rules = {"median": median_frequency, "log": log_frequency}
        return torch.from_numpy(rules[rule](np.stack(list(counts))))

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
    def __init__(self, split: Split, seed: int, settings: dict[str, Any]):
        self._split = split
        self._seed = seed
        self._settings = settings

    def sample(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, index = key
        image, label = self._split.load(index)
        # 1 + index, because 0 is the number of the epoch's order.
        return transforms.augment(image, label, _generator(self._seed, epoch, 1 + index), **self._settings)


class _EvalSamples(Samples):
    def __init__(self, split: Split, settings: dict[str, Any], change: Callable[[Tensor, int], Tensor] | None = None):
        self._split = split
        self._settings = settings
        self._change = change

    def sample(self, key: int) -> tuple[Tensor, Tensor]:
        image, label = self._split.load(key)
        change = self._change and partial(self._change, number=key)
        return transforms.network_input(image, **self._settings, change=change), label.long()


class _EpochBatches(data.Sampler):
    """Batches of (epoch, index) keys in an order that depends on the seed and the epoch."""

    def __init__(self, images: int, batch_size: int, seed: int, rank: int, world: int):
        self._images = images
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world = world
        self.epoch = 0

    def __len__(self) -> int:
        return max(1, self._images // self._batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        order = torch.randperm(self._images, generator=_generator(self._seed, self.epoch, 0)).tolist()
        for batch in range(len(self)):
            chosen = order[batch * self._batch_size : (batch + 1) * self._batch_size]
            yield [(self.epoch, index) for index in chosen[self._rank :: self._world]]


def _stacked(samples: list[tuple[Tensor, Tensor]]) -> Batch:
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(labels)


def _generator(*numbers: int) -> torch.Generator:
    """A generator whose state is a function of the numbers."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
