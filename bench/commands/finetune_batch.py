"""Fine-tunes every pruned network of a benchmark by the same recipe.

    python finetune_batch.py --benchmark-dir ./runs/camvid_benchmark --dataset camvid \
        --data-root ./datasets/camvid --model resnet50_seg --baseline ./runs/camvid_resnet50_seg/best.pt \
        --finetune-epochs 20
"""

from __future__ import annotations

from pathlib import Path

from bench.cli.checks import require_flags
from bench.cli.entry import run
from bench.cli.listings import add_listings, add_recipe, print_listing
from bench.cli.parser import Parser, collect
from bench.cli.target_flags import goals_among, target_fields
from bench.commands.shared import baseline_of, keys_of_commands
from bench.datasets.options import DataOptions
from bench.jobs.options import GridOptions
from bench.measure.options import RobustnessOptions, ScoringOptions, TimingOptions
from bench.models.options import ModelOptions
from bench.system.options import RunOptions
from bench.training.options import DistillOptions, FinetuneOptions, TrainOptions

COMMON = """
    --recipe --benchmark-dir --baseline --methods --ratios --seeds --list-models --dataset --data-root --input-size
    --num-workers --model --finetune-epochs --finetune-lr --batch-size --crop-size --amp --distill-weight --latency
    --device --seed --threads
"""


def build_parser() -> Parser:
    """The command line of finetune_batch.py."""
    parser = Parser(
        "finetune_batch.py",
        "Fine-tunes the pruned networks of a benchmark; finetuned_model.pt and finetuned_report.json go beside "
        "each pruned_model.pt, finetuned_summary.json/.csv/.md/.png to --benchmark-dir.",
        common=COMMON,
        docstring=__doc__,
        elsewhere=keys_of_commands,
        trains_together=True,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--benchmark-dir", metavar="DIR", help="--out-dir of benchmark.py (required)")
    files.add_argument("--baseline", metavar="FILE", help="the unpruned network (required)")
    parser.add_options("which networks (default: all)", GridOptions, skip=("report_only",), methods=[])
    parser.add_alternatives(*target_fields("ratios").values())
    add_recipe(parser)
    add_listings(parser, recipes=True)
    parser.add_options("data", DataOptions)
    parser.add_options("network", ModelOptions, skip=("pretrained_backbone",))
    parser.add_options("fine-tuning", FinetuneOptions, finetune_epochs=20)
    parser.add_options("training", TrainOptions, skip=("epochs", "lr"))
    parser.add_options("distillation", DistillOptions)
    parser.add_options("scoring", ScoringOptions)
    parser.add_options("robustness", RobustnessOptions)
    parser.add_options("timing", TimingOptions, skip=("per_layer",))
    parser.add_options("run", RunOptions)
    return parser


def main(argv: list[str]) -> None:
    """Parses the command line and fine-tunes."""
    arguments = build_parser().parse(argv)
    if print_listing(arguments, argv):
        return
    require_flags(arguments, "benchmark_dir", "baseline")

    from bench.errors import UsageError
    from bench.jobs.selection import Selection
    from bench.report.console_tables import comparison_table
    from bench.report.summary_record import baseline_record
    from bench.sweep.finetune_all import finetune_benchmark, finetune_recipe
    from bench.sweep.grid import check_outcome
    from bench.sweep.several_processes import dismissing, leads, led
    from bench.system.console import console, say
    from bench.training.distillation import distillation_of

    recipe = finetune_recipe(collect(TrainOptions, arguments), collect(FinetuneOptions, arguments))
    if recipe is None:
        raise UsageError("--finetune-epochs 0 fine-tunes nothing; ask for at least 1")
    out, choice = Path(arguments.benchmark_dir), collect(GridOptions, arguments)
    goals = goals_among(arguments, "ratios")
    typed = arguments.typed | ({"goals"} if arguments.typed & set(target_fields("ratios").values()) else set())
    selection = Selection(choice.methods, goals, choice.seeds, typed)
    with led(arguments.device), dismissing():
        baseline = baseline_of(arguments, arguments.baseline, benchmark=out, selection=selection)
        if not leads(baseline):
            return
        taught = distillation_of(collect(DistillOptions, arguments), baseline.saved.model, baseline.digest)
        rows = finetune_benchmark(baseline, recipe, out, taught, selection, corruptions=arguments.corruptions)
        console().print(comparison_table(baseline_record(baseline), rows))
        say(f"-> {out / 'finetuned_summary.json'}, .csv, .md and .png")
        check_outcome(rows, out)


if __name__ == "__main__":
    run(main)
