"""What several commands do with their flags."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.parser import collect
from bench.datasets.options import DataOptions
from bench.engine.options import PruneOptions
from bench.measure.options import ScoringOptions, TimingOptions
from bench.recover.options import RepairOptions
from bench.system.options import RunOptions

if TYPE_CHECKING:
    from bench.engine.cut_schedule import CutSchedule
    from bench.engine.session import Session
    from bench.measure.baseline import Baseline


def baseline_of(arguments: argparse.Namespace, checkpoint: Path | str) -> Baseline:
    """Opens a baseline as the flags on data, scoring, timing, device and network say.

    Args:
        arguments: of a command that has all these flags.
        checkpoint: its file.
    """
    from bench.measure.baseline import open_baseline

    groups = (DataOptions, RunOptions, ScoringOptions, TimingOptions)
    return open_baseline(checkpoint, *(collect(group, arguments) for group in groups), model=arguments.model)


def session_of(
    arguments: argparse.Namespace, baseline: Baseline, folder: Path, schedule: CutSchedule | None
) -> Session:
    """A session of prunings as the flags on pruning and repair say.

    Args:
        arguments: of a command that has all these flags.
        baseline: the network and its data.
        folder: where scores are kept.
        schedule: several cuts, if that is wanted.
    """
    from bench.engine.session import Session

    return Session(baseline, collect(PruneOptions, arguments), folder, schedule, collect(RepairOptions, arguments))
