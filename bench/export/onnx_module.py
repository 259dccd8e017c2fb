"""An ONNX file in the place of a network: scored, timed and shown images as any other."""

from __future__ import annotations

from torch import Tensor, nn

from bench.export.onnx_file import OnnxNetwork


class OnnxModule(nn.Module):
    """A module without weights: images float32 [N, C, H, W] on the CPU -> logits [N, outputs, H, W].

    Attributes:
        network: the file, opened.
    """

    def __init__(self, network: OnnxNetwork):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Runs the file."""
        return self.network(images)
