"""Compares pruning methods: every method at every target with every seed, on the same baseline and data.

    python benchmark.py --config configs/quick.yaml
    python benchmark.py --dataset camvid --data-root ./datasets/camvid --model resnet50_seg \
        --baseline ./runs/camvid_resnet50_seg/best.pt --methods taylor,fpgm,fgp,sirfp --ratios 0.1 \
        --out-dir ./runs/camvid_benchmark
"""

from __future__ import annotations

from pathlib import Path

from bench.cli.checks import require_flags
from bench.cli.entry import run
from bench.cli.listings import add_listings, add_recipe, print_listing
from bench.cli.method_flags import settings_of_methods
from bench.cli.parser import Parser, collect
from bench.cli.target_flags import chosen_goals, target_fields
from bench.commands.shared import baseline_of, check_request, keys_of_commands, look_at_records, session_of
from bench.datasets.options import DataOptions
from bench.engine.options import IterativeOptions, PruneOptions
from bench.jobs.options import GridOptions
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models.options import ModelOptions
from bench.oracle.options import OracleOptions
from bench.recover.options import RepairOptions
from bench.system.options import RunOptions
from bench.training.options import DistillOptions, FinetuneOptions, TrainOptions

COMMON = """
    --recipe --baseline --out-dir --train-baseline --methods --ratios --seeds --target-macs --target-latency --opt
    --list-methods --list-models --dataset --data-root --input-size --num-workers --model --finetune-epochs --epochs
    --repair --latency --device --seed --threads
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
    )
    files = parser.add_argument_group("files")
    files.add_argument("--baseline", metavar="FILE", help="the trained network (required)")
    files.add_argument("--out-dir", "--output-dir", metavar="DIR", help="folder of the results (required)")
    train_first = "train --baseline first, as a best.pt, where it is missing"
    parser.add_switch(files, "--train-baseline", help=train_first)
    parser.add_options("comparison", GridOptions)
    parser.add_alternatives(*target_fields("ratios").values())
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
    parser.add_options("scoring", ScoringOptions)
    parser.add_options("timing", TimingOptions, skip=("per_layer",))
    parser.add_options("oracle", OracleOptions)
    parser.add_options("run", RunOptions)
    return parser


def main(argv: list[str]) -> None:
    """Parses the command line and runs the comparison."""
    arguments = build_parser().parse(argv)
    if print_listing(arguments, argv) or look_at_records(arguments):
        return
    require_flags(arguments, "baseline", "out_dir")
    goals = chosen_goals(arguments, "ratios")
    training, distill = collect(TrainOptions, arguments), collect(DistillOptions, arguments)
    choice, oracle = collect(GridOptions, arguments), collect(OracleOptions, arguments)
    seeds = choice.seeds or [arguments.seed]

    from bench.engine.cut_schedule import schedule_of
    from bench.jobs.sweep import check_outcome, finetune_recipe, grid, run_benchmark
    from bench.jobs.training import ensure_baseline
    from bench.oracle.agreement_table import agreement_table
    from bench.oracle.compare_scores import measure_agreement
    from bench.pruners import make_pruners
    from bench.report.console_tables import comparison_table
    from bench.report.summary_record import baseline_record
    from bench.system.console import console, say
    from bench.system.files import make_folder
    from bench.training.distillation import distillation_of

    # Everything that can be wrong with the request is found before the first minute of work.
    settings = settings_of_methods(arguments, choice.methods)
    pruners, finetune = make_pruners(choice.methods, settings), collect(FinetuneOptions, arguments)
    schedule = schedule_of(collect(IterativeOptions, arguments), training, finetune, distill)
    check_request(collect(PruneOptions, arguments), schedule, pruners.values(), goals)
    out, checkpoint = make_folder(arguments.out_dir), Path(arguments.baseline)
    if arguments.train_baseline:
        groups = (DataOptions, ModelOptions, TrainOptions, RunOptions, ScoringOptions, TimingOptions)
        ensure_baseline(checkpoint, *(collect(group, arguments) for group in groups), asked=arguments.given)
    baseline = baseline_of(arguments, checkpoint)
    session = session_of(arguments, baseline, out / "scores", schedule)
    jobs = grid(choice.methods, goals, seeds)
    taught = distillation_of(distill, baseline.saved.model, baseline.digest)
    rows = run_benchmark(session, pruners, jobs, finetune_recipe(training, finetune), out, taught)
    console().print(comparison_table(baseline_record(baseline), rows))
    say(f"-> {out / 'benchmark_summary.json'}, .csv, .md, .tex, .png and .svg, and {out / 'leaderboard.html'}")
    if oracle.oracle:
        console().print(agreement_table(measure_agreement(session, pruners, goals[0], seeds, oracle, out)))
    check_outcome(rows, out)


if __name__ == "__main__":
    run(main)
