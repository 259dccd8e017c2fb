"""What several commands do with their flags."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.checks import require_flags
from bench.cli.parser import collect
from bench.datasets.options import DataOptions
from bench.engine.options import PruneOptions
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models.options import ModelOptions
from bench.recover.options import RepairOptions
from bench.system.options import RunOptions
from bench.training.options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.engine.cut_schedule import CutSchedule
    from bench.engine.session import Session
    from bench.jobs.selection import Selection
    from bench.measure.baseline import Baseline
    from bench.plan.target import Goal
    from bench.pruners.base import Method

COMMANDS = ("train", "prune", "eval", "benchmark", "finetune_batch", "predict", "export")


def keys_of_commands() -> set[str]:
    """The keys that a config file may hold for one command or another."""
    parsers = [importlib.import_module(f"bench.commands.{name}").build_parser() for name in COMMANDS]
    specialists = importlib.import_module("bench.commands.specialists")
    parsers += map(specialists.build_parser, specialists.STEPS)
    return {key for parser in parsers for key in parser.config_keys}


def baseline_of(
    arguments: argparse.Namespace,
    checkpoint: Path | str,
    *,
    benchmark: Path | None = None,
    selection: Selection | None = None,
) -> Baseline:
    """Opens a baseline as the flags on data, scoring, timing, device and network say.

    Args:
        arguments: of a command that has all these flags.
        checkpoint: its file.
        benchmark: the folder whose jobs say what the flags leave open about data and scoring.
        selection: which of these jobs; needed with the folder.
    """
    from bench.measure.baseline import open_baseline

    data, scoring = collect(DataOptions, arguments), collect(ScoringOptions, arguments)
    if benchmark is not None:
        from bench.jobs.benchmark_records import as_measured

        data, scoring = as_measured(benchmark, data, scoring, arguments.given, selection)
    run, timing = collect(RunOptions, arguments), collect(TimingOptions, arguments)
    return open_baseline(checkpoint, data, run, scoring, timing, network=collect(ModelOptions, arguments))


def check_request(
    options: PruneOptions, schedule: CutSchedule | None, pruners: Iterable[Method], goals: Iterable[Goal]
) -> None:
    """Finds before any work which methods, goals, objectives and several cuts do not go together.

    Raises:
        UsageError: those that do not.
    """
    from bench.engine.cut_schedule import check_schedule
    from bench.engine.weighing.checks import check_objective

    for goal in goals:
        for pruner in pruners:
            check_schedule(schedule, pruner, pruner.aim(goal))
            check_objective(options, pruner, goal)


def session_of(
    arguments: argparse.Namespace, baseline: Baseline, folder: Path, schedule: CutSchedule | None
) -> Session:
    """A session of prunings as the flags on pruning and repair say.

    Args:
        arguments: of a command that has all these flags, and those of training, which methods' own trainings follow.
        baseline: the network and its data.
        folder: where scores are kept.
        schedule: several cuts, if that is wanted.
    """
    from bench.engine.session import Session

    options, recipe, repair = (collect(group, arguments) for group in (PruneOptions, TrainOptions, RepairOptions))
    return Session(baseline, options, folder, schedule, recipe, repair)


def look_at_records(arguments: argparse.Namespace) -> bool:
    """Makes summary and page of a benchmark anew from its records and shows the table, if that was asked for.

    Raises:
        UsageError: no folder was named.
        BenchError: it holds no records.
    """
    if not arguments.report_only:
        return False
    require_flags(arguments, "out_dir")
    from bench.system.processes import world

    if not world().is_first:
        return True
    from bench.leaderboard.page_file import PAGE
    from bench.leaderboard.rebuilding import rebuild
    from bench.report.console_tables import comparison_table
    from bench.system.console import console, say

    out = Path(arguments.out_dir)
    record = rebuild(out)
    console().print(comparison_table(record["baseline"], record["rows"]))
    say(f"-> {out / PAGE} and the summaries beside it")
    return True


def look_at_network(arguments: argparse.Namespace) -> bool:
    """Shows the groups of a network, or whether it can be pruned, if that was asked for.

    Raises:
        BenchError: by --check, too little of it can be pruned, or what is left of it does not run.
    """
    if not (arguments.list_groups or arguments.check):
        return False
    from bench.jobs.network_check import check_network, check_table
    from bench.jobs.pruning import groups_of
    from bench.report.console_tables import groups_table
    from bench.system.console import console

    groups = (ModelOptions, DataOptions, PruneOptions)
    asked = (arguments.ckpt, *(collect(group, arguments) for group in groups))
    if arguments.list_groups:
        console().print(groups_table(groups_of(*asked)))
        return True
    found = check_network(*asked, arguments.input_size, arguments.seed)
    console().print(check_table(found))
    found.check_enough()
    return True
