"""Prunes a trained network by one method.

    python prune.py --dataset camvid --data-root ./datasets/camvid --model resnet50_seg \
        --ckpt ./runs/camvid_resnet50_seg/best.pt --method taylor --global-ratio 0.1 \
        --save ./runs/taylor_pruned --input-size 360,480
"""

from __future__ import annotations

from bench.cli import Parser, add_listings, chosen_goals, collect, print_listing, refuse_flags, require_flags, run
from bench.options import (
    OF_EPOCHS,
    DataOptions,
    FinetuneOptions,
    IterativeOptions,
    MeasureOptions,
    ModelOptions,
    PruneOptions,
    RunOptions,
    SensitivityOptions,
    TrainOptions,
    parse_bytes,
    parse_kept,
    parse_ratio,
    require,
)


def build_parser() -> Parser:
    """The command line of prune.py."""
    parser = Parser("prune.py", "Prunes a trained network; pruned_model.pt and pruning_info.json go to --save.")
    files = parser.add_argument_group("files")
    files.add_argument("--ckpt", metavar="FILE", help="the trained network (required)")
    files.add_argument("--save", "--output-dir", metavar="DIR", help="folder of the result (required)")
    method = parser.add_argument_group("method")
    method.add_argument("--method", metavar="NAME", help="pruning method (required); --list-methods names them")
    parser.add_setting(method, "--opt", metavar="KEY=VALUE,...", help="options of the method")
    target = parser.add_argument_group("target (exactly one, or --sensitivity)")
    for flag, parse, metavar, text in (
        ("--global-ratio", parse_ratio, "R", "share of the prunable channels to remove"),
        ("--target-macs", parse_kept, "R", "share of the MACs to keep"),
        ("--target-params", parse_kept, "R", "share of the parameters to keep"),
        ("--target-size", parse_bytes, "SIZE", "most bytes of the tensors in the saved file, such as 10MB"),
    ):
        parser.add_value(target, flag, parse, metavar=metavar, help=text)
    target.add_argument(
        "--sensitivity", action="store_true", help="measure what each group by itself can lose, and exit"
    )
    add_listings(parser).add_argument(
        "--list-groups",
        action="store_true",
        help="show the coupled channels of --ckpt, or of a fresh --model, and exit",
    )
    parser.add_options("data", DataOptions)
    parser.add_options("network", ModelOptions, skip=("pretrained_backbone",), model=None)
    parser.add_options("pruning", PruneOptions)
    parser.add_options("pruning in several cuts", IterativeOptions)
    parser.add_options("learning rate between cuts", FinetuneOptions, skip=("finetune_epochs",))
    parser.add_options("training between cuts", TrainOptions, skip=("lr", *OF_EPOCHS))
    parser.add_options("sensitivity", SensitivityOptions)
    parser.add_options("measuring", MeasureOptions)
    parser.add_options("run", RunOptions)
    return parser


def main(argv: list[str]) -> None:
    """Parses the command line and prunes."""
    arguments = build_parser().parse(argv)
    if print_listing(arguments):
        return
    if arguments.list_groups:
        from bench.console import console
        from bench.pipeline import groups_of
        from bench.report import groups_table

        choice = collect(PruneOptions, arguments)
        console().print(groups_table(groups_of(arguments.ckpt, arguments.model, arguments.dataset, choice)))
        return
    require_flags(arguments, "ckpt", "method", "save")
    if arguments.sensitivity:
        refused = ("global_ratio", "target_macs", "target_params", "target_size", "ratio_of")
        refuse_flags(arguments, "--sensitivity has ratios of its own", *refused)
        require(arguments.iterations == 1, "--sensitivity cuts each network once; leave --iterations out")
    else:
        (goal,) = chosen_goals(arguments, "global_ratio")

    from bench.console import say
    from bench.iterative import open_workbench
    from bench.pipeline import open_reference, prune_model
    from bench.pruners import make_pruner
    from bench.report import pruning_lines
    from bench.runs import make_folder
    from bench.schedule import schedule_of
    from bench.sensitivity import measure_sensitivity

    several, recipe = collect(IterativeOptions, arguments), collect(TrainOptions, arguments)
    schedule = schedule_of(several, recipe, collect(FinetuneOptions, arguments))
    pruner = make_pruner(arguments.method, arguments.opt)
    folder = make_folder(arguments.save)
    options = collect(RunOptions, arguments)
    data, measure = collect(DataOptions, arguments), collect(MeasureOptions, arguments)
    reference = open_reference(arguments.ckpt, data, options, measure, model=arguments.model)
    workbench = open_workbench(reference, collect(PruneOptions, arguments), folder, schedule)
    if arguments.sensitivity:
        choice = collect(SensitivityOptions, arguments)
        measure_sensitivity(workbench, pruner, choice, options.seed, folder, split=arguments.split or "train")
        return
    info = prune_model(workbench, pruner, goal, options.seed, folder)
    for line in pruning_lines(info):
        say(line)
    say(f"-> {folder / 'pruned_model.pt'}")


if __name__ == "__main__":
    run(main)
