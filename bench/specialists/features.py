"""What the layer that makes a network's outputs reads: its last features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.errors import UsageError
from bench.models.checkpoint import SavedModel
from bench.models.output_layers import output_axes
from bench.torch_utils.contexts import flags_kept
from bench.torch_utils.dry_run import blank_image
from bench.torch_utils.hooks import inputs_seen


class _ReachedError(Exception):
    """Carries the features out of a forward pass, whose rest nobody needs."""

    def __init__(self, features: Tensor):
        super().__init__()
        self.features = features


def output_layer(saved: SavedModel) -> str:
    """Name of the layer whose outputs are, at their own resolution, the logits in evaluation mode.

    Raises:
        UsageError: nothing tells it: the network is the user's own, and its factory takes no number of outputs.
    """
    candidates = dict.fromkeys(name.rpartition(".")[0] for name in output_axes(saved.spec))
    if not candidates:
        raise UsageError(
            f"{saved.spec.name} takes no number of outputs that tells which layer makes them; specialists need a "
            "factory that does"
        )
    met: list[str] = []
    model = saved.model
    # Which of them run: an auxiliary head does not in evaluation mode.
    with flags_kept(model), torch.no_grad(), inputs_seen(model, candidates, lambda name, _inputs: met.append(name)):
        model.eval()(blank_image(model))
    return met[-1]


class LastFeatures(nn.Module):
    """Maps images [N, 3, H, W] to a network's last features [N, D, h, w]; what comes behind them is not computed.

    Attributes:
        network: the network.
        layer: name of its output layer.
    """

    def __init__(self, network: nn.Module, layer: str):
        super().__init__()
        self.network, self.layer = network, layer

    @property
    def channels(self) -> int:
        """D."""
        layer = self.network.get_submodule(self.layer)
        return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels

    def forward(self, images: Tensor) -> Tensor:
        """The features."""

        def see(_name: str, inputs: tuple[Tensor, ...]) -> None:
            raise _ReachedError(inputs[0])

        with inputs_seen(self.network, [self.layer], see):
            try:
                self.network(images)
            except _ReachedError as reached:
                return reached.features
        raise UsageError(f"{type(self.network).__name__} does not run its output layer {self.layer}")
