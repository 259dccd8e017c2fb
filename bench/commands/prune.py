"""Prunes a trained network by one method.

    python prune.py --dataset camvid --data-root ./datasets/camvid --model resnet50_seg \
        --ckpt ./runs/camvid_resnet50_seg/best.pt --method taylor --global-ratio 0.1 \
        --save ./runs/taylor_pruned --input-size 360,480
"""

from __future__ import annotations

from bench.cli.checks import refuse_changes, refuse_flags, require_flags
from bench.cli.entry import run
from bench.cli.listings import add_listings, print_listing
from bench.cli.method_flags import add_method, method_settings
from bench.cli.parser import Parser, collect
from bench.cli.target_flags import add_target, chosen_goal
from bench.commands.shared import baseline_of, check_request, keys_of_commands, session_of
from bench.datasets.options import DataOptions
from bench.engine.options import CHANNEL_LIMITS, IterativeOptions, PruneOptions
from bench.jobs.options import SensitivityOptions
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models.options import ModelOptions
from bench.recover.options import RepairOptions
from bench.system.options import RunOptions
from bench.training.options import OF_EPOCHS, DistillOptions, FinetuneOptions, TrainOptions

COMMON = """
    --ckpt --save --method --opt --global-ratio --target-macs --target-params --target-latency --sensitivity
    --list-methods --list-groups --dataset --data-root --input-size --num-workers --model --round-to
    --objective --repair --iterations --latency --device --seed --threads
"""


def build_parser() -> Parser:
    """The command line of prune.py."""
    parser = Parser(
        "prune.py",
        "Prunes a trained network; pruned_model.pt and pruning_info.json go to --save.",
        common=COMMON,
        docstring=__doc__,
        elsewhere=keys_of_commands,
    )
    files = parser.add_argument_group("files")
    files.add_argument("--ckpt", metavar="FILE", help="the trained network (required)")
    files.add_argument("--save", "--output-dir", metavar="DIR", help="folder of the result (required)")
    add_method(parser)
    target = add_target(parser, "sensitivity")
    parser.add_switch(target, "--sensitivity", help="measure what each group by itself can lose, and exit")
    shown = "show the coupled channels of --ckpt, or of a fresh --model, and exit"
    add_listings(parser, methods=True).add_argument("--list-groups", action="store_true", help=shown)
    parser.add_options("data", DataOptions)
    parser.add_options("network", ModelOptions, skip=("pretrained_backbone",))
    parser.add_options("pruning", PruneOptions)
    parser.add_options("repair after the cut", RepairOptions)
    parser.add_options("pruning in several cuts", IterativeOptions)
    parser.add_options("learning rate between cuts", FinetuneOptions, skip=("finetune_epochs",))
    parser.add_options("training, between cuts and of methods that train first", TrainOptions, skip=("lr", *OF_EPOCHS))
    parser.add_options("distillation between cuts", DistillOptions)
    parser.add_options("sensitivity", SensitivityOptions)
    parser.add_options("scoring", ScoringOptions)
    parser.add_options("timing", TimingOptions, skip=("per_layer",))
    parser.add_options("run", RunOptions)
    return parser


def main(argv: list[str]) -> None:
    """Parses the command line and prunes."""
    arguments = build_parser().parse(argv)
    if print_listing(arguments, argv):
        return
    choice = collect(PruneOptions, arguments)
    if arguments.list_groups:
        from bench.jobs.pruning import groups_of
        from bench.report.console_tables import groups_table
        from bench.system.console import console

        data = collect(DataOptions, arguments)
        console().print(groups_table(groups_of(arguments.ckpt, arguments.model, data, choice)))
        return
    require_flags(arguments, "ckpt", "method", "save")
    if arguments.sensitivity:
        targets = ("global_ratio", "target_macs", "target_params", "target_size", "target_latency")
        refuse_flags(arguments, "--sensitivity has ratios of its own", *targets, "ratio_of", "auto_search")
        refuse_changes(arguments, "--sensitivity cuts each network once", IterativeOptions, ("iterations",))
    else:
        goal = chosen_goal(arguments)

    from bench.engine.cut_schedule import schedule_of
    from bench.jobs.pruning import latency_in, prune_model
    from bench.jobs.sensitivity import measure_sensitivity
    from bench.pruners import make_pruner
    from bench.pruners.base import Sparsifier
    from bench.report.text import pruning_lines
    from bench.system.console import say
    from bench.system.files import make_folder

    several, recipe = collect(IterativeOptions, arguments), collect(TrainOptions, arguments)
    schedule = schedule_of(several, recipe, collect(FinetuneOptions, arguments), collect(DistillOptions, arguments))
    pruner = make_pruner(arguments.method, method_settings(arguments))
    if isinstance(pruner, Sparsifier):
        refuse_changes(arguments, f"{pruner.name} removes no channels", PruneOptions, CHANNEL_LIMITS)
        refuse_changes(arguments, f"{pruner.name} removes no channels", RepairOptions, ("repair",))
    if not arguments.sensitivity:
        check_request(choice, schedule, [pruner], [goal])
    folder = make_folder(arguments.save)
    session = session_of(arguments, baseline_of(arguments, arguments.ckpt), folder, schedule)
    if arguments.sensitivity:
        how = collect(SensitivityOptions, arguments)
        measure_sensitivity(session, pruner, how, arguments.seed, folder, split=arguments.split or "train")
        return
    info = prune_model(session, pruner, goal, arguments.seed, folder)
    for line in pruning_lines(info, latency_in(folder)):
        say(line)


if __name__ == "__main__":
    run(main)
