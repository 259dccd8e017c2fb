"""SIRFP: a channel's importance is how little the feature maps of others repeat its own in the same places.

Wu et al., Structural Pruning via Spatial-aware Information Redundancy for Semantic Segmentation, AAAI 2025,
https://arxiv.org/abs/2412.12672
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup
from bench.config.declare import option
from bench.errors import BenchError, UsageError
from bench.models.backbone import in_backbone
from bench.plan.pruning_plan import Scores
from bench.pruners.base import Calibration, Pruner
from bench.pruners.sirfp.redundancy import FeatureAverages, matched, removal_scores
from bench.torch_utils.batches import batchnorm_explained
from bench.torch_utils.contexts import batch_statistics
from bench.torch_utils.hooks import channels_first, outputs_seen


@dataclass(frozen=True)
class Sirfp(Pruner):
    """Redundancy within a layer, by the released recipe; backbone and rest are ranked apart."""

    edge_weight: float = option(0.4, "weight of the edges in the backbone; 0: redundancy alone")
    area_normalise: bool = option(False, "whether redundancy is multiplied by the map's number of pixels")
    ema: float = option(0.999, "weight of earlier batches in the averages, in [0, 1)")

    name: ClassVar[str] = "sirfp"
    paper: ClassVar[str] = (
        "Wu et al., Structural Pruning via Spatial-aware Information Redundancy for Semantic Segmentation, AAAI 2025"
    )
    scope: ClassVar[str] = "global"
    comparable: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.edge_weight < 0:
            raise UsageError(f"option edge_weight of sirfp must be at least 0, not {self.edge_weight}")
        if not 0 <= self.ema < 1:
            raise UsageError(f"option ema of sirfp must be in [0, 1), not {self.ema}")

    def pools(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, str]:
        return {group.name: _pool(model, group.name) for group in groups}

    @torch.no_grad()
    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        members = {group.name: [producer.norm or producer.layer for producer in group.producers] for group in groups}
        names = dict.fromkeys(member.layer for found in members.values() for member in found)
        of_layers = self.layer_scores(model, names, calibration)
        pools: dict[str, list[Tensor]] = defaultdict(list)
        parts: dict[str, list[tuple[str, Tensor]]] = defaultdict(list)
        for group in groups:
            for member in members[group.name]:
                if member.layer in of_layers:
                    pool, score = _pool(model, member.layer), member.gather(of_layers[member.layer], group.channels)
                    pools[pool].append(score)
                    parts[group.name].append((pool, score))
        among = {pool: torch.cat(scores) for pool, scores in pools.items()}
        return {name: _merged(found, among) for name, found in parts.items()}

    def layer_scores(self, model: nn.Module, names: Iterable[str], calibration: Calibration) -> dict[str, Tensor]:
        """Layer -> float64 [width], for those of the layers that run."""
        layers = dict(model.named_modules())
        device = next(model.parameters()).device
        averages = {
            name: FeatureAverages(
                self.ema, edges=self.edge_weight > 0 and in_backbone(model, name), per_area=self.area_normalise
            )
            for name in names
        }

        def measure(name: str, output: Tensor) -> None:
            averages[name].add(channels_first(layers[name], output).float())

        with outputs_seen(model, names, measure), batch_statistics(model), batchnorm_explained("`calib_batch_size`"):
            for images, _ in calibration.batches:
                model(images.to(device))
        scores = {}
        for name, average in averages.items():
            if not average.is_empty:
                scores[name] = removal_scores(average.redundancy(), self.edge_weight * average.edges())
                if not torch.isfinite(scores[name]).all():
                    raise BenchError(f"the features of {name} are not finite; the checkpoint is not usable")
        return scores


def _merged(members: Sequence[tuple[str, Tensor]], pools: Mapping[str, Tensor]) -> Tensor:
    """The largest of the scores that the members of a group give a channel, at the scale of the first one's pool.

    So a channel stays where any member's own pool would keep it.

    Args:
        members: pool and scores [C] of each.
        pools: pool -> the scores of all members in it.
    """
    own = members[0][0]
    return torch.stack(
        [score if pool == own else matched(score, pools[pool], pools[own]) for pool, score in members]
    ).amax(dim=0)  # fmt: skip


def _pool(model: nn.Module, layer: str) -> str:
    return "backbone" if in_backbone(model, layer) else "rest"
