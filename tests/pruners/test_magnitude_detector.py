"""Magnitude pruning of a network that does not segment: a detector of C3 and attention blocks, three outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bench


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.SiLU())


class C3(nn.Module):
    """Two branches, one through bottlenecks, concatenated."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.cv1, self.cv2, self.cv3 = _conv(width, half), _conv(width, half), _conv(2 * half, width)
        self.m = nn.Sequential(_conv(half, half), _conv(half, half, 3))

    def forward(self, features: Tensor) -> Tensor:
        first = self.cv1(features)
        return self.cv3(torch.cat([first + self.m(first), self.cv2(features)], dim=1))


class TokenAttention(nn.Module):
    """Self-attention over the places of a map."""

    def __init__(self, width: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, num_heads=2, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        tokens = features.flatten(2).transpose(1, 2)
        return features + self.attention(tokens, tokens, tokens)[0].transpose(1, 2).view_as(features)


class Detector(nn.Module):
    """Boxes and classes at three sizes: a list of [N, anchors * (5 + classes), h, w]."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.stem = _conv(3, width, 3, 2)
        self.stages = nn.ModuleList(nn.Sequential(_conv(w, 2 * w, 3, 2), C3(2 * w)) for w in (width, 2 * width))
        self.attention = TokenAttention(4 * width)
        self.detect = nn.ModuleList(nn.Conv2d(w, 3 * 7, 1) for w in (2 * width, 4 * width, 4 * width))

    def forward(self, images: Tensor) -> list[Tensor]:
        first = self.stages[0](self.stem(images))
        second = self.stages[1](first)
        return [head(f) for head, f in zip(self.detect, (first, second, self.attention(second)), strict=True)]


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "detector.yaml"
    path.write_text(
        "rules:\n"
        "  - {category: heads, name: 'detect.*', ratio: 0}\n"
        "  - {category: attention, type: TokenAttention, ratio: 0.2}\n"
        "  - {category: c3, type: C3, ratio: 0.4}\n"
        "  - {category: other, ratio: 0.1}\n"
    )
    return path


def test_a_detector_is_made_sparse_by_a_table_of_ones_own(rules: Path) -> None:
    model = Detector().eval()
    pruned = bench.prune(
        model,
        method="magnitude",
        options={"rules": str(rules)},
        target={"sparsity": 0.3},
        input_size=(64, 64),
        recalibrate=False,
    )

    def zeros(pattern: str) -> float:
        found = [p for n, p in pruned.model.named_parameters() if pattern in n and n.endswith("weight") and p.dim() > 1]
        return sum(int((p == 0).sum()) for p in found) / sum(p.numel() for p in found)

    assert zeros("detect") == 0
    # As the table has them to each other: 0.4 of a C3 block to 0.2 of attention.
    assert zeros(".1.cv3") / zeros("attention.attention") == pytest.approx(2, rel=0.02)
    assert pruned.after.macs == pruned.before.macs
    assert pruned.after.nonzero_parameters < 0.75 * pruned.before.parameters
    outputs = pruned.model(torch.zeros(1, 3, 64, 64))
    assert [tuple(output.shape) for output in outputs] == [(1, 21, 16, 16), (1, 21, 8, 8), (1, 21, 8, 8)]
