"""One small network a construct, and what of it can go or stays (`channels/test_constructs.py`)."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import torch
import toy_networks as toys
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

WIDTH = 16


class Around(nn.Module):
    """A layer of 16 channels, what a construct makes of them, and a head."""

    def __init__(self, construct: nn.Module, read: int):
        super().__init__()
        self.first, self.construct = toys.conv(3, WIDTH), construct
        self.second, self.head = toys.conv(read, 6), nn.Conv2d(6, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.second(self.construct(self.first(images).relu())).relu())


class Does(nn.Module):
    """A function of features, as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, features: Tensor) -> Tensor:
        return self.function(features)


class Last(nn.Module):
    """A layer that works on the last axis."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scale(nn.Module):
    """A scale a channel, outside of any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, features: Tensor) -> Tensor:
        return features * self.gamma[:, None, None]


class Gate1d(nn.Module):
    """A gate from a strip, by a one-dimensional convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.strip = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features * self.strip(features.mean(3)).sigmoid()[..., None]


class Attention(nn.Module):
    """Four heads; their width is read from the tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        images, _, *size = features.shape
        tokens = functional.adaptive_avg_pool2d(features, 4).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(tokens).view(images, 16, 3, 4, -1).permute(2, 0, 3, 1, 4)
        mixed = (query @ key.transpose(2, 3)).softmax(-1) @ value
        attended = self.out(mixed.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, (4, 4))
        return features + functional.interpolate(attended, size=tuple(size))


class Ties(nn.Module):
    """The width of the queries is asked to be that of what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        images, channels, *size = features.shape
        tokens = functional.adaptive_avg_pool2d(features, 4).flatten(2).transpose(1, 2)
        query = self.query(tokens).view(images, 16, 2, channels // 2).transpose(1, 2)
        mixed = (query @ query.transpose(2, 3)).softmax(-1) @ self.value(tokens).unflatten(2, (2, -1)).transpose(1, 2)
        attended = mixed.transpose(1, 2).reshape(images, 16, channels).transpose(1, 2).unflatten(2, (4, 4))
        return functional.interpolate(attended, size=tuple(size))


class TorchAttention(nn.Module):
    """Torch's own attention: four heads, as wide together as what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        tokens = functional.adaptive_avg_pool2d(features, 4).flatten(2).transpose(1, 2)
        attended = self.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).unflatten(2, (4, 4))
        return features + functional.interpolate(attended, size=tuple(features.shape[2:]))


