"""Spreads the classes of a network over small devices: a pruned specialist for each, and a head that fuses them.

python -m bench.specialists group --baseline ./runs/camvid_unet/best.pt --out-dir ./runs/specialists
python -m bench.specialists prune --out-dir ./runs/specialists --params-reduction 0.77 --finetune-epochs 20
python -m bench.specialists fuse --out-dir ./runs/specialists --threshold 77 --patience 5
python -m bench.specialists infer --out-dir ./runs/specialists --threshold 77 --split
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.checks import require_flags
from bench.cli.parser import Parser, collect
from bench.cli.target_flags import SEARCH_TOLERANCE
from bench.commands.shared import baseline_of, keys_of_commands
from bench.datasets.options import DataOptions
from bench.engine.options import PruneOptions
from bench.errors import UsageError
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models.options import ModelOptions
from bench.recover.options import RepairOptions
from bench.specialists.options import DeploymentOptions, FusionOptions, GroupOptions, SpecialistOptions
from bench.sweep.options import SweepOptions
from bench.system.console import say
from bench.system.options import RunOptions
from bench.training.options import FinetuneOptions, TrainOptions

if TYPE_CHECKING:
    from bench.measure.baseline import Baseline
    from bench.specialists.deployment import Grouping

STEPS = {
    "group": "Groups the classes that a network responds alike to, for each number of devices.",
    "prune": "Prunes a specialist for each group of classes and fine-tunes it, all other classes being background.",
    "fuse": "Trains a head over the last features of frozen specialists, and a pruned network of the same total size.",
    "infer": "Scores and times fused specialists beside the baseline and the single pruned network.",
}

COMMON = """
    --baseline --out-dir --dataset --data-root --input-size --num-workers --device --seed --threads --responses
    --device-counts --groups --launcher --jobs --params-reduction --auto-search --finetune-epochs --finetune-lr
    --batch-size --crop-size --threshold --head-width --patience --epochs --lr --single --split --score-split --latency
