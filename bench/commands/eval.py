"""Measures a network beside its baseline, or a baseline alone: quality, cost, latency.

    python eval.py --dataset camvid --data-root ./datasets/camvid --model resnet50_seg \
        --baseline ./runs/camvid_resnet50_seg/best.pt --candidate ./runs/taylor_pruned/pruned_model.pt \
        --report ./runs/taylor_pruned/report.json
"""

from __future__ import annotations

from pathlib import Path

from bench.cli.checks import refuse_changes, require_flags
from bench.cli.entry import run
from bench.cli.listings import add_listings, print_listing
from bench.cli.parser import Parser, collect
from bench.commands.shared import baseline_of, keys_of_commands
from bench.datasets.options import DataOptions
from bench.measure.options import Int8Options, RobustnessOptions, ScoringOptions, TimingOptions
from bench.models.options import ModelOptions
from bench.report.options import PageOptions
from bench.system.options import RunOptions

COMMON = """
    --baseline --candidate --report --picture --predict --list-models --dataset --data-root --input-size --num-workers
    --model --split --flip --latency --latency-batch --per-layer --html --int8 --device --seed --threads
"""


def build_parser() -> Parser:
    """The command line of eval.py."""
    parser = Parser(
        "eval.py",
        "Measures a candidate beside the baseline, or the baseline alone; writes a JSON report.",
        common=COMMON,
        docstring=__doc__,
        elsewhere=keys_of_commands,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--baseline", metavar="FILE", help="the unpruned network (required)")
    files.add_argument("--candidate", metavar="FILE", help="the network to compare with the baseline (default: none)")
    files.add_argument("--report", metavar="FILE", help="the JSON report to write (required unless --predict is given)")
    files.add_argument("--picture", metavar="FILE.png", help="also draw one image: input, label, predictions")
    number = "which image of the split --picture draws (default: 0)"
    parser.add_value(files, "--picture-index", int, metavar="N", default=0, help=number)
    files.add_argument(
        "--predict", metavar="DIR", help="write the predictions of the candidate, or else of the baseline, as PNGs"
    )
    files.add_argument(
        "--predict-ids",
        choices=("train", "label"),
        help="what the pixels of --predict hold: the numbers the network is trained on (default), or the ids of the "
        "data set's label files, which its evaluation server wants",
    )
    add_listings(parser)
    parser.add_options("data", DataOptions)
    parser.add_options("network", ModelOptions, skip=("pretrained_backbone",))
    parser.add_options("scoring", ScoringOptions)
    parser.add_options("robustness", RobustnessOptions)
    parser.add_options("timing", TimingOptions)
    parser.add_options("page", PageOptions)
    parser.add_options("int8", Int8Options)
    parser.add_options("run", RunOptions)
    return parser


def main(argv: list[str]) -> None:
    """Parses the command line and measures."""
    arguments = build_parser().parse(argv)
    if print_listing(arguments, argv):
        return
    require_flags(arguments, "baseline", *(() if arguments.predict else ("report",)))
    if arguments.int8:
        require_flags(arguments, "report")
        modes = ("latency_amp", "latency_compile")
        refuse_changes(arguments, "--int8 times networks in their own precision", TimingOptions, modes)
    if arguments.predict_ids:
        require_flags(arguments, "predict")

    from bench.jobs.evaluation import draw_pair, evaluate_pair, write_predictions
    from bench.jobs.int8 import check_int8, measure_int8
    from bench.measure.evaluation_report import layers_of
    from bench.report.console_tables import int8_table, layers_table, pair_table
    from bench.system.console import console, say

    baseline = baseline_of(arguments, arguments.baseline)
    candidate = Path(arguments.candidate) if arguments.candidate else None
    if arguments.int8:
        check_int8(baseline)
    # First, because it takes a moment and finds a wrong index before the whole split is scored.
    if arguments.picture:
        draw_pair(baseline, candidate, arguments.picture_index, Path(arguments.picture))
        say(f"-> {arguments.picture}")
    if arguments.predict:
        label_ids = arguments.predict_ids == "label"
        count = write_predictions(baseline, candidate, Path(arguments.predict), label_ids=label_ids)
        say(f"{count} predictions of {baseline.split} -> {arguments.predict}")
    if not arguments.report:
        return
    path, page = Path(arguments.report), collect(PageOptions, arguments)
    report = evaluate_pair(baseline, candidate, path, page, corruptions=arguments.corruptions)
    console().print(pair_table(report))
    if report["layers"]:
        console().print(layers_table(layers_of(report), report["layers_timed"]))
    say(f"-> {path}" + (f" and {path.with_suffix('.html').name}" if page.html else ""))
    if arguments.int8:
        folder, choice = path.parent, collect(Int8Options, arguments)
        console().print(int8_table(measure_int8(baseline, report, folder, choice, arguments.seed)))
        say(f"-> {folder / 'int8_report.json'} and *_int8.onnx beside it")


if __name__ == "__main__":
    run(main)