class Windows(nn.Module):
    """Attention in windows of 4x4: one layer makes queries, keys and values, as wide as what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.bias = nn.Parameter(torch.randn(2, 16, 16))

    def forward(self, features: Tensor) -> Tensor:
        images, channels, height, width = features.shape
        parts = features.permute(0, 2, 3, 1).view(images, height // 4, 4, width // 4, 4, channels).transpose(2, 3)
        parts = parts.reshape(-1, 16, channels)
        qkv = self.qkv(parts).reshape(-1, 16, 3, 2, channels // 2).permute(2, 0, 3, 1, 4)
        mixed = (qkv[0] @ qkv[1].transpose(2, 3) + self.bias).softmax(-1) @ qkv[2]
        parts = self.out(mixed.transpose(1, 2).reshape(-1, 16, channels))
        parts = parts.view(images, height // 4, width // 4, 4, 4, channels).transpose(2, 3)
        return features + parts.reshape(images, height, width, channels).permute(0, 3, 1, 2)


class Halves(nn.Module):
    """A product of halves that is asked to be as wide as what they are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Conv2d(WIDTH, 2 * WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        one, other = self.both(features).chunk(2, 1)
        return (one * other).view(features.shape)


class FixedHeads(nn.Module):
    """Four heads, a number that the code has; their width is that of what is left."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Conv2d(WIDTH, 3 * WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        query, key, value = (part.flatten(2).unflatten(1, (4, -1)) for part in self.qkv(features).chunk(3, 1))
        mixed = (query @ key.transpose(2, 3)).softmax(-1) @ value
        return features + self.out(mixed.flatten(1, 2).unflatten(2, features.shape[2:]))


class Recurrent(nn.Module):
    """Three steps of a state that begins with zeros, as many as there are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * WIDTH, 2 * WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        state = torch.zeros_like(features)
        for _ in range(3):
            gate, new = self.gates(torch.cat([features, state], 1)).chunk(2, 1)
            state = state * gate.sigmoid() + new.tanh()
        return state


class Spectral(nn.Module):
    """A convolution of real and imaginary parts, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2 * WIDTH, 2 * WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(features)
        real, imaginary = self.mix(torch.cat([spectrum.real, spectrum.imag], 1)).chunk(2, 1)
        return torch.fft.irfft2(torch.complex(real, imaginary), s=features.shape[2:])


class Context(nn.Module):
    """A norm over several axes of a bottleneck, as global context blocks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.less, self.norm, self.more = nn.Conv2d(WIDTH, 8, 1), nn.LayerNorm([8, 1, 1]), nn.Conv2d(8, WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.more(self.norm(self.less(features.mean((2, 3), keepdim=True))).relu())


class Gained(nn.BatchNorm2d):
    """A norm with a tensor of its own besides those that every norm has."""

    def __init__(self) -> None:
        super().__init__(WIDTH)
        self.gain = nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) * self.gain[:, None, None]


class Merged(nn.Module):
    """In evaluation a kernel that an identity is part of, as RepVGG has it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Conv2d(WIDTH, WIDTH, 1), nn.Parameter(torch.rand(WIDTH))

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            return self.layer(features) + features * self.scale[:, None, None]
        weight = self.layer.weight + torch.diag_embed(self.scale)[..., None, None]
        return functional.conv2d(features, weight, self.layer.bias)


class Asks(nn.Module):
    """A layer that only so many channels pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(features) if features.shape[1] > 9 else features


class Prototypes(nn.Module):
    """Where features are near the average of them, by a running average that training moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.rand(1, WIDTH))

    def forward(self, features: Tensor) -> Tensor:
        places = features.permute(0, 2, 3, 1)
        near = torch.cdist(places.flatten(1, 2), self.average[None].expand(len(features), -1, -1))
        if self.training:
            with torch.no_grad():
                self.average.mul_(0.9).add_(0.1 * places.mean((0, 1, 2)))
        return features * (-near).exp().view_as(features[:, :1])


class Twice(nn.Module):
    """One layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = toys.conv(WIDTH, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(self.layer(features))


class Concatenated(nn.Module):
    """A sum of two concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(toys.conv(WIDTH, width) for width in (6, 10, 6, 10))

    def forward(self, features: Tensor) -> Tensor:
        a, b, c, d = (layer(features) for layer in self.layers)
        return torch.cat([a, b], 1) + torch.cat([c, d], 1)


class Excited(nn.Module):
    """A gate a channel from the means of all."""

    def __init__(self) -> None:
        super().__init__()
        self.less, self.more = nn.Linear(WIDTH, 4), nn.Linear(4, WIDTH)

    def forward(self, features: Tensor) -> Tensor:
        return features * self.more(self.less(features.mean((2, 3))).relu()).sigmoid()[..., None, None]


class GatedByPlaces(nn.Module):
    """A gate a place from the mean and the maximum over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        seen = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], 1)
        return features * self.gate(seen).sigmoid()


