"""Every option of every command, declared once: name, type, default, help.

A field becomes a command-line flag and a config key of the same name (`bench.cli.parser`) and reaches the
library as a typed value. No heavy import here: `--help` must answer in under a second.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from typing import Any

from bench.config.values import (
    above_zero,
    list_of,
    parse_boundary_width,
    parse_bytes,
    parse_kept,
    parse_latency,
    parse_ratio,
    parse_ratios,
    parse_size,
    parse_some,
    positive,
    share,
    whole,
)
from bench.errors import UsageError


def option(
    default: Any,
    help: str,
    *,
    parse: Callable[[str], Any] | None = None,
    aliases: tuple[str, ...] = (),
    choices: tuple[str, ...] | None = None,
    metavar: str | None = None,
) -> Any:
    """Declares a dataclass field that is also a command-line flag.

    Args:
        default: value without the flag; a bool makes a `--flag/--no-flag` pair.
        help: one line for `--help`.
        parse: turns the flag's text into the value and raises ValueError with a reason where it cannot;
            by default the type of `default`, text where that is None.
        aliases: further spellings of the flag.
        choices: the only accepted values.
        metavar: how the value is shown in `--help`.
    """
    meta = {"help": help, "parse": parse, "aliases": aliases, "choices": choices, "metavar": metavar}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: copy.copy(default), metadata=meta)
    return field(default=default, metadata=meta)


def default_of(spec: Any) -> Any:
    """The default value of a dataclass field."""
    return spec.default if spec.default is not MISSING else spec.default_factory()


@dataclass
class DataOptions:
    """Which images, and how large the network sees them."""

    dataset: str = option("synthetic", "data set: camvid, cityscapes or synthetic")
    data_root: str | None = option(
        None, "folder of the data set (default: ./datasets/NAME)", parse=str, aliases=("data-path",), metavar="DIR"
    )
    input_size: tuple[int, int] | None = option(
        None,
        "size images are scaled to before the network; predictions are scored at the label's own size "
        "(default: the checkpoint's, else the data set's)",
        parse=parse_size,
        metavar="H,W",
    )
    cache: bool = option(False, "keep decoded images in RAM")
    num_workers: int = option(2, "loader processes", parse=whole, aliases=("workers",))


@dataclass
class RunOptions:
    """Where and how reproducibly a command runs."""

    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    seed: int = option(0, "seed of everything random", parse=whole)
    threads: int | None = option(None, "CPU threads (default: torch's choice)", parse=positive)
    deterministic: bool = option(False, "only deterministic kernels (slower on CUDA)")


@dataclass
class TrainOptions:
    """One training run; fine-tuning is the same run from a pruned network."""

    epochs: int = option(300, "passes over the training images", parse=positive)
    batch_size: int = option(16, "images a step and process", parse=positive)
    crop_size: tuple[int, int] | None = option(
        None, "training crop (default: the data set's, else the input size)", parse=parse_size, metavar="H,W"
    )
    optimizer: str = option("sgd", "optimizer", choices=("sgd", "adamw"))
    lr: float = option(0.01, "initial learning rate", parse=above_zero)
    momentum: float = option(0.9, "SGD momentum", parse=share)
    weight_decay: float = option(1e-4, "weight decay", parse=share, aliases=("wd",))
    schedule: str = option("poly", "learning-rate schedule, per iteration", choices=("poly", "multistep"))
    poly_power: float = option(0.9, "power of the poly schedule", parse=above_zero)
    milestones: list[float] = option(
        [0.6, 0.8], "shares of the run after which multistep divides the rate by 10", parse=list_of(parse_ratio)
    )
    aux_weight: float = option(0.4, "weight of the auxiliary head's loss, where there is one", parse=share)
    compute_class_weights: bool = option(False, "weight the loss by median class frequency")
    grad_clip: float = option(0.0, "largest gradient norm; 0 does not clip", parse=share)
    accumulate: int = option(1, "batches whose gradients make one step", parse=positive)
    sparsity_lambda: float = option(
        0.0, "weight of the L1 penalty on BatchNorm scales (network slimming); 0 is none", parse=share
    )
    ema: float = option(0.0, "decay of an exponential moving average of the weights; 0 keeps none", parse=parse_ratio)
    amp: str = option("none", "mixed precision", choices=("none", "bf16", "fp16"))
    channels_last: bool = option(False, "channels-last memory format")
    eval_every: int = option(1, "epochs between validations", parse=positive)
    tensorboard: bool = option(False, "also log to TensorBoard")


@dataclass
class ModelOptions:
    """Which network, and which weights it starts from."""

    model: str = option("resnet50_seg", "network; --list-models names them", parse=str)
    pretrained_backbone: str | None = option(
        None, "torchvision-format backbone weights: a file, or 'imagenet' to download them", parse=str, metavar="FILE"
    )


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
        "shares that single groups lose, by name pattern, whatever the target",
        parse=parse_ratios,
        metavar="PATTERN=R,...",
    )
    ignore: list[str] = option(
        [], "layers to leave whole: name patterns such as 'backbone.layer4*'", parse=list_of(str)
    )
    protect_first: bool = option(False, "leave the first layer whole")
    calib_images: int = option(64, "training images that data-driven methods see", parse=positive)
    calib_batch_size: int = option(4, "images a calibration batch; part of a method's definition", parse=positive)
    recalibrate: bool = option(True, "re-estimate BatchNorm statistics on training images after the cut")
    evaluate: bool = option(True, "score the network right after the cut and after recalibration")
    recalibration_images: int = option(128, "training images for that", parse=positive)
    reconstruction_images: int = option(
        8, "training images on which logits before and after the cut are compared; 0 compares none", parse=whole
    )
    reconstruction_layers: list[str] = option(
        [], "groups whose features are compared too: name patterns such as 'backbone.layer4*'", parse=list_of(str)
    )
    absorb_bias: bool = option(
        False, "add what a removed channel gives without its input to the layers that read it, where that is a constant"
    )


# What of it bounds channels alone.
CHANNEL_LIMITS = ("scope", "min_keep", "max_ratio", "round_to", "ratio_of", "absorb_bias")


@dataclass
class IterativeOptions:
    """Pruning in several cuts, with new scores before each."""

    iterations: int = option(1, "cuts on the way to the target, each after new scores", parse=positive)
    ratio_schedule: str = option(
        "linear",
        "goals of the cuts: equal shares of the dense network, or of what the cut before left",
        choices=("linear", "exponential"),
    )
    finetune_between: int = option(0, "training steps between two cuts", parse=whole)


OF_EPOCHS = ("epochs", "eval_every", "tensorboard")
"""Fields of `TrainOptions` that training for a number of steps has no use for."""


@dataclass
class SensitivityOptions:
    """How each group's sensitivity to pruning is measured."""

    sensitivity_ratios: list[float] = option(
        [0.1, 0.3, 0.5, 0.7, 0.9], "shares of its channels that each group loses in turn", parse=list_of(parse_ratio)
    )
    sensitivity_images: int = option(64, "images each network is scored on, of --split or else train", parse=positive)
    sensitivity_drop: float = option(
        1.0, "mIoU points a group's ratio may cost to be written to sensitivity_ratios.yaml", parse=share
    )


