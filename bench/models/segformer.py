"""SegFormer (https://arxiv.org/abs/2105.15203): a transformer encoder of four stages, and a decoder of linear layers.

Equal to NVIDIA's network as `transformers` has it, and small. What an attention computes with is read off the tensors:
each head is as wide as query, key and value say, so that the same channels of every head can go. The number of heads is
the one built, and so is the scale of the products: what is left of a head answers as it did before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import bench.torch_utils.torchvision_compat  # noqa: F401

# isort: split
import torch
from torch import Tensor, fx, nn
from torch.nn.functional import gelu, interpolate
from torchvision.ops import StochasticDepth

from bench.models.parts import initialise
from bench.models.segformer_names import own_names

_HEADS = (1, 2, 5, 8)
"""Heads of an attention, by stage."""

_REDUCTIONS = (8, 4, 2, 1)
"""Of how many tokens along each side keys and values are made of one, by stage."""

_EXPANSION = 4
_LARGEST_DROP = 0.1
"""How often a branch of the last block is left out in training; linearly fewer of the ones before."""

_NARROW, _WIDE = (32, 64, 160, 256), (64, 128, 320, 512)


class Embedding(nn.Module):
    """Overlapping patches of a map as tokens: [N, C, H, W] -> [N, tokens, width] and their (rows, columns)."""

    def __init__(self, inputs: int, width: int, kernel: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, width, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> tuple[Tensor, tuple[int, int]]:
        features = self.conv(features)
        return self.norm(_as_tokens(features)), features.shape[-2:]


class Attention(nn.Module):
    """Self-attention whose keys and values are made of fewer tokens.

    Args:
        width: channels of a token.
        heads: parts that query, key and value are cut into.
        reduction: tokens along each side that one key and value stand for.
    """

    def __init__(self, width: int, heads: int, reduction: int):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.reduce = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        self.reduce_norm = nn.LayerNorm(width) if reduction > 1 else None
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        fewer = tokens
        if self.reduce is not None:
            fewer = self.reduce_norm(_as_tokens(self.reduce(_as_map(tokens, size))))
        # [N, heads, tokens, width of a head]
        query, key, value = (
            layer(read).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, read in ((self.query, tokens), (self.key, fewer), (self.value, fewer))
        )
        weights = (query @ key.transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.project((weights @ value).transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """Two linear layers, with a convolution of each channel in between that tells the tokens where they are."""

    def __init__(self, width: int):
        super().__init__()
        hidden = _EXPANSION * width
        self.expand = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.project = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        mixed = self.depthwise(_as_map(self.expand(tokens), size))
        return self.project(gelu(_as_tokens(mixed)))


class Block(nn.Module):
    """Attention and feed-forward, each added to what it reads."""

    def __init__(self, width: int, heads: int, reduction: int, drop: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, reduction)
        self.ffn = FeedForward(width)
        self.drop = StochasticDepth(drop, "row")

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        tokens = tokens + self.drop(self.attention(self.norm1(tokens), size))
        return tokens + self.drop(self.ffn(self.norm2(tokens), size))


class Stage(nn.Module):
    """A map of patches, some blocks on its tokens, and a norm: [N, C, H, W] -> [N, width, H / stride, W / stride]."""

    def __init__(self, embedding: Embedding, blocks: Sequence[Block], width: int):
        super().__init__()
        self.embedding, self.blocks, self.norm = embedding, nn.ModuleList(blocks), nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        tokens, size = self.embedding(features)
        for block in self.blocks:
            tokens = block(tokens, size)
        return _as_map(self.norm(tokens), size)


class Encoder(nn.Module):
    """Mix Transformer: images -> maps at 1/4, 1/8, 1/16 and 1/32 of their size."""

    def __init__(self, widths: Sequence[int], depths: Sequence[int]):
        super().__init__()
        drops = iter(torch.linspace(0, _LARGEST_DROP, sum(depths), device="cpu").tolist())
        stages = []
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            inputs, kernel, stride = (widths[number - 1], 3, 2) if number else (3, 7, 4)
            blocks = [Block(width, _HEADS[number], _REDUCTIONS[number], next(drops)) for _ in range(depth)]
            stages.append(Stage(Embedding(inputs, width, kernel, stride), blocks, width))
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


class Decoder(nn.Module):
    """All maps in one width and at the size of the largest, joined to one of that width."""

    def __init__(self, widths: Sequence[int], width: int):
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(inputs, width) for inputs in widths)
        self.fuse = nn.Conv2d(width * len(widths), width, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.activation = nn.ReLU()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        projected = [
            _like(_as_map(project(_as_tokens(one)), one.shape[-2:]), maps[0])
            for project, one in zip(self.project, maps, strict=True)
        ]
        return self.activation(self.norm(self.fuse(torch.cat(projected[::-1], dim=1))))


class SegFormer(nn.Module):
    """SegFormer.

    Images are at least 32 pixels high and wide.

    Args:
        architecture: name of the encoder, as its files are called.
        outputs: channels of the logits.
        widths: channels of each stage, multiples of its heads (1, 2, 5, 8).
        depths: blocks of each stage.
        decoder_width: channels of the decoder.
    """

    backbone_prefixes = ("backbone.",)

    def __init__(
        self, architecture: str, outputs: int, widths: Sequence[int], depths: Sequence[int], decoder_width: int
    ):
        super().__init__()
        self.architecture = architecture
        self.backbone = Encoder(widths, depths)
        self.decoder = Decoder(widths, decoder_width)
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Conv2d(decoder_width, outputs, kernel_size=1)
        initialise(self, self.classifier)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        return _like(self.classifier(self.dropout(self.decoder(self.backbone(images)))), images)

    def backbone_layers(self) -> dict[str, nn.Module]:
        """Name in a file, once its names are the network's own -> layer here."""
        return {f"backbone.stages.{number}": stage for number, stage in enumerate(self.backbone.stages)}

    @staticmethod
    def own_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a published file under the names they have here."""
        return own_names(weights)


def segformer_b0(
    outputs: int, widths: Sequence[int] = _NARROW, depths: Sequence[int] = (2, 2, 2, 2), decoder_width: int = 256
) -> SegFormer:
    """SegFormer-B0, or a smaller one for tests."""
    return SegFormer("mit_b0", outputs, widths, depths, decoder_width)


def segformer_b1(outputs: int) -> SegFormer:
    """SegFormer-B1."""
    return SegFormer("mit_b1", outputs, _WIDE, (2, 2, 2, 2), 256)


def segformer_b2(outputs: int) -> SegFormer:
    """SegFormer-B2."""
    return SegFormer("mit_b2", outputs, _WIDE, (3, 4, 6, 3), 768)


def segformer_b3(outputs: int) -> SegFormer:
    """SegFormer-B3."""
    return SegFormer("mit_b3", outputs, _WIDE, (3, 4, 18, 3), 768)


def segformer_b4(outputs: int) -> SegFormer:
    """SegFormer-B4."""
    return SegFormer("mit_b4", outputs, _WIDE, (3, 8, 27, 3), 768)


def segformer_b5(outputs: int) -> SegFormer:
    """SegFormer-B5."""
    return SegFormer("mit_b5", outputs, _WIDE, (3, 6, 40, 3), 768)


def _as_tokens(features: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H * W, C]"""
    return features.flatten(2).transpose(1, 2)


def _as_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, H * W, C] -> [N, C, H, W]"""
    return tokens.transpose(1, 2).unflatten(-1, tuple(size))


# One node for a tracer: what it does depends on the sizes, which a traced network does not know.
@fx.wrap
def _like(features: Tensor, other: Tensor) -> Tensor:
    """Bilinear interpolation to the size of other features."""
    return interpolate(features, size=other.shape[-2:], mode="bilinear", align_corners=False)
