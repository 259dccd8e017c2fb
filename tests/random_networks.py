"""Networks at random: layers with moves without weights between them, some in one mode only; and cuts of them."""

from __future__ import annotations

import random

import torch
import toy_networks as toys
from torch import Tensor, nn
from torch.nn import functional

from bench.channels.groups import ChannelGroup, find_groups


def _shuffle(features: Tensor) -> Tensor:
    return features.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def _halves(features: Tensor) -> Tensor:
    first, second = features.chunk(2, dim=1)
    return torch.cat([second.relu(), first], 1)


def _written(features: Tensor) -> Tensor:
    result = torch.zeros_like(features)
    result[:, 1:] = features[:, :-1]
    return result


MOVES = {
    "nothing": lambda features: features,
    "shuffle": _shuffle,
    "halves": _halves,
    "flip": lambda features: features.flip(1),
    "roll": lambda features: features.roll(3, 1),
    "constant in front": lambda features: torch.cat([torch.ones_like(features[:, :2]), features[:, 2:]], 1),
    "written": _written,
    "even": lambda features: features[:, ::2].repeat(1, 2, 1, 1),
    "blocks": lambda features: functional.pixel_unshuffle(functional.pixel_shuffle(features, 2), 2),
    "fixed view": lambda features: features.reshape(features.shape[0], 16, *features.shape[2:]),
    "index": lambda features: features[:, torch.arange(features.shape[1]).roll(2)],
    "gate": lambda features: torch.cat([functional.glu(features, 1)] * 2, 1),
    "norm": lambda features: functional.normalize(features, dim=1),
    "pairs": lambda features: features.unflatten(1, (-1, 2)).amax(2).repeat_interleave(2, 1),
}


class RandomNetwork(nn.Module):
    """Layers of 16 channels; what is added, concatenated and moved is drawn by a seed."""

    def __init__(self, seed: int, moves: int = 5):
        super().__init__()
        draw = random.Random(seed)
        self.stem = toys.conv(3, 16)
        kinds = [draw.choice(["plain", "sum", "concatenation", "grouped"]) for _ in range(moves)]
        self.plan = [(kind, draw.choice(list(MOVES)), draw.choice(["both", "both", "evaluation"])) for kind in kinds]
        self.layers = nn.ModuleList(
            toys.conv(32 if kind == "concatenation" else 16, 16)
            if kind != "grouped"
            else nn.Conv2d(16, 16, 3, padding=1, groups=draw.choice([2, 4, 8, 16]))
            for kind in kinds
        )
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images).relu()
        for (kind, move, mode), layer in zip(self.plan, self.layers, strict=True):
            moved = features if self.training and mode == "evaluation" else MOVES[move](features)
            if kind == "concatenation":
                moved = torch.cat([moved, features], 1)
            made = layer(moved).relu()
            features = made + features if kind == "sum" else made
        return self.head(features)


def outputs_of(model: nn.Module, images: Tensor) -> list[Tensor]:
    """In evaluation mode, and in training mode with frozen statistics."""
    outputs = []
    for is_training in (False, True):
        model.train(is_training)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        with torch.no_grad():
            outputs.append(model(images))
    return outputs


def silenced(dense: nn.Module, groups: list[ChannelGroup], kept: dict[str, list[int]]) -> nn.Module:
    """The network whole, but for the weights of its layers that read what is gone."""
    for group in groups:
        gone = ~torch.isin(torch.arange(group.channels), torch.tensor(kept.get(group.name, range(group.channels))))
        for reader in group.consumers:
            dense.get_submodule(reader.layer).weight.data[:, reader.positions[gone[reader.channels]]] = 0
    return dense


def fault_of(seed: int) -> str | None:
    """What is wrong with a cut of a network that was called possible, or None.

    The cut network must be the whole one whose layers do not read what is gone. Where code norms over channels that
    cannot be; there the cut must only run.
    """
    torch.manual_seed(seed)
    dense = toys.settled(RandomNetwork(seed)).double()
    groups = find_groups(dense)
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in groups:
        if group.protected is None:
            stay = torch.randperm(group.channels, generator=generator)[: max(1, 2 * group.channels // 3)]
            kept[group.name] = sorted(stay.tolist())
    images = torch.randn(1, 3, 16, 16, dtype=torch.float64, generator=generator)
    small = toys.cut_copy(dense, groups, toys.plan_keeping(groups, kept))
    try:
        outputs = outputs_of(small, images)
    except RuntimeError as error:
        return f"{dense.plan}: {error}"
    if any(move == "norm" for _, move, _ in dense.plan):
        return None
    expected = outputs_of(silenced(dense, groups, kept), images)
    apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(outputs, expected, strict=True))
    return f"{dense.plan}: {apart:.1e} apart" if apart > 1e-9 else None
