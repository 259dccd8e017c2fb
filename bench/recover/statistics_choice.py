"""Which BatchNorm statistics to re-estimate after a repair, by what it does to the loss on images of its own.

A repaired layer gives what the layer before the cut gave, for which the old statistics hold; new ones fit what it gives
now, which is less. Neither is always better, so it is measured.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.recover.recalibration import recalibrate
from bench.recover.repair import Repair
from bench.torch_utils.batches import Batch
from bench.torch_utils.contexts import flags_kept
from bench.training.losses import segmentation_loss

# The old statistics stay unless others lose less by this share: so much a few images may say by chance.
_MARGIN = 0.01


@torch.no_grad()
def settle_statistics(
    network: nn.Module, done: Repair, rule: str, batches: Sequence[Batch], held: Sequence[Batch], ignore_index: int
) -> dict[str, Any]:
    """Re-estimates the statistics that a rule names, in place.

    Args:
        network: a repaired network.
        done: what the repair did.
        rule: `none`; `unrepaired`: those of norms that are not right behind a layer that gives again what it gave;
            `all`; `auto`: whichever of these loses least.
        batches: what statistics are estimated on.
        held: images with labels at their size, for `auto`; of losses that are alike the rule named first is taken.
        ignore_index: label that does not count.

    Returns:
        `rule`, the one `chosen`, and the `losses` that decided, by rule.
    """
    device = next(network.parameters()).device
    norms = {name for name, layer in network.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)}
    stay = {"none": norms, "unrepaired": norms & done.settled_norms, "all": set()}
    if rule != "auto":
        _estimate(network, batches, device, stay[rule], norms)
        return {"rule": rule, "chosen": rule, "losses": {}}
    best, chosen, losses = network, "none", {}
    for name, settled in stay.items():
        if settled in [stay[other] for other in losses]:
            continue  # the same statistics under another name
        tried = network if name == "none" else copy.deepcopy(network)
        _estimate(tried, batches, device, settled, norms)
        losses[name] = _loss(tried, held, ignore_index, device)
        if losses[name] < (1 - _MARGIN) * losses[chosen]:
            best, chosen = tried, name
    if best is not network:
        network.load_state_dict(best.state_dict())
    return {"rule": rule, "chosen": chosen, "losses": losses}


def _estimate(
    network: nn.Module, batches: Sequence[Batch], device: torch.device, settled: set[str], norms: set[str]
) -> None:
    if settled != norms:
        recalibrate(network, batches, device, but=settled)


def _loss(network: nn.Module, held: Sequence[Batch], ignore_index: int, device: torch.device) -> float:
    """Mean cross-entropy over the images."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    with flags_kept(network):
        network.eval()
        for images, labels in held:
            logits: Tensor = network(images.to(device))
            total += len(images) * segmentation_loss(logits, labels.to(device), ignore_index).double().cpu()
            count += len(images)
    return float(total) / count
