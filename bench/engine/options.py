"""What a pruning removes, and in how many cuts."""

from __future__ import annotations

from dataclasses import dataclass

from bench.config.declare import option
from bench.config.values import list_of, parse_kept, parse_ratio, parse_ratios, positive, whole

OBJECTIVES = ("channels", "macs", "params", "latency")
"""What a plan can save: `channels` counts each channel as one, so that importance alone decides."""


@dataclass
class PruneOptions:
    """What to remove, by which method, on which calibration images."""

    scope: str | None = option(
        None,
        "rank channels over the whole network, within each group, or among groups of the same structure "
        "(default: the method's)",
        choices=("global", "local", "isomorphic"),
    )
    min_keep: float = option(0.02, "smallest share of a group's channels that stays", parse=parse_ratio)
    max_ratio: float = option(1.0, "largest share of a group's channels that goes", parse=parse_kept)
    round_to: int = option(1, "keep multiples of N channels in groups that have as many", parse=positive)
    ratio_of: dict[str, float] = option(
        {},
        "shares that single groups lose, by name pattern such as 'classifier*' of resnet50_seg, whatever the target",
        parse=parse_ratios,
        metavar="PATTERN=R,...",
    )
    ignore: list[str] = option(
        [],
        "layers to leave whole: name patterns such as 'backbone_net.7*', the last stage of resnet50_seg "
        "(prune.py --list-groups shows the names)",
        parse=list_of(str),
    )
    protect_first: bool = option(False, "leave the first layer whole")
    calib_images: int = option(64, "training images that data-driven methods see", parse=positive)
    calib_batch_size: int = option(
        4, "images a batch of those that data-driven methods see; part of a method's definition", parse=positive
    )
    recalibrate: bool = option(True, "re-estimate BatchNorm statistics on training images after the cut")
    evaluate: bool = option(True, "score the network right after the cut and after recalibration")
    recalibration_images: int = option(
        128, "training images on which BatchNorm statistics are re-estimated", parse=positive
    )
    reconstruction_images: int = option(
        8, "training images on which logits before and after the cut are compared; 0 compares none", parse=whole
    )
    reconstruction_layers: list[str] = option(
        [],
        "groups whose features before and after the cut are compared too, beside the logits: name patterns such as "
        "'backbone_net.7*' of resnet50_seg",
        parse=list_of(str),
    )
    absorb_bias: bool = option(False, "old spelling of --repair bias")
    objective: str = option(
        "channels",
        "what a channel's importance is weighed against: nothing, or the MACs, parameters or time on this device that "
        "it saves",
        choices=OBJECTIVES,
        later=True,
    )
    sensitivity_curves: str | None = option(
        None,
        "for --objective with methods that rank channels only within a layer: the sensitivity.json that "
        "prune.py --sensitivity wrote, or `measure` to measure each group once",
        parse=str,
        metavar="FILE",
        later=True,
    )
    refine: int = option(
        0,
        "with --objective: try so many other weightings of the groups and take the plan of least loss on the "
        "calibration images",
        parse=whole,
        later=True,
    )
    check: bool | None = option(
        None,
        "prune.py: try out what can be pruned of --ckpt or of a fresh --model, and exit; --no-check believes the trace "
        "of the groups without trying them out (default: they are tried out)",
        later=True,
    )

    @property
    def tries_groups(self) -> bool:
        """Whether groups are tried out before they are believed."""
        return self.check is not False


CHANNEL_LIMITS = (
    *("scope", "min_keep", "max_ratio", "round_to", "ratio_of", "absorb_bias"),
    *("objective", "sensitivity_curves", "refine"),
)
"""Fields of `PruneOptions` that bound channels alone: of no use to a method that removes none."""


@dataclass
class IterativeOptions:
    """Pruning in several cuts, with new scores before each."""

    iterations: int = option(1, "cuts on the way to the target, each after new scores", parse=positive)
    ratio_schedule: str = option(
        "linear",
        "goals of the cuts of --iterations: equal shares of the dense network, or of what the cut before left",
        choices=("linear", "exponential"),
    )
    finetune_between: int = option(0, "training steps between two cuts of --iterations", parse=whole)
