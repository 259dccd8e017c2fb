"""The images and labels of one split, decoded on demand or once for all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.config.values import size_text
from bench.datasets.base import Dataset, Pair
from bench.datasets.fingerprint import SplitFiles
from bench.datasets.image_files import header_size, orientation, read_image
from bench.errors import BenchError

Size = tuple[int, int]


class Split:
    """The pairs of a split, decoded on demand or once into one buffer.

    One buffer for all images, because each shared tensor costs a file descriptor. It needs no shared memory of its
    own: forked workers see the parent's pages, and where workers are spawned torch shares it when it is sent.
    """

    def __init__(self, dataset: Dataset, name: str, check: str):
        """Lists the files.

        Args:
            dataset: the data set.
            name: of the split.
            check: what tells that files have changed; see `SplitFiles`.
        """
        self.pairs = dataset.pairs(name)
        self.files = SplitFiles(dataset.root, self.pairs, check, dataset.decoding)
        self._dataset, self._name, self._is_labelled = dataset, name, False
        self._buffer: Tensor | None = None
        self._sizes: list[Size] = []
        self._offsets: list[int] = []

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def is_decoded(self) -> bool:
        """Whether `decode` was called."""
        return self._buffer is not None

    @cached_property
    def label_sizes(self) -> list[Size | None]:
        """(height, width) of each label by its header; None where it cannot be read, which is told when it is used."""
        if self._buffer is not None:
            return list(self._sizes)

        def size_of(pair: Pair) -> Size | None:
            try:
                return header_size(pair.label, "label")
            except BenchError:
                return None

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(size_of, self.pairs))

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """The image, uint8 [3, H, W] stored channels last, and its label, uint8 [H, W]."""
        if self._buffer is not None:
            return self._slot(self._buffer, index)
        pair = self.pairs[index]
        image, label = read_image(pair.image), self._dataset.decode_label(pair.label)
        if image.shape[:2] != label.shape:
            turned = "".join(
                f"; the {kind} was turned as its EXIF orientation {orientation(path)} says"
                for kind, path in pair._asdict().items()
                if orientation(path) != 1
            )
            raise BenchError(
                f"image {pair.image} is {size_text(image.shape[:2])} but its label {pair.label} is "
                f"{size_text(label.shape)} (height x width){turned}"
            )
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label)

    def load_label(self, index: int) -> np.ndarray:
        """The label alone, uint8 [H, W]."""
        if self._buffer is not None:
            return self._slot(self._buffer, index)[1].numpy()
        return self._dataset.decode_label(self.pairs[index].label)

    def check_labelled(self) -> None:
        """Makes sure that there is something to learn from or to score; reads labels up to the first that has a class.

        Raises:
            BenchError: no pixel of any label has a class.
        """
        void = self._dataset.classes.ignore_index
        self._is_labelled = self._is_labelled or any(
            (self.load_label(index) != void).any() for index in range(len(self))
        )
        if not self._is_labelled:
            use = "learn from" if self._name == "train" else "score"
            # Training needs these two, whatever is scored in the end.
            other = "" if self._name in ("train", "val") else " or choose another `split`"
            raise BenchError(
                f"no pixel of {self._dataset.name}'s {self._name} split is labelled with a class, so there is nothing "
                f"to {use}; see to its labels{other}"
            )

    def decode(self, in_threads: Callable[..., Iterator[Any]]) -> None:
        """Decodes the whole split."""
        # The sizes follow from decoding: a header may come before the note that the image lies on its side.
        counts = [math.prod(header_size(pair.image)) for pair in self.pairs]
        self._sizes = [(0, 0)] * len(counts)
        self._offsets = [0, *np.cumsum([4 * count for count in counts]).tolist()]
        # The threads below could not write to a tensor made in inference mode, nor could training use it later.
        with torch.inference_mode(False):
            buffer = torch.empty(self._offsets[-1], dtype=torch.uint8)

        def fill(index: int) -> None:
            image, label = self.load(index)
            self._sizes[index] = tuple(label.shape)
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
