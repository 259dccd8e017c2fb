"""What benchmark.py does with its flags, once for each benchmark that they and a study's file name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.checks import is_by_torchrun, require_flags
from bench.cli.config_file import benchmarks_in
from bench.cli.method_flags import settings_of_methods
from bench.cli.parser import collect
from bench.cli.target_flags import chosen_goals
from bench.commands.shared import baseline_of, check_request, look_at_records, session_of
from bench.datasets.options import DataOptions
from bench.engine.options import IterativeOptions, PruneOptions
from bench.errors import BenchError, UsageError, as_flags
from bench.jobs.options import GridOptions
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models.options import ModelOptions
from bench.oracle.options import OracleOptions
from bench.sweep.options import SweepOptions
from bench.system.options import RunOptions
from bench.training.options import DistillOptions, FinetuneOptions, TrainOptions

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from bench.cli.parser import Parser
    from bench.sweep.dry_run import Planned
    from bench.sweep.grid import Job


def compare_methods(parser: Parser, arguments: argparse.Namespace) -> list[Planned]:
    """Runs a comparison, or shows what it would do.

    Args:
        parser: of benchmark.py.
        arguments: what it made of the command line.

    Returns:
        What it would do, where it is only to show that and the baseline is there; else nothing.

    Raises:
        UsageError: what is asked for does not go together.
        BenchError: a job failed, or what all of them need cannot be had.
    """
    if look_at_records(arguments):
        return []
    require_flags(arguments, "baseline", "out_dir")
    jobs = jobs_of(arguments)
    methods, goals = ([*dict.fromkeys(found)] for found in zip(*((job.method, job.goal) for job in jobs), strict=True))
    training, distill = collect(TrainOptions, arguments), collect(DistillOptions, arguments)
    how, oracle = collect(SweepOptions, arguments), collect(OracleOptions, arguments)

    from bench.engine.cut_schedule import schedule_of
    from bench.jobs.controls import check_controls, controls_of
    from bench.jobs.training import ensure_baseline
    from bench.oracle.agreement_table import agreement_table
    from bench.oracle.compare_scores import measure_agreement
    from bench.pruners import make_pruners
    from bench.report.console_tables import comparison_table
    from bench.report.summary_record import baseline_record
    from bench.sweep.cells import cells_of, chosen, name_of
    from bench.sweep.command_line import CommandLines
    from bench.sweep.dry_run import plan_lines, planned
    from bench.sweep.finetune_all import finetune_recipe
    from bench.sweep.grid import check_outcome
    from bench.sweep.run import run_cells
    from bench.sweep.several_processes import leads
    from bench.system.console import console, say
    from bench.system.files import make_folder
    from bench.training.distillation import distillation_of

    # Everything that can be wrong with the request is found before the first minute of work.
    pruners = make_pruners(methods, settings_of_methods(arguments, methods))
    finetune = collect(FinetuneOptions, arguments)
    tuning = finetune_recipe(training, finetune)
    check_controls(arguments.controls, tuning)
    schedule = schedule_of(collect(IterativeOptions, arguments), training, finetune, distill)
    check_request(collect(PruneOptions, arguments), schedule, pruners.values(), goals)
    out, checkpoint = Path(arguments.out_dir), Path(arguments.baseline)
    if how.dry_run and arguments.train_baseline and not checkpoint.is_file():
        for job in jobs:
            say(str(name_of(job)))
        say(f"{len(jobs)} cells, none of them done; {checkpoint} is trained first")
        return []
    if not how.dry_run:
        make_folder(out)
        if arguments.train_baseline:
            groups = (DataOptions, ModelOptions, TrainOptions, RunOptions, ScoringOptions, TimingOptions)
            ensure_baseline(checkpoint, *(collect(group, arguments) for group in groups), asked=arguments.given)
    baseline = baseline_of(arguments, checkpoint)
    if not leads(baseline):
        return []
    session = session_of(arguments, baseline, out / "scores", schedule)
    taught = distillation_of(distill, baseline.saved.model, baseline.digest)
    check = session.options.tries_groups
    controls = controls_of(arguments.controls, baseline, tuning, taught, training, arguments.given, check=check)
    cells = cells_of(session, pruners, jobs, tuning, out, taught, controls)
    if how.dry_run:
        plan = planned(chosen(cells, how.only), out, force=how.force)
        for line in plan_lines(plan):
            say(line)
        return plan
    commands = CommandLines(parser, arguments)
    rows = run_cells(cells, session, out, how=how, commands=commands, corruptions=arguments.corruptions)
    if not how.cells_only:
        console().print(comparison_table(baseline_record(baseline), rows))
        say(f"-> {out / 'benchmark_summary.json'}, .csv, .md, .tex, .png and .svg, and {out / 'leaderboard.html'}")
        if oracle.oracle:
            seeds = [*dict.fromkeys(job.seed for job in jobs)]
            console().print(agreement_table(measure_agreement(session, pruners, goals[0], seeds, oracle, out)))
    check_outcome(rows, out)
    return []


def jobs_of(arguments: argparse.Namespace) -> list[Job]:
    """The jobs that the flags name, by cells or as a grid; what is named twice is there once.

    Raises:
        UsageError: both at once, or no target.
    """
    cells, choice = arguments.cells, collect(GridOptions, arguments)
    goals = [] if cells else chosen_goals(arguments, "ratios")
    if cells and (named := sorted({"methods", "seeds"} & set(arguments.given))):
        raise UsageError(f"--cells names methods, targets and seeds; leave --{named[0]} out")

    from bench.plan.target import Goal
    from bench.sweep.grid import Job, grid

    if cells:
        return [*dict.fromkeys(Job(cell.method, Goal(cell.kind, cell.value), cell.seed) for cell in cells)]
    return grid(choice.methods, goals, choice.seeds or [arguments.seed])


def benchmarks_of(parser: Parser, argv: Sequence[str]) -> list[argparse.Namespace]:
    """What a command line asks for: one benchmark, or those that a study's file lists, each in the folder of its name.

    Those of one name and one baseline share a folder and end in one summary, which tells them apart by what differs.

    Args:
        parser: of benchmark.py.
        argv: the command line.

    Raises:
        UsageError: what cannot be parsed, or two baselines of a study in one folder.
    """
    parts = benchmarks_in(argv)
    if not parts:
        return [parser.parse(argv)]
    found, folders = [], {}
    for where, part in parts:
        given = part.pop("name", None)
        arguments = parser.parse(argv, (where, part))
        require_flags(arguments, "out_dir")
        name = given or "_".join(filter(None, (arguments.dataset, arguments.model))) or f"benchmark{len(found) + 1}"
        folder, whose = f"{arguments.out_dir}/{name}", (given, arguments.baseline)
        if folder in folders and (None in whose or folders[folder] != whose):
            raise UsageError(f"{where} goes to {folder}, as another one does; give it a `name` of its own")
        folders[folder] = whose
        found.append(parser.parse([*argv, f"--out-dir={folder}"], (where, part)))
    return found


def compare_all(parser: Parser, study: Sequence[argparse.Namespace]) -> None:
    """Runs benchmarks one after the other, and puts them side by side where they are several.

    Args:
        parser: of benchmark.py.
        study: what it made of the command line, for each of them.

    Raises:
        BenchError: one of several failed, or what the only one raises.
    """
    _check_processes(collect(SweepOptions, study[0]))

    from bench.sweep.dry_run import each_once, total_line
    from bench.sweep.several_processes import dismissing, led
    from bench.system.console import say
    from bench.system.processes import world

    if len(study) == 1:
        with led(study[0].device), dismissing():
            compare_methods(parser, study[0])
        return
    # Of a study, `only` picks cells wherever they are; where there are none at all, the first benchmark says so.
    study = [arguments for arguments in study if _picks_cells(arguments)] or study[:1]
    failures, plan = [], []
    with led(study[0].device):
        for number, arguments in enumerate(study, start=1):
            say(f"benchmark {number} of {len(study)}: {arguments.out_dir}")
            try:
                with dismissing():
                    plan += compare_methods(parser, arguments)
            except BenchError as error:
                failures.append(f"{arguments.out_dir}: {as_flags(str(error))}")
                say(failures[-1])
        if plan:
            say(f"all benchmarks: {total_line(each_once(plan))}")
        if world().is_first and not (study[0].dry_run or study[0].cells_only):
            _put_side_by_side(list(dict.fromkeys(Path(arguments.out_dir) for arguments in study)))
    if failures:
        raise BenchError(f"{len(failures)} of {len(study)} benchmarks failed, the first: {failures[0]}")


def _check_processes(how: SweepOptions) -> None:
    """Raises UsageError where processes that train together are asked for in two places, or in none."""
    if how.processes_per_cell > 1 and not how.launcher:
        raise UsageError(
            f"`processes_per_cell={how.processes_per_cell}` is for `launcher`; without one, start the command by "
            f"torchrun --nproc_per_node {how.processes_per_cell}"
        )
    if how.launcher and is_by_torchrun():
        raise UsageError(
            "`launcher` starts processes itself; leave torchrun out and pass `processes_per_cell`, or unset WORLD_SIZE"
        )


def _picks_cells(arguments: argparse.Namespace) -> bool:
    from bench.sweep.cells import name_of
    from bench.sweep.names import fits

    names = [str(name_of(job)) for job in jobs_of(arguments)] if arguments.only else []
    return not arguments.only or any(fits(name, pattern) for name in names for pattern in arguments.only)


def _put_side_by_side(folders: Sequence[Path]) -> None:
    from bench.jobs.side_by_side import differences, write_comparison
    from bench.leaderboard.summaries import read_summaries
    from bench.system.console import say

    done = [folder for folder in folders if (folder / "benchmark_summary.json").is_file()]
    if done:
        summaries = read_summaries(done)
        files = write_comparison(summaries, done[0].parent / "comparison")
        if apart := differences(summaries):
            say(apart)
        say(f"-> {', '.join(map(str, files))}")
