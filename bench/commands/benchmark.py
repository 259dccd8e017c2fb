"""Compares pruning methods: every method at every target with every seed, on the same baseline and data.

    python benchmark.py --config configs/quick.yaml
    python benchmark.py --dataset camvid --data-root ./datasets/camvid --model resnet50_seg \
        --baseline ./runs/camvid_resnet50_seg/best.pt --methods taylor,fpgm,fgp,sirfp --ratios 0.1 \
        --out-dir ./runs/camvid_benchmark
"""

from __future__ import annotations

from bench.cli.entry import run
from bench.cli.listings import add_listings, add_recipe, print_listing
from bench.cli.parser import Parser
from bench.cli.target_flags import target_fields
from bench.commands.comparing import benchmarks_of, compare_all
from bench.commands.shared import keys_of_commands
from bench.datasets.options import DataOptions
from bench.engine.options import IterativeOptions, PruneOptions
from bench.jobs.options import ControlOptions, GridOptions
from bench.measure.options import RobustnessOptions, ScoringOptions, TimingOptions
from bench.models.options import ModelOptions
from bench.oracle.options import OracleOptions
from bench.recover.options import RepairOptions
from bench.sweep.options import SweepOptions
from bench.system.options import RunOptions
from bench.training.options import DistillOptions, FinetuneOptions, TrainOptions

COMMON = """
    --recipe --baseline --out-dir --train-baseline --methods --ratios --seeds --target-macs --target-latency --opt
    --list-methods --list-models --dataset --data-root --input-size --num-workers --model --finetune-epochs --epochs
    --repair --latency --device --dry-run --threads
"""


def build_parser() -> Parser:
    """The command line of benchmark.py."""
    parser = Parser(
        "benchmark.py",
        "Compares pruning methods on one baseline. Jobs that are done are not done again; "
        "benchmark_summary.json/.csv/.md/.tex/.png/.svg and leaderboard.html go to --out-dir.",
        common=COMMON,
        docstring=__doc__,
        elsewhere=keys_of_commands,
        trains_together=True,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--baseline", metavar="FILE", help="the trained network (required)")
    files.add_argument("--out-dir", "--output-dir", metavar="DIR", help="folder of the results (required)")
    train_first = "train --baseline first, as a best.pt, where it is missing"
    parser.add_switch(files, "--train-baseline", help=train_first)
    parser.add_options("comparison", GridOptions)
    parser.add_alternatives(*target_fields("ratios").values(), "cells")
    for field in ("methods", "seeds"):
        parser.add_alternatives(field, "cells")
    methods = parser.add_argument_group("methods")
    parser.add_setting(methods, "--opt", metavar="METHOD.KEY=VALUE,...", help="options of the methods")
    add_recipe(parser)
    add_listings(parser, methods=True, recipes=True)
    parser.add_options("data", DataOptions)
    parser.add_options("network", ModelOptions)
    parser.add_options("pruning", PruneOptions)
    parser.add_options("repair after the cut", RepairOptions)
    parser.add_options("pruning in several cuts", IterativeOptions)
    parser.add_options("fine-tuning and training between cuts", FinetuneOptions)
    parser.add_options("training, of a missing baseline and, but for length and rate, of pruned networks", TrainOptions)
    parser.add_options("distillation, in fine-tuning and between cuts", DistillOptions)
    parser.add_options("controls", ControlOptions)
    parser.add_options("scoring", ScoringOptions)
    parser.add_options("robustness", RobustnessOptions)
    parser.add_options("timing", TimingOptions, skip=("per_layer",))
    parser.add_options("oracle", OracleOptions)
    parser.add_options("sweep", SweepOptions)
    parser.add_options("run", RunOptions)
    return parser


def main(argv: list[str]) -> None:
    """Parses the command line and runs the comparison."""
    parser = build_parser()
    study = benchmarks_of(parser, argv)
    if not print_listing(study[0], argv):
        compare_all(parser, study)


if __name__ == "__main__":
    run(main)
