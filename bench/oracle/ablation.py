"""Ablation: the loss of a network without single channels or sets of them, measured once and kept in a file.

A removed channel is one whose norms give zero, scale and shift both, wherever it is made or passes; that is what
cutting it leaves for all that reads it. Where it is not (`bench.oracle.really_cut`), the channel is cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup
from bench.datasets.fingerprint import DataFiles
from bench.errors import BenchError
from bench.oracle.incremental_forward import IncrementalForward
from bench.oracle.really_cut import cut_copy, must_be_cut, switched_off
from bench.system.console import progress, say
from bench.system.files import make_folder, read_json, write_json
from bench.system.kept_files import read_kept
from bench.torch_utils.batches import Batch
from bench.torch_utils.contexts import flags_kept
from bench.torch_utils.dry_run import blank_image

FORMAT = "ablation-losses/1"
# Images of this many pixels in all run at once. More is not faster on a CPU, whose convolutions are busy with one.
PIXELS_AT_ONCE = 100_000

Removal = tuple[ChannelGroup, tuple[int, ...]]
"""A group and the channels of it that are removed together."""


class Ablation:
    """Measures a network without some of its channels on fixed images.

    Attributes:
        whole: float64 [images], loss of the whole network, summed over an image's pixels that count.
        pixels: int64 [images], how many those are.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        *,
        ignore_index: int,
        device: torch.device,
        path: Path,
        identity: Any,
        files: DataFiles | None = None,
    ):
        """Takes over what an earlier run measured.

        Args:
            model: the trained network, on the device.
            batches: images [N, 3, H, W] and labels int64 [N, H, W] of the same size.
            ignore_index: label id that does not count.
            device: where to run.
            path: the file that keeps the losses; named by what they depend on.
            identity: what that is, for the record.
            files: the images and labels, if they are files; losses of others are measured again.
        """
        self._model, self._device, self._path, self._identity = model, device, path, identity
        self._images = [pair for images, labels in batches for pair in zip(images.split(1), labels, strict=True)]
        self._ignore_index = ignore_index
        self.pixels = torch.tensor([int((label != ignore_index).sum()) for _, label in self._images])
        self._data = files and files.record()
        kept = read_kept(path, _read)
        fits = kept and (files is None or files.fits(kept.get("data"), f"{path.name} was measured"))
        # Group name -> whether its channels are cut; a file of an earlier version does not know.
        self._judged: dict[str, bool] = kept["cut"] if fits else {}
        self._known: list[dict[str, float]] = kept["images"] if fits else [{} for _ in self._images]

    @property
    def whole(self) -> Tensor:
        """Loss of the whole network; known once something was measured."""
        return torch.tensor([known[""] for known in self._known], dtype=torch.float64)

    def losses(self, removals: Sequence[Removal]) -> Tensor:
        """Losses of the network without the channels of each removal.

        What is not known yet is measured, image by image; each finished image is kept in the file.

        Returns:
            float64 [removals, images], summed over an image's pixels that count.

        Raises:
            BenchError: the whole network's loss is not finite, or the network cannot be run again from a record.
        """
        self._judge(list(dict.fromkeys(group for group, _ in removals)))
        names = [self._name(removal) for removal in removals]
        distinct = dict(zip(names, removals, strict=True))
        make_folder(self._path.parent)
        for number, known in enumerate(progress(self._known, "oracle: removing channels one at a time")):
            missing = {name: removal for name, removal in distinct.items() if name not in known}
            if missing or "" not in known:
                known |= self._measured(number, missing)
                record = {"format": FORMAT, "identity": self._identity, "data": self._data}
                record |= {"cut": self._judged, "images": self._known}
                write_json(self._path, record)
        return torch.tensor([[known[name] for known in self._known] for name in names], dtype=torch.float64)

    def _judge(self, groups: Sequence[ChannelGroup]) -> None:
        """Finds out of which groups channels have to be cut."""
        new = [group for group in groups if group.name not in self._judged]
        if not new:
            return
        small = blank_image(self._model)
        with flags_kept(self._model), full_precision():
            image = small if _runs(self._model, small) else self._images[0][0].to(self._device)
            found = must_be_cut(self._model, new, image)
        self._judged |= {group.name: group.name in found for group in new}
        if found:
            say(f"oracle: channels of {len(found)} of {len(new)} groups are cut one by one, which takes longer")

    def _measured(self, number: int, removals: Mapping[str, Removal]) -> dict[str, float]:
        image, label = self._images[number]
        image, label = image.to(self._device), label.to(self._device)
        replay: IncrementalForward | None = None
        with full_precision(), flags_kept(self._model):
            found = {"": float(loss_sums(self._logits(self._model, image), label, self._ignore_index))}
            if not torch.isfinite(torch.tensor(found[""])):
                raise BenchError("the loss on the oracle's images is not finite; the checkpoint is not usable")
            at_once = max(1, PIXELS_AT_ONCE // label.numel())
            for names, group, sets in _chunks(removals, at_once):
                if self._judged[group.name]:
                    logits = torch.cat([self._logits(cut_copy(self._model, {group: one}), image) for one in sets])
                else:
                    if replay is None:
                        replay = IncrementalForward(self._model, image)
                        if number == 0:
                            replay.check()
                    logits = replay.logits_without(switched_off(group, sets), len(sets))
                sums = loss_sums(logits, label, self._ignore_index)
                found |= dict(zip(names, sums.tolist(), strict=True))
        return found

    def _name(self, removal: Removal) -> str:
        group, channels = removal
        # Losses of a time when all were switched off have another name.
        how = "cut " if self._judged[group.name] else ""
        return f"{how}{group.name}:{','.join(map(str, sorted(channels)))}"

    @staticmethod
    def _logits(model: nn.Module, image: Tensor) -> Tensor:
        with torch.inference_mode():
            return model.eval()(image)


def _runs(model: nn.Module, image: Tensor) -> bool:
    try:
        with torch.inference_mode():
            model.eval()(image)
    except Exception:  # noqa: BLE001  a network's own code
        return False
    return True


def loss_sums(logits: Tensor, label: Tensor, ignore_index: int) -> Tensor:
    """Cross-entropy summed over the pixels that count, in double precision.

    Args:
        logits: [variants, C, H, W].
        label: int64 [H, W], the same for all.
        ignore_index: label id that does not count.

    Returns:
        float64 [variants]
    """
    counted = label != ignore_index
    target = label.where(counted, 0).expand(len(logits), 1, *label.shape)
    # Not torch's cross-entropy: it has no deterministic CUDA kernel, and it sums in single precision.
    losses = logits.float().log_softmax(1).gather(1, target).neg()[:, 0]
    return (losses * counted).flatten(1).sum(1, dtype=torch.float64)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Switches TF32 off: the loss of one channel may be in the fifth digit."""
    kinds = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [kind.allow_tf32 for kind in kinds]
    try:
        for kind in kinds:
            kind.allow_tf32 = False
        yield
    finally:
        for kind, allowed in zip(kinds, before, strict=True):
            kind.allow_tf32 = allowed


def _chunks(
    removals: Mapping[str, Removal], at_once: int
) -> Iterator[tuple[list[str], ChannelGroup, list[tuple[int, ...]]]]:
    """Removals of the same group, a few at a time, with their names."""
    by_group: dict[ChannelGroup, list[str]] = {}
    for name, (group, _) in removals.items():
        by_group.setdefault(group, []).append(name)
    for group, names in by_group.items():
        for start in range(0, len(names), at_once):
            part = names[start : start + at_once]
            yield part, group, [removals[name][1] for name in part]


def _read(path: Path) -> dict[str, Any]:
    kept = read_json(path)
    # A file without images is damaged, whatever else it holds.
    return {"images": kept["images"], "data": kept.get("data"), "cut": kept.get("cut", {})}
