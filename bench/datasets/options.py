"""Which images a network is given."""

from __future__ import annotations

from dataclasses import dataclass

from bench.config.declare import option
from bench.config.values import parse_size, whole


@dataclass
class DataOptions:
    """Which images, and how large the network sees them."""

    dataset: str | None = option(
        None,
        "data set: camvid, cityscapes, synthetic, or folder for images of your own (default: the checkpoint's, else "
        "synthetic)",
        parse=str,
    )
    data_root: str | None = option(
        None,
        "folder of the data set (default: the checkpoint's where that exists, else ./datasets/NAME)",
        parse=str,
        aliases=("data-path",),
        metavar="DIR",
    )
    input_size: tuple[int, int] | None = option(
        None,
        "size images are scaled to before the network; predictions are scored at the label's own size "
        "(default: the checkpoint's, else the data set's)",
        parse=parse_size,
        metavar="H,W",
    )
    cache: bool = option(False, "keep decoded images in RAM")
    num_workers: int = option(2, "processes that load images", parse=whole, aliases=("workers", "j"))
    data_check: str = option(
        "stat",
        "what tells that images or labels changed since a result was made, which is then done again: their names, "
        "sizes and times, and where these differ the content of splits up to 256 MiB (stat), or always their content, "
        "which takes reading them",
        choices=("stat", "content"),
    )
    classes_file: str | None = option(
        None,
        "of the data set folder: the file that names its classes (default: classes.yaml in it, else the checkpoint's)",
        parse=str,
        metavar="FILE",
        later=True,
    )
    split_seed: int | None = option(
        None,
        "of the data set folder, where it says of no split: seed that images are drawn for val and test with (default: "
        "the checkpoint's, else that of classes.yaml, else 0)",
        parse=whole,
        later=True,
    )
