"""How a sweep goes about its cells."""

from __future__ import annotations

from dataclasses import dataclass

from bench.config.declare import option
from bench.config.values import list_of, parse_settings, positive
from bench.sweep.names import CellName, parse_cell


@dataclass
class SweepOptions:
    """Which cells are run, and which again."""

    cells: list[CellName] = option(
        [],
        "in place of --methods, targets and --seeds: cells by name, METHOD@TARGET@SEED such as taylor@0.5@0 or "
        "l1@macs0.5@1",
        parse=list_of(parse_cell),
    )
    only: list[str] = option(
        [],
        "only the cells that fit one of these patterns METHOD@TARGET@SEED, such as 'taylor@*' or '*@macs0.5@0'; "
        "--dry-run shows their names",
        parse=list_of(str),
        metavar="PATTERN,...",
    )
    retry_failed: bool = option(True, "run again what failed before")
    force: bool = option(False, "run again what is done, too; scores and what else cells share are kept")
    dry_run: bool = option(False, "show the cells, which are done, and how long the others may take, and exit")
    launcher: str | None = option(
        None,
        "run each cell in a process of its own: here, by SLURM or on a Ray cluster (default: all in this process)",
        choices=("local", "slurm", "ray"),
    )
    jobs: int = option(1, "processes of --launcher at once", parse=positive)
    processes_per_cell: int = option(
        1,
        "processes of --launcher that share the batches of a cell's trainings; --batch-size is that of all together",
        parse=positive,
    )
    launcher_options: dict[str, object] = option(
        {},
        "what the launcher is told, such as partition=gpu,timeout_min=240 (slurm) or address=HOST:PORT (ray)",
        parse=parse_settings,
        metavar="KEY=VALUE,...",
    )
    cells_only: bool = option(
        False, "leave latency, summary and oracle to the same command without this flag, run when the cells are done"
    )
