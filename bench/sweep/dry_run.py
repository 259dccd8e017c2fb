"""What a sweep would do: its cells, which of them are done, and how long the others may take."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from bench.errors import BenchError
from bench.sweep.cells import Cell
from bench.sweep.progress import duration
from bench.system.files import read_json
from bench.system.locks import is_held, lock_of
from bench.system.run_folder import CELL, FAILED


class Planned(NamedTuple):
    """A cell, and what is known of it.

    Attributes:
        cell: that.
        state: done, failed (and why), running (and who is at it) or to do.
        seconds: how long it may take from the records at hand; 0 where it is done, None where none tells.
    """

    cell: Cell
    state: str
    seconds: float | None


def planned(cells: Sequence[Cell], out: Path, *, force: bool = False) -> list[Planned]:
    """What a sweep would do with each of its cells.

    Args:
        cells: all of them.
        out: folder of the benchmark, whose records tell how long cells took: those of the same method if there are any.
        force: whether what is done is done again.
    """
    known = _seconds_known(out)
    every = [seconds for found in known.values() for seconds in found]
    found = []
    for cell in cells:
        state = _state(cell)
        like = known.get(cell.job.method) or every
        is_left = force or state != "done"
        found.append(Planned(cell, state, (mean(like) if like else None) if is_left else 0.0))
    return found


def plan_lines(plan: Sequence[Planned]) -> list[str]:
    """A line a cell, and one for all."""
    width = max(len(part.cell.name) for part in plan)
    return [*(f"{part.cell.name:{width}}  {part.cell.folder.name}  {part.state}" for part in plan), total_line(plan)]


def total_line(plan: Sequence[Planned]) -> str:
    """How many cells there are, and how long those that are left may take."""
    left = [part for part in plan if part.seconds != 0.0]
    told = [part.seconds for part in left if part.seconds is not None]
    total = f"{len(plan)} cells, {len(plan) - len(left)} of them done"
    if left and told:
        total += f"; the others may take {duration(sum(told))}, one after the other, as those in the folder did"
        total += f" ({len(left) - len(told)} are of no known length)" if len(told) < len(left) else ""
    elif left:
        total += "; how long the others take is known when one is done"
    return total


def each_once(plan: Sequence[Planned]) -> list[Planned]:
    """Cells of several benchmarks without those that are the same; one is done when it is so in all of them."""
    found: dict[Path, Planned] = {}
    for part in plan:
        if part.seconds != 0.0 or part.cell.folder not in found:
            found[part.cell.folder] = part
    return list(found.values())


def _state(cell: Cell) -> str:
    holder = is_held(lock_of(cell.folder))
    if holder:
        return f"running ({holder})"
    with contextlib.suppress(BenchError):
        # What is damaged is made anew.
        if cell.is_done() and not (cell.folder / FAILED).is_file():
            return "done"
    with contextlib.suppress(OSError):
        return f"failed: {(cell.folder / FAILED).read_text(encoding='utf-8').splitlines()[0]}"
    return "to do"


def _seconds_known(out: Path) -> dict[str, list[float]]:
    """Method -> seconds of its cells in a folder."""
    known: dict[str, list[float]] = {}
    for path in out.glob(f"*/{CELL}"):
        with contextlib.suppress(BenchError, LookupError, TypeError, ValueError):
            record = read_json(path)
            known.setdefault(record["name"].partition("@")[0], []).append(float(record["seconds"]))
    return known
