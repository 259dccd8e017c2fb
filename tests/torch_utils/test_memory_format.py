"""How tensors lie in memory."""

from __future__ import annotations

import torch
from torch import nn

from bench.torch_utils.memory_format import is_laid_out, lay_out


def test_maps_are_laid_out_and_what_has_other_axes_stays() -> None:
    layers = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv1d(6, 6, 3), nn.Conv3d(6, 6, 3), nn.BatchNorm2d(6))
    before = {name: tensor.stride() for name, tensor in layers.state_dict().items()}
    parameters = list(layers.parameters())
    lay_out(layers, channels_last=True)
    assert is_laid_out(layers, channels_last=True) and not is_laid_out(layers, channels_last=False)
    changed = {name for name, tensor in layers.state_dict().items() if tensor.stride() != before[name]}
    assert changed == {"0.weight"}
    assert layers[0].weight.is_contiguous(memory_format=torch.channels_last)
    # An optimizer's parameters are still the network's.
    assert all(one is other for one, other in zip(layers.parameters(), parameters, strict=True))
    lay_out(layers, channels_last=False)
    assert {name: tensor.stride() for name, tensor in layers.state_dict().items()} == before