"""

# Fields of `SweepOptions` that say by what specialists are made, and which cells of a benchmark are run.
_LAUNCHING = ("launcher", "jobs", "launcher_options")
_OF_CELLS = ("cells", "only", "retry_failed", "force", "dry_run", "cells_only")

# What a specialist's pruning is asked elsewhere, or does not need.
_ASKED_ELSEWHERE = (
    *("scope", "evaluate", "reconstruction_images", "reconstruction_layers", "absorb_bias", "objective"),
    *("sensitivity_curves", "refine"),
)
# Of a whole network's training, not of a head's.
_OF_NETWORKS = ("backbone_lr_factor", "freeze_backbone_epochs", "aux_weight", "sparsity_lambda")


def build_parser(step: str) -> Parser:
    """The command line of one step."""
    parser = Parser(
        f"python -m bench.specialists {step}", STEPS[step], common=COMMON, docstring=__doc__, elsewhere=keys_of_commands
    )
    files = parser.add_argument_group("files")
    named = "the network (required)" if step == "group" else "the network (default: the one whose classes were grouped)"
    files.add_argument("--baseline", metavar="FILE", help=named)
    files.add_argument("--out-dir", metavar="DIR", help="folder of all that the four steps write (required)")
    if step == "group":
        parser.add_options("grouping", GroupOptions)
    else:
        parser.add_options("deployment", DeploymentOptions)
    if step == "prune":
        chosen = "prune the specialists of these groups alone, such as 0-3,4+7 (default: all of --device-counts)"
        files.add_argument("--groups", metavar="GROUP,...", help=chosen)
        parser.add_options("specialists", SpecialistOptions)
        found = "name the score threshold that leaves these parameters, and fail unless they are met within "
        parser.add_switch(files, "--auto-search", help=f"{found}{100 * SEARCH_TOLERANCE:g} %%")
        parser.add_setting(files, "--opt", metavar="KEY=VALUE,...", help="options of papm besides its classes")
        parser.add_options("launching, where a cell is a specialist", SweepOptions, skip=_OF_CELLS)
        parser.add_options("pruning", PruneOptions, skip=_ASKED_ELSEWHERE)
        parser.add_options("repair after the cut", RepairOptions)
        parser.add_options("fine-tuning", FinetuneOptions, finetune_epochs=20)
        parser.add_options("training", TrainOptions, skip=("epochs", "lr"))
    elif step == "fuse":
        parser.add_options("fusion", FusionOptions)
        single = "also prune and fine-tune one network of as many parameters as specialists and head have together"
        parser.add_switch(files, "--single", default=True, help=single)
        parser.add_options("training of the head", TrainOptions, skip=_OF_NETWORKS, epochs=30, lr=0.05)
    elif step == "infer":
        parser.add_options("fusion", FusionOptions, skip=("head_width", "patience"))
        processes = "run each specialist in a process of its own, as on a device of its own"
        parser.add_switch(files, "--split", dest="in_processes", help=processes)
        parser.add_options("timing", TimingOptions, skip=("latency_compile", "per_layer"))
    parser.add_options("data", DataOptions)
    parser.add_options("network", ModelOptions, skip=("pretrained_backbone",))
    # --split is that of the specialists, in all steps.
    scored = "split of the data to score (default: test, or val where test has no labels)"
    files.add_argument("--score-split", dest="split", choices=("train", "val", "test"), help=scored)
    parser.add_options("scoring", ScoringOptions, skip=("split",))
    parser.add_options("run", RunOptions)
    return parser


def main(argv: list[str]) -> None:
    """Parses the command line and does the step that its first word names."""
    if not argv or argv[0] not in STEPS:
        if argv[:1] in (["-h"], ["--help"]):
            for step, what in STEPS.items():
                say(f"python -m bench.specialists {step:6} {what}")
            return
        found = f", not '{argv[0]}'" if argv else ""
        raise UsageError(f"name a step: {', '.join(STEPS)}{found}")
    step, *words = argv
    parser = build_parser(step)
    arguments = parser.parse(words)
    require_flags(arguments, "out_dir")
    {"group": _group, "prune": _prune, "fuse": _fuse, "infer": _infer}[step](arguments, parser)


def _opened(arguments: argparse.Namespace) -> tuple[Baseline, list[Grouping], Path]:
    """The baseline, the groupings that are meant, and the folder of the specialists."""
    from bench.specialists.deployment import chosen_groupings
    from bench.specialists.grouping import groupings_for, recorded_baseline

    folder = Path(arguments.out_dir)
    baseline = baseline_of(arguments, arguments.baseline or recorded_baseline(folder))
    found = groupings_for(baseline, folder)
    return baseline, chosen_groupings(found, arguments.device_counts, folder), folder


def _group(arguments: argparse.Namespace, _parser: Parser) -> None:
    require_flags(arguments, "baseline")

    from bench.specialists.grouping import group_classes
    from bench.specialists.tables import groupings_table, show
    from bench.system.files import make_folder

    folder = make_folder(arguments.out_dir)
    baseline = baseline_of(arguments, arguments.baseline)
    show(groupings_table(group_classes(baseline, collect(GroupOptions, arguments), folder)))
    say(f"-> {folder / 'deploy_inf.csv'}, grouping.json and dendrogram.png")


def _prune(arguments: argparse.Namespace, parser: Parser) -> None:
    if arguments.finetune_epochs == 0:
        raise UsageError("--finetune-epochs 0 leaves specialists that know no background; ask for at least 1")
    if "classes" in arguments.opt:
        raise UsageError("--opt classes= is each specialist's own group; leave it out")

    from bench.engine.session import Session
    from bench.specialists.deployment import chosen_groups
    from bench.specialists.launched import launch_specialists
    from bench.specialists.pruning import Recipe, prune_specialists, work_folder
    from bench.specialists.tables import show, specialists_table

    baseline, groupings, folder = _opened(arguments)
    finetune = collect(FinetuneOptions, arguments)
    training = finetune.rates(
        collect(TrainOptions, arguments, epochs=finetune.finetune_epochs, lr=finetune.finetune_lr)
    )
    recipe = Recipe(arguments.opt, SEARCH_TOLERANCE if arguments.auto_search else None, training, arguments.seed)
    pruning = collect(PruneOptions, arguments, evaluate=False, reconstruction_images=0)
    repair = collect(RepairOptions, arguments)
    session = Session(baseline, pruning, work_folder(folder), None, training, repair)
    groups = chosen_groups(groupings, arguments.groups)
    if arguments.launcher:
        words, how = parser.without(arguments.words, *_LAUNCHING, "groups"), collect(SweepOptions, arguments)
        device = {"device": baseline.device, "threads": arguments.threads}
        launch_specialists(groups, words, how, session.folder, **device)
    records = prune_specialists(session, recipe, groups, arguments.params_reduction, folder)
    show(specialists_table(records))


def _fuse(arguments: argparse.Namespace, _parser: Parser) -> None:
    from bench.specialists.fusing import fuse_specialists, fusion_folder, single_beside
    from bench.specialists.opened import open_specialists
    from bench.system.files import make_folder
    from bench.system.locks import lock_of, locked

    baseline, groupings, folder = _opened(arguments)
    training, fusion = collect(TrainOptions, arguments), collect(FusionOptions, arguments)
    opened = [open_specialists(folder, grouping, fusion.threshold, baseline) for grouping in groupings]
    for grouping, specialists in zip(groupings, opened, strict=True):
        out = fusion_folder(folder, grouping, fusion.threshold)
        with locked(lock_of(make_folder(out)), f"the fusion in {out}"):
            record = fuse_specialists(baseline, specialists, training, fusion, arguments.seed, out)
            if arguments.single:
                single_beside(baseline, specialists, record, out)
        say(f"-> {out / 'fusion_model.pt'}")


def _infer(arguments: argparse.Namespace, _parser: Parser) -> None:
    from bench.specialists import tables
    from bench.specialists.fusing import fusion_folder
    from bench.specialists.inference import infer

    baseline, groupings, folder = _opened(arguments)
    run, threshold = collect(RunOptions, arguments), arguments.threshold
    for grouping in groupings:
        out = fusion_folder(folder, grouping, threshold)
        record = infer(baseline, folder, grouping, threshold, out, run, split=arguments.in_processes)
        for table in filter(
            None, (tables.sizes_table(record), tables.times_table(record), tables.classes_table(record))
        ):
            tables.show(table)
        tables.show_processes(record)
    tables.show(tables.write_summary(folder))
    say(f"-> {folder / 'specialists_summary.md'} and .csv")