@dataclass
class OracleOptions:
    """How methods' scores are compared with what single channels are really worth."""

    oracle: bool = option(False, "also remove channels one at a time and see how well each method's scores tell it")
    oracle_images: int = option(16, "training images the loss is measured on", parse=positive)
    oracle_units: int = option(32, "the most channels that are removed of a group", parse=positive)
    oracle_ratios: list[float] = option(
        [0.1, 0.3, 0.5], "shares of the least important channels that are compared", parse=list_of(parse_some)
    )
    oracle_seed: int = option(1000, "seed of those images and channels, the same for every --seeds", parse=whole)


@dataclass
class GridOptions:
    """Which methods are compared, how far each prunes, and how often."""

    methods: list[str] = option(["l1", "taylor", "random"], "methods; --list-methods names them", parse=list_of(str))
    ratios: list[float] = option(
        [], "shares of the prunable channels to remove, or of the weights to zero", parse=list_of(parse_ratio)
    )
    seeds: list[int] = option([], "seeds each (method, target) runs with (default: --seed)", parse=list_of(whole))
    target_macs: list[float] = option([], "instead of --ratios: shares of the MACs to keep", parse=list_of(parse_kept))
    target_params: list[float] = option(
        [], "instead of --ratios: shares of the parameters to keep", parse=list_of(parse_kept)
    )
    target_size: list[int] = option(
        [], "instead of --ratios: sizes of the saved tensors, such as 10MB", parse=list_of(parse_bytes)
    )
    target_latency: list[tuple[str, float]] = option(
        [],
        "instead of --ratios: shares of the baseline's latency to keep, or times on this device such as 12ms",
        parse=list_of(parse_latency),
    )


