"""Fine-tunes every pruned network of a benchmark by the same recipe.

    python finetune_batch.py --benchmark-dir ./runs/camvid_benchmark --dataset camvid \
        --data-root ./datasets/camvid --model resnet50_seg --baseline ./runs/camvid_resnet50_seg/best.pt \
        --finetune-epochs 20
"""

from __future__ import annotations

from pathlib import Path

from bench.cli.parser import Parser, add_listings, collect, print_listing, require_flags, run
from bench.config.options import (
    DataOptions,
    DistillOptions,
    FinetuneOptions,
    MeasureOptions,
    ModelOptions,
    RunOptions,
    TrainOptions,
)


def build_parser() -> Parser:
    """The command line of finetune_batch.py."""
    parser = Parser(
        "finetune_batch.py",
        "Fine-tunes every pruned network of a benchmark; finetuned_model.pt and finetuned_report.json go beside "
        "each pruned_model.pt, finetuned_summary.json/.csv/.md/.png to --benchmark-dir.",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--benchmark-dir", metavar="DIR", help="--out-dir of benchmark.py (required)")
    files.add_argument("--baseline", metavar="FILE", help="the unpruned network (required)")
    add_listings(parser)
    parser.add_options("data", DataOptions)
    parser.add_options("network", ModelOptions, skip=("pretrained_backbone",), model=None)
    parser.add_options("fine-tuning", FinetuneOptions, finetune_epochs=20)
    parser.add_options("training", TrainOptions, skip=("epochs", "lr"))
    parser.add_options("distillation", DistillOptions)
    parser.add_options("measuring", MeasureOptions, skip=("per_layer",))
    parser.add_options("run", RunOptions)
    return parser


def main(argv: list[str]) -> None:
    """Parses the command line and fine-tunes."""
    arguments = build_parser().parse(argv)
    if print_listing(arguments):
        return
    require_flags(arguments, "benchmark_dir", "baseline")

    from bench.errors import UsageError
    from bench.jobs.pruning import open_baseline
    from bench.jobs.sweep import check_outcome, finetune_benchmark, finetune_recipe
    from bench.report.console_tables import comparison_table
    from bench.report.summary_record import baseline_record
    from bench.system.console import console, say
    from bench.training.distillation import distillation_of

    recipe = finetune_recipe(collect(TrainOptions, arguments), collect(FinetuneOptions, arguments))
    if recipe is None:
        raise UsageError("--finetune-epochs 0 fine-tunes nothing; ask for at least 1")
    out, options = Path(arguments.benchmark_dir), collect(RunOptions, arguments)
    data, measure = collect(DataOptions, arguments), collect(MeasureOptions, arguments)
    baseline = open_baseline(arguments.baseline, data, options, measure, model=arguments.model)
    taught = distillation_of(collect(DistillOptions, arguments), baseline.saved.model, baseline.digest)
    rows = finetune_benchmark(baseline, recipe, options, out, taught)
    console().print(comparison_table(baseline_record(baseline), rows))
    say(f"-> {out / 'finetuned_summary.json'}, .csv, .md and .png")
    check_outcome(rows, out)


if __name__ == "__main__":
    run(main)
