"""How the layers behind a cut are repaired."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.config.declare import option
from bench.config.values import above_zero, positive, share
from bench.errors import UsageError

LEAST_SQUARES, BIAS, NONE = "least-squares", "bias", "none"


@dataclass
class RepairOptions:
    """How the layers behind a cut are made to give again what they gave, without training."""

    repair: str = option(
        NONE,
        "what is done for the layers that read removed channels: nothing; bias: add what these give without their "
        "input; least-squares: solve for the weights that come closest to the uncut network's outputs",
        choices=(NONE, BIAS, LEAST_SQUARES),
    )
    repair_images: int = option(16, "training images, without labels, that least squares look at", parse=positive)
    repair_positions: int = option(
        10, "positions looked at for each weight of a filter, over all images; never less than 16384", parse=positive
    )
    repair_lambda: float | None = option(
        None,
        "ridge towards the sliced weights, as a share of the inputs' mean variance (default: for each layer what "
        "serves held-out images best)",
        parse=above_zero,
    )
    repair_balance: float = option(
        0.5,
        "how much rare classes count: a position weighs 1 over the share of the class that the uncut network predicts "
        "there, to this power: at 1 each class as much as any other, at 0 each position",
        parse=share,
    )
    repair_limit: int = option(
        2500,
        "weights a filter may have to be solved for one by one; above, one matrix over the channels mends its kernel",
        parse=positive,
    )
    repair_trunk: bool = option(
        True, "let the last layer of a residual branch make up for what its shortcut has lost, too"
    )
    repair_statistics: str = option(
        "auto",
        "BatchNorm statistics to re-estimate after least squares: of all norms, of those behind layers that kept their "
        "weights, of none, or what loses least on held-out training images",
        choices=("auto", "all", "unrepaired", "none"),
    )
    repair_holdout: int = option(
        8,
        "training images, with labels, on which that is decided; no other step of the repair sees them",
        parse=positive,
    )

    @property
    def solves(self) -> bool:
        """Whether layers are solved for."""
        return self.repair == LEAST_SQUARES


def with_old_spelling(options: RepairOptions, absorb_bias: bool) -> RepairOptions:
    """The options with `absorb_bias`, the old spelling of `repair=bias`, taken into account.

    Raises:
        UsageError: both are given and contradict each other.
    """
    if not absorb_bias:
        return options
    if options.solves:
        raise UsageError("`absorb_bias` is the old spelling of `repair=bias`; leave it out with `repair=least-squares`")
    return replace(options, repair=BIAS)