@dataclass
class FinetuneOptions:
    """Fine-tuning of a pruned network; what is not named here is as in training."""

    finetune_epochs: int = option(0, "epochs of fine-tuning after pruning; 0 does none", parse=whole)
    finetune_lr: float = option(0.005, "initial learning rate of fine-tuning", parse=above_zero)


@dataclass
class DistillOptions:
    """What a pruned network learns from the unpruned one when it is fine-tuned."""

    distill_weight: float = option(
        0.0,
        "weight, in the loss of fine-tuning, of the divergence from the unpruned network's class probabilities; "
        "0 leaves that network out",
        parse=share,
    )
    distill_temperature: float = option(1.0, "temperature that softens both probabilities", parse=above_zero)


@dataclass
class MeasureOptions:
    """What is measured on a finished network."""

    split: str | None = option(
        None, "split to score (default: test, or val where test has no labels)", choices=("train", "val", "test")
    )
    eval_batch_size: int = option(4, "images a batch when scoring", parse=positive)
    sliding_window: tuple[int, int] | None = option(
        None,
        "predict in windows of this size of the network's input and average the logits where they overlap "
        "(default: the whole image at once)",
        parse=parse_size,
        metavar="H,W",
    )
    stride: tuple[int, int] | None = option(
        None, "step between windows (default: two thirds of the window)", parse=parse_size, metavar="H,W"
    )
    scales: list[float] = option(
        [1.0], "average the logits over the image at these multiples of the input size", parse=list_of(above_zero)
    )
    flip: bool = option(False, "average the logits with those of the mirrored image")
    boundary_width: float = option(
        0.0,
        "also measure the boundary F-score with this tolerance in pixels of the label, or below 1 as a share of its "
        "diagonal; 0 does not",
        parse=parse_boundary_width,
    )
    latency: bool = option(True, "measure latency")
    latency_batch: int = option(0, "also time batches of N images (throughput); 0 does not", parse=whole)
    latency_amp: str = option("none", "mixed precision of what is timed", choices=("none", "bf16", "fp16"))
    latency_channels_last: bool = option(False, "time the networks in the channels-last memory format")
    latency_compile: bool = option(False, "time what torch.compile makes of the networks")
    latency_warmup: int = option(30, "untimed forward passes before timing", parse=whole)
    latency_runs: int = option(100, "timed forward passes a network", parse=positive)
    latency_seconds: float = option(
        30.0, "stop timing after this long even if runs are missing (never under 10 runs)", parse=above_zero
    )
    per_layer: bool = option(False, "also time every convolution and linear layer")


LATENCY_MODES = ("latency_amp", "latency_channels_last", "latency_compile")
"""Fields of `MeasureOptions` that make something else of the networks before they are timed."""

TIMING = (
    *("latency", "latency_batch", *LATENCY_MODES),
    *("latency_warmup", "latency_runs", "latency_seconds", "per_layer"),
)
"""Fields of `MeasureOptions` that a command which times nothing has no use for."""


@dataclass
class PageOptions:
    """The HTML page beside a report."""

    html: bool = option(True, "also write the report as a page with charts and images, REPORT.html beside the JSON")
    html_images: int = option(
        4,
        "the most images in it: those the two networks disagree on most, or the baseline alone is wrong on most",
        parse=whole,
    )


@dataclass
class Int8Options:
    """Quantisation after training."""

    int8: bool = option(False, "also quantise the candidate to int8 (CPU); int8_model.pt and int8_report.json")
    int8_images: int = option(64, "training images on which the ranges of its activations are observed", parse=positive)


def require(condition: bool, message: str) -> None:
    """Raises UsageError(message) unless the condition holds."""
    if not condition:
        raise UsageError(message)
