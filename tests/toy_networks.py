"""Small networks, each with one kind of coupling between channels, and what tests of the engine ask of networks."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.channels.groups import ChannelGroup, prunable
from bench.cut.network import cut
from bench.measure.cost import count_parameters, state_bytes
from bench.models import MODELS
from bench.plan.cost_table import Prediction
from bench.plan.pruning_plan import PruningPlan, Scores
from bench.torch_utils.dry_run import blank_image, stand_in

# The registered networks that differ in more than size: ResNet-101 has more blocks than ResNet-50, and so on.
KINDS = [name for name in MODELS if "resnet101" not in name and name not in {f"segformer_b{n}" for n in range(1, 6)}]
# What makes one of them quick.
QUICK = {"segformer_b0": {"widths": [16, 32, 80, 128], "depths": [1, 1, 1, 1], "decoder_width": 32}}

IMAGES = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(5))


def conv(inputs: int, outputs: int, *, norm: bool = True) -> nn.Sequential:
    """A 3x3 convolution that keeps the size, with or without a norm behind it."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norm)]
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs)) if norm else nn.Sequential(*layers)


class Chain(nn.Module):
    """Two layers and a head, one behind the other."""

    def __init__(self, norm: bool = True):
        super().__init__()
        self.first = conv(3, 8, norm=norm)
        self.second = conv(8, 6, norm=norm)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.second(self.first(images).relu()).relu())


class Residual(nn.Module):
    """A trunk of 8 channels that two blocks add to, and a concatenation of it with 5 more."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.inner1, self.outer1 = conv(8, 6), conv(6, 8)
        self.inner2, self.outer2 = conv(8, 7), conv(7, 8)
        self.side = conv(8, 5)
        self.fuse = conv(13, 6)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        trunk = self.stem(images).relu()
        trunk = (trunk + self.outer1(self.inner1(trunk).relu())).relu()
        trunk = (trunk + self.outer2(self.inner2(trunk).relu())).relu()
        side = self.side(trunk).relu()
        return self.head(self.fuse(torch.cat([side, trunk], dim=1)).relu())


class Unpooled(nn.Module):
    """An encoder and a decoder tied by pooling indices."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.middle, self.decoder = conv(3, 6), conv(6, 6), conv(6, 5)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.head = nn.Conv2d(5, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        features, indices = self.pool(self.encoder(images).relu())
        return self.head(self.decoder(self.unpool(self.middle(features).relu(), indices)).relu())


class Transposed(nn.Module):
    """A transposed convolution, on either side of ordinary ones."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.head = nn.Conv2d(5, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.up(self.down(images).relu()).relu())


class Between(nn.Module):
    """A layer of 8 channels, a given layer, and a head that reads `read` channels."""

    def __init__(self, layer: nn.Module, read: int = 8):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.layer = layer
        self.head = nn.Conv2d(read, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layer(self.first(images).relu()))


class Gated(nn.Module):
    """The first half of the channels gates the second, so that they depend on each other."""

    def forward(self, features: Tensor) -> Tensor:
        gate, gated = features.chunk(2, dim=1)
        return gate.sigmoid() * gated


class Scaled(nn.Module):
    """A scale a channel that belongs to no layer."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * features


