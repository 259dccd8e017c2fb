"""What is measured on a finished network, and how."""

from __future__ import annotations

from dataclasses import dataclass

from bench.config.declare import option
from bench.config.values import above_zero, list_of, parse_boundary_width, parse_size, positive, whole


@dataclass
class ScoringOptions:
    """How well a network does: on which images, and how it is shown them."""

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
        None,
        "step between the windows of --sliding-window (default: two thirds of a window)",
        parse=parse_size,
        metavar="H,W",
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


@dataclass
class TimingOptions:
    """How long networks take: whether that is measured, in which mode, with which effort."""

    latency: bool = option(True, "measure latency")
    latency_batch: int = option(0, "also time batches of N images (throughput); 0 does not", parse=whole)
    latency_amp: str = option("none", "mixed precision of what is timed", choices=("none", "bf16", "fp16"))
    latency_channels_last: bool | None = option(
        None,
        "time all networks in the channels-last memory format, or with --no- all contiguous (default: in the one that "
        "is faster for the dense network on this device, which is measured)",
    )
    latency_compile: bool = option(False, "time what torch.compile makes of the networks")
    latency_warmup: int = option(30, "untimed forward passes before timing", parse=whole)
    latency_runs: int = option(100, "timed forward passes a network", parse=positive)
    latency_seconds: float = option(
        30.0, "stop timing after this long even if runs are missing (never under 10 runs)", parse=above_zero
    )
    per_layer: bool = option(False, "also time every convolution and linear layer")


@dataclass
class RobustnessOptions:
    """Images that something has befallen."""

    corruptions: bool = option(
        False, "also score networks under noise, blur, fog, brightness, contrast and JPEG, each at three severities"
    )


@dataclass
class Int8Options:
    """Quantisation after training."""

    int8: bool = option(
        False, "also measure the networks in int8, as ONNX files on the CPU; *_int8.onnx and int8_report.json"
    )
    int8_images: int = option(64, "training images on which --int8 finds the ranges of activations", parse=positive)
    int8_float_ends: bool = option(False, "leave the first and the last layer of --int8 in float32")