class Mixed(nn.Module):
    """A product with a parameter that no layer has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, features: Tensor) -> Tensor:
        return torch.einsum("nchw,dc->ndhw", features, self.weight)


class Standardised(nn.Conv2d):
    """A convolution whose weight is computed."""

    def forward(self, features: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(features, weight, self.bias, padding=1)


class Deep(nn.Module):
    """A convolution of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Conv3d(WIDTH, WIDTH, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        return self.deep(features[:, :, None])[:, :, 0]


class AlongAxes(nn.Module):
    """Layers along one axis or three that make channels of their own, which others of the kind read."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        kinds = {1: (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d), 3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d)}
        conv, transposed, norm = kinds[axes]
        self.axes = axes
        self.make, self.norm, self.filter = (
            conv(WIDTH, 12, 3, padding=1),
            norm(12),
            conv(12, 12, 3, padding=1, groups=12),
        )
        self.raise_, self.mix = transposed(12, 10, 3, padding=1), conv(10, WIDTH, 1)

    def forward(self, features: Tensor) -> Tensor:
        shape = features.shape
        features = features.flatten(2) if self.axes == 1 else features.unflatten(2, (2, -1))
        made = self.filter(self.norm(self.make(features)).relu())
        return self.mix(self.raise_(made).relu()).reshape(shape[0], -1, *shape[2:])


class Branches(nn.Module):
    """Two branches: their weighted sum, by weights that are computed; in evaluation and in training another one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.rate = (
            toys.conv(WIDTH, WIDTH),
            nn.Conv2d(WIDTH, WIDTH, 1),
            nn.Linear(WIDTH, 2 * WIDTH),
        )

    def forward(self, features: Tensor) -> Tensor:
        one, other = self.one(features), checkpoint(self.other, features, use_reentrant=False)
        if self.training:
            return torch.stack([one, other]).mean(0)
        rates = self.rate((one + other).mean((2, 3))).view(len(features), 2, -1).softmax(1)[..., None, None]
        return one * rates[:, 0] + other * rates[:, 1]


class Dilated(nn.Module):
    """Four layers that make a quarter of the channels each, added to what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(WIDTH, 4, 3, padding=rate, dilation=rate) for rate in range(1, 5))

    def forward(self, features: Tensor) -> Tensor:
        return features + torch.cat([layer(features) for layer in self.layers], 1)


def unpooled(features: Tensor) -> Tensor:
    pooled, places = functional.max_pool2d(features, 2, return_indices=True)
    return functional.max_unpool2d(pooled.relu(), places, 2)


def beside_its_mean(features: Tensor) -> Tensor:
    return torch.cat([features, features.mean((2, 3), keepdim=True).expand_as(features)], 1)


def stored(features: Tensor) -> Tensor:
    result = torch.zeros_like(features)
    result[:, 1:] = features[:, :-1]
    return result


def blurred(features: Tensor) -> Tensor:
    kernel = features.new_full((1, 1, 3, 3), 1 / 9).expand(features.shape[1], -1, -1, -1)
    return functional.conv2d(features, kernel, padding=1, groups=features.shape[1])


def lucky(features: Tensor) -> Tensor:
    return features * random.random()


def shuffled(features: Tensor) -> Tensor:
    return features.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def halves(features: Tensor) -> Tensor:
    first, second = features.chunk(2, dim=1)
    return torch.cat([-first, second.relu()], 1)


# Construct -> (module, channels it gives, channels of the group of the first layer that can go by themselves, positions
# of each, whether a channel that is not read is one that is gone).
CUT = {
    "grouped, whole groups": (lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=8), 16, 8, 2, True),
    "grouped, the same of each": (lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=2), 16, 8, 2, True),
    "two a channel": (lambda: nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1, groups=WIDTH), 32, 16, 1, True),
    "group norm": (lambda: nn.GroupNorm(4, WIDTH), 16, 4, 4, False),
    "instance norm": (lambda: nn.InstanceNorm2d(WIDTH, affine=True), 16, 16, 1, True),
    "layer norm without weights": (lambda: Last(nn.LayerNorm(WIDTH, elementwise_affine=False)), 16, 16, 1, False),
    "gated linear unit": (lambda: nn.GLU(1), 8, 8, 2, True),
    "halves": (lambda: Does(halves), 16, 8, 2, True),
    "channel shuffle": (lambda: Does(shuffled), 16, 8, 2, True),
    "flip": (lambda: Does(lambda features: features.flip(1)), 16, 16, 1, True),
    "pixel shuffle": (lambda: nn.PixelShuffle(2), 4, 4, 4, True),
    "repeated": (lambda: Does(lambda features: features.repeat(1, 2, 1, 1)), 32, 16, 1, True),
    "padded": (lambda: Does(lambda f: functional.pad(f, (0, 0, 0, 0, 2, 2))), 20, 16, 1, True),
    "layer scale": (Scale, 16, 16, 1, True),
    "one-dimensional": (Gate1d, 16, 16, 1, True),
    "attention": (Attention, 16, 16, 1, False),
    "sizes tied by code": (Ties, 16, 8, 2, False),
    "torch's attention": (TorchAttention, 16, 4, 4, False),
    "attention in windows": (Windows, 16, 8, 2, False),
    "halves as wide as what is read": (Halves, 16, 16, 1, True),
    "recurrent": (Recurrent, 16, 16, 1, True),
    "Fourier transform": (Spectral, 16, 16, 1, True),
    "norm over several axes": (Context, 16, 16, 1, False),
    "norm with a gain": (Gained, 16, 16, 1, True),
    "merged kernels": (Merged, 16, 16, 1, True),
    "distances to an average": (Prototypes, 16, 16, 1, False),
    "blurred": (lambda: Does(blurred), 16, 16, 1, True),
    "one layer twice": (Twice, 16, 16, 1, True),
    "sum of concatenations": (Concatenated, 16, 16, 1, True),
    "squeezed and excited": (Excited, 16, 16, 1, True),
    "gated by places": (GatedByPlaces, 16, 16, 1, False),
    "mixed by a parameter": (Mixed, 16, 16, 1, False),
    "standardised": (lambda: Standardised(WIDTH, WIDTH, 3, padding=1), 16, 16, 1, False),
    "three-dimensional": (Deep, 16, 16, 1, True),
    "along one axis": (partial(AlongAxes, 1), 16, 16, 1, True),
    "along three axes": (partial(AlongAxes, 3), 16, 16, 1, True),
    "branches of either mode": (Branches, 16, 16, 1, True),
    "quarters": (Dilated, 16, 4, 1, True),
    "unpooled": (lambda: Does(unpooled), 16, 16, 1, True),
    "depthwise": (lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH), 16, 16, 1, True),
    "slopes": (lambda: nn.PReLU(WIDTH), 16, 16, 1, True),
    "root mean square": (lambda: Last(nn.RMSNorm(WIDTH)), 16, 16, 1, False),
    "pixel unshuffle": (lambda: nn.PixelUnshuffle(2), 64, 16, 1, True),
    "softmax over channels": (nn.Softmax2d, 16, 16, 1, False),
    "beside its mean": (lambda: Does(beside_its_mean), 32, 16, 1, True),
    "maximum of halves": (lambda: Does(lambda features: torch.maximum(*features.chunk(2, 1))), 8, 8, 2, True),
}

STAYS = {
    "rolled": (lambda: Does(lambda features: features.roll(1, 1)), "construct passes them through roll"),
    "single ones": (lambda: Does(lambda f: f * f[:, :1]), "channels change places between first.0 and second.0"),
    "sizes in code": (lambda: Does(lambda f: torch.cat(f.split([8, 8], 1), 1)), "a width is written in the network"),
    "grouped transposed": (
        lambda: nn.ConvTranspose2d(WIDTH, WIDTH, 3, padding=1, groups=2),
        "construct is a grouped transposed convolution",
    ),
    "summed up": (lambda: Does(lambda features: features.cumsum(1)), "construct passes them through cumsum"),
    "sorted": (lambda: Does(lambda features: features.sort(1).values), "construct passes them through sort"),
    "normed by neighbours": (lambda: nn.LocalResponseNorm(3), "construct passes them through avg_pool3d"),
    "stored": (lambda: Does(stored), "all of its channels can only go at once"),
    "by index": (lambda: Does(lambda f: f[:, torch.arange(f.shape[1]).flip(0)]), "construct picks them by index"),
    "spectral norm": (
        lambda: spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
        "ParametrizationList construct.parametrizations.weight cannot be narrowed",
    ),
    "weight norm": (
        lambda: weight_norm(nn.Conv2d(WIDTH, WIDTH, 3, padding=1)),
        "construct computes its weight in every pass",
    ),
}


STAYS |= {
    "scripted": (lambda: torch.jit.script(nn.Conv2d(WIDTH, WIDTH, 1)), "RecursiveScriptModule construct cannot be"),
    "as many as there must be": (Asks, "a width is written in the network"),
}