class Flattened(nn.Module):
    """A linear layer that reads six pixels of each channel, and gives back the logits of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 5)
        self.pool = nn.AdaptiveAvgPool2d((2, 3))
        self.linear = nn.Linear(30, 7)
        self.head = nn.Linear(7, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.pool(self.first(images).relu()).flatten(1)
        return self.head(self.linear(features).relu())[:, :, None, None].expand(-1, -1, *images.shape[-2:])


class Rows(nn.Module):
    """A convolution along each row by itself: as one of strips, the same row of all images side by side, or of maps."""

    def __init__(self, folded: bool) -> None:
        super().__init__()
        self.folded = folded
        self.first, self.head = conv(3, 8), nn.Conv2d(10, 4, 1)
        self.along = nn.Conv1d(8, 10, 5, padding=2) if folded else nn.Conv2d(8, 10, (1, 5), padding=(0, 2))

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images).relu()
        if self.folded:
            made = self.along(features.permute(2, 0, 1, 3).flatten(0, 1))
            made = made.unflatten(0, (features.shape[2], -1)).permute(1, 2, 0, 3)
        else:
            made = self.along(features)
        return self.head(made.relu())

    @staticmethod
    def both() -> tuple[nn.Module, nn.Module]:
        """The network of strips and the one of maps, with the same weights."""
        strips, maps = settled(Rows(True)), settled(Rows(False))
        maps.load_state_dict({key: value.view_as(maps.state_dict()[key]) for key, value in strips.state_dict().items()})
        return strips, maps


class Auxiliary(nn.Module):
    """A second head in training mode, with a hidden layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 8), conv(8, 6)
        self.head = nn.Conv2d(6, 4, 1)
        self.aux = nn.Sequential(conv(8, 5), nn.ReLU(), nn.Conv2d(5, 4, 1))

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        features = self.first(images).relu()
        logits = self.head(self.second(features).relu())
        return {"out": logits, "aux": self.aux(features)} if self.training else logits


class Refined(nn.Module):
    """Coarse logits that are an output and are read once more."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 8)
        self.coarse = nn.Conv2d(8, 4, 1)
        self.fine = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        coarse = self.coarse(self.first(images).relu())
        fine = self.fine(coarse)
        return {"out": fine, "aux": coarse} if self.training else fine


class ImageAgain(nn.Module):
    """The image joins the features by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 8)
        self.second = conv(11, 6)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.cat([images, self.first(images).relu()], dim=1)
        return self.head(self.second(features).relu())


def settled(model: nn.Module) -> nn.Module:
    """Gives every norm scales, shifts and statistics unlike a fresh network's; in evaluation mode."""
    generator = torch.Generator().manual_seed(7)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low in ((layer.weight, 0.5), (layer.bias, -0.5), (layer.running_var, 0.5)):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + low)
            layer.running_mean.copy_(torch.randn(layer.running_mean.shape, generator=generator) * 0.1)
    return model.eval()


def random_scores(groups: Sequence[ChannelGroup], seed: int = 0) -> Scores:
    """A different score for every channel that may go."""
    generator = torch.Generator().manual_seed(seed)
    return {group.name: torch.rand(group.channels, generator=generator) for group in prunable(groups)}


def plan_keeping(groups: Sequence[ChannelGroup], kept: dict[str, list[int]]) -> PruningPlan:
    """A plan that keeps the given channels, and all of the groups not named."""
    nothing = Prediction(0, 0, 0)
    whole = {group.name: list(range(group.channels)) for group in prunable(groups)}
    return PruningPlan({**whole, **kept}, (0, 1), nothing, nothing)


def random_plan(groups: Sequence[ChannelGroup], seed: int = 0) -> PruningPlan:
    """A plan that keeps a random part, at least one channel, of every group."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in prunable(groups):
        count = int(torch.randint(1, group.channels + 1, (), generator=generator))
        kept[group.name] = sorted(torch.randperm(group.channels, generator=generator)[:count].tolist())
    return plan_keeping(groups, kept)


def measured(model: nn.Module, size: tuple[int, int]) -> Prediction:
    """What a plan predicts, counted on the network itself; MACs from the operators of a forward pass on shapes."""
    counter = FlopCounterMode(display=False)
    with stand_in(model) as shadow, counter:
        shadow(blank_image(shadow, size))
    return Prediction(count_parameters(model), counter.get_total_flops() // 2, state_bytes(model))


def cut_copy(model: nn.Module, groups: Sequence[ChannelGroup], plan: PruningPlan) -> nn.Module:
    """The network a plan leaves; the given one stays whole."""
    smaller = copy.deepcopy(model)
    cut(smaller, groups, plan)
    return smaller
