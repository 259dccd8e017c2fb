"""Trains a segmentation network.

    python train.py --dataset camvid --data-root ./datasets/camvid --model resnet50_seg --epochs 300 \
        --batch-size 16 --save ./runs/camvid_resnet50_seg

Several processes: torchrun --nproc_per_node N train.py ...
"""

from __future__ import annotations

from pathlib import Path

from bench.cli.entry import run
from bench.cli.listings import add_listings, add_recipe, print_listing
from bench.cli.parser import Parser, collect
from bench.commands.shared import keys_of_commands
from bench.datasets.options import DataOptions
from bench.errors import UsageError
from bench.measure.options import ScoringOptions
from bench.models.options import ModelOptions
from bench.system.options import RunOptions
from bench.training.options import TrainOptions

COMMON = """
    --save --ckpt --resume --overwrite --dataset --data-root --input-size --num-workers --model --pretrained-backbone
    --list-models --recipe --list-recipes --epochs --batch-size --crop-size --optimizer --lr --amp --device --seed
    --threads
"""


def build_parser() -> Parser:
    """The command line of train.py."""
    parser = Parser(
        "train.py",
        "Trains a segmentation network; best.pt, last.pt and report.json go to --save.",
        common=COMMON,
        docstring=__doc__,
        elsewhere=keys_of_commands,
        trains_together=True,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--save", "--output-dir", metavar="DIR", help="folder of the run (required)")
    files.add_argument("--ckpt", metavar="FILE", help="weights to start from, dense or pruned")
    new_head = "begin with new output layers in place of those of --ckpt, as for other classes"
    parser.add_switch(files, "--reset-head", help=new_head)
    parser.add_switch(files, "--resume", help="go on with the run in --save after its last finished epoch")
    parser.add_switch(files, "--overwrite", help="replace the run in --save")
    parser.add_alternatives("resume", "overwrite")
    parser.add_alternatives("ckpt", "pretrained_backbone")
    add_recipe(parser)
    add_listings(parser, recipes=True)
    parser.add_options("data", DataOptions)
    parser.add_options("network", ModelOptions)
    parser.add_options("training", TrainOptions)
    parser.add_options("scoring", ScoringOptions)
    parser.add_options("run", RunOptions)
    return parser


def main(argv: list[str]) -> None:
    """Parses the command line and trains."""
    arguments = build_parser().parse(argv)
    if print_listing(arguments, argv):
        return
    if arguments.save is None:
        raise UsageError("--save DIR is missing; it names the folder of the run")

    from bench.jobs.training import train_model

    train_model(
        collect(DataOptions, arguments),
        collect(ModelOptions, arguments),
        collect(TrainOptions, arguments),
        collect(RunOptions, arguments),
        collect(ScoringOptions, arguments),
        Path(arguments.save),
        checkpoint=Path(arguments.ckpt) if arguments.ckpt else None,
        reset_head=arguments.reset_head,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
    )


if __name__ == "__main__":
    run(main)
