"""How scores are judged by what single channels are worth."""

from __future__ import annotations

from dataclasses import dataclass

from bench.config.declare import option
from bench.config.values import list_of, parse_some, positive, whole


@dataclass
class OracleOptions:
    """How methods' scores are compared with what single channels are really worth."""

    oracle: bool = option(False, "also remove channels one at a time and see how well each method's scores tell it")
    oracle_images: int = option(
        16, "training images on which --oracle measures the loss without a channel", parse=positive
    )
    oracle_units: int = option(32, "the most channels of a group that --oracle removes", parse=positive)
    oracle_ratios: list[float] = option(
        [0.1, 0.3, 0.5],
        "shares of the channels, the least important ones, on which --oracle compares the choices of methods",
        parse=list_of(parse_some),
    )
    oracle_seed: int = option(
        1000, "seed by which --oracle chooses images and channels, the same for every --seeds", parse=whole
    )
