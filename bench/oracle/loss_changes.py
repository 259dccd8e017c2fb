"""Measures which channels really matter: by how much the loss changes when each one is removed by itself.

The oracle removes one coupled channel at a time from the trained network, without fine-tuning, and notes the change of
the loss on fixed training images (Molchanov et al., ICLR 2017 and CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench.channels.groups import ChannelGroup, prunable
from bench.engine.session import Session
from bench.errors import UsageError
from bench.oracle.ablation import Ablation
from bench.oracle.options import OracleOptions
from bench.system.files import digest, plain


class Oracle:
    """The loss change of each sampled channel of a network.

    Attributes:
        sampled: group -> its channels that are removed in turn, ascending.
        ablation: the losses they were measured by.
    """

    def __init__(self, groups: Sequence[ChannelGroup], ablation: Ablation, most: int, seed: int):
        """Draws channels and measures the network without each.

        Args:
            groups: the prunable groups.
            ablation: measures losses.
            most: the most channels to draw of a group.
            seed: seed of the draw.
        """
        self.ablation = ablation
        self.sampled = sampled_channels(groups, most, seed)
        singles = [(group, (channel,)) for group, channels in self.sampled.items() for channel in channels]
        losses = ablation.losses(singles)
        parts = losses.split([len(channels) for channels in self.sampled.values()])
        self._differences = {group.name: part - ablation.whole for group, part in zip(self.sampled, parts, strict=True)}

    def changes(self, images: Tensor | None = None) -> dict[str, Tensor]:
        """Loss with a channel removed minus loss with it, per pixel that counts.

        Args:
            images: int64 [..., n], which images to look at; by default each once.

        Returns:
            Group name -> float64 [..., sampled channels]; negative where removing helps.
        """
        pixels = self.ablation.pixels
        images = torch.arange(len(pixels)) if images is None else images
        total = pixels[images].sum(-1)
        return {name: (found[:, images].sum(-1) / total).movedim(0, -1) for name, found in self._differences.items()}

    def magnitudes(self, images: Tensor | None = None) -> dict[str, Tensor]:
        """Absolute values of `changes`: how much a channel matters."""
        return {name: change.abs() for name, change in self.changes(images).items()}


def sampled_channels(groups: Sequence[ChannelGroup], most: int, seed: int) -> dict[ChannelGroup, list[int]]:
    """Group -> at most so many of its channels, drawn by seed, ascending."""
    generator = torch.Generator().manual_seed(seed)
    return {group: sorted(torch.randperm(group.channels, generator=generator)[:most].tolist()) for group in groups}


def measure_oracle(session: Session, options: OracleOptions, folder: Path) -> Oracle:
    """Measures the oracle of a session's baseline, or finds its losses in the folder, by content.

    Args:
        session: the baseline and its groups.
        options: images and channels.
        folder: where the losses are kept.

    Raises:
        UsageError: fewer than two images.
        BenchError: the network cannot be measured.
    """
    if options.oracle_images < 2:
        raise UsageError("`oracle_images` must be at least 2, because two halves of them are compared")
    baseline, groups = session.baseline, prunable(session.groups)
    data = baseline.data
    data.check_labelled("train")
    batches = session.batches(options.oracle_images, options.oracle_seed)
    identity = plain(
        {
            "baseline": baseline.digest,
            "groups": {group.name: group.channels for group in groups},
            "data": [data.name, data.dataset.root.absolute(), data.input_size],
            "images": [options.oracle_images, options.oracle_seed],
        }
    )
    ablation = Ablation(
        baseline.saved.model,
        batches,
        ignore_index=data.classes.ignore_index,
        device=baseline.device,
        path=folder / f"oracle_losses_{digest(identity)}.json",
        identity=identity,
        files=data.files("train"),
    )
    return Oracle(groups, ablation, options.oracle_units, options.oracle_seed)
