"""How classes are grouped, how small their specialists are, and how these are fused."""

from __future__ import annotations

from dataclasses import dataclass

from bench.config.declare import option
from bench.config.values import list_of, parse_ratio, positive


def parse_percent(text: str) -> float:
    """Percent of the parameters that are removed, in (0, 100): `'77'` -> 77.0."""
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        raise ValueError(f"'{text}' is not a number; write percent such as 77") from None
    if not 0 < percent < 100:
        raise ValueError(f"{text} is not in (0, 100); write percent such as 77")
    return percent


@dataclass
class GroupOptions:
    """What classes are compared by."""

    responses: str = option(
        "features",
        "what is averaged over the training pixels of each class: what the output layer reads, or logits",
        choices=("features", "logits"),
    )


@dataclass
class DeploymentOptions:
    """Which groupings are meant."""

    device_counts: list[int] = option(
        [],
        "numbers of devices whose groupings in deploy_inf.csv are meant (default: the one marked best)",
        parse=list_of(positive),
    )


@dataclass
class SpecialistOptions:
    """How much smaller than the baseline a specialist is."""

    params_reduction: float = option(0.77, "share of the parameters that a specialist is to lose", parse=parse_ratio)


@dataclass
class FusionOptions:
    """Which specialists are fused, by a head of which width, and when its training ends."""

    threshold: float = option(
        77.0, "percent of the parameters that the specialists lost, as in their files' names", parse=parse_percent
    )
    head_width: int = option(32, "channels of the fusion head", parse=positive)
    patience: int = option(5, "epochs without a better validation mIoU after which the training ends", parse=positive)
