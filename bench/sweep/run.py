"""Runs a sweep: each cell by whichever process comes first, then the latencies, then the summary.

Several processes may run the same sweep, or others of the same folder, at once. What one of them is at, the others
leave alone, and come back to for the result; what fails in one of them is not run again by those that were there
meanwhile.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.engine.session import Session
from bench.errors import BenchError, DamagedFile, as_flags
from bench.jobs.finished_cells import finished_cells, measured_in
from bench.jobs.latency_format import settle_format
from bench.jobs.pruning import time_model
from bench.jobs.robustness import score_rows
from bench.leaderboard.results import write_results
from bench.measure.baseline import Baseline
from bench.report.summary_record import ComparisonRow, Measured, baseline_record, comparison_row
from bench.sweep.cells import Cell, chosen
from bench.sweep.command_line import CommandLines
from bench.sweep.grid import attempt, outcome
from bench.sweep.launched import Launched
from bench.sweep.options import SweepOptions
from bench.sweep.progress import SweepProgress
from bench.system.console import say
from bench.system.devices import release_memory
from bench.system.files import make_folder, read_json, write_json
from bench.system.kept_files import with_kept
from bench.system.locks import alone_on, lock_of, locked, remove_unfinished, share_out, try_lock
from bench.system.provenance import provenance
from bench.system.run_folder import CELL, DONE, FAILED, fail

SUMMARY = "benchmark_summary"


def run_cells(
    cells: Sequence[Cell],
    session: Session,
    out: Path,
    *,
    how: SweepOptions | None = None,
    commands: CommandLines | None = None,
    corruptions: bool = False,
) -> list[ComparisonRow]:
    """Runs all cells that are not done and writes `benchmark_summary.json/.csv/.md/.png`.

    The summary also holds what earlier runs finished in the folder, as far as it compares (`finished_cells`).

    Args:
        cells: what there is to do.
        session: the baseline and what all cells share.
        out: folder of the benchmark.
        how: which cells are run, and which again.
        commands: gives the command lines of jobs, for their records and for launchers.
        corruptions: also score the last network of each cell under corruptions.

    Returns:
        One row a cell, in their order.

    Raises:
        BenchError: a launcher cannot be had.
    """
    how, baseline = how or SweepOptions(), session.baseline
    baseline.shared = session.folder
    cells = chosen(cells, how.only)
    baseline.data.check_labelled(baseline.split, *(["train", "val"] if any(cell.trains for cell in cells) else []))
    with tidied(make_folder(out)):
        if any(cell.is_timed for cell in cells):
            settle_format(baseline, out)
        sweep = Sweep(cells, baseline, how, commands)
        with untimed(baseline):
            if how.launcher and commands:
                sweep.launch(out)
            sweep.run()
        if how.cells_only:
            return sweep.rows
        if baseline.is_timed:
            settle_format(baseline, out)
            sweep.time()
        with locked(lock_of(out / SUMMARY), "the summary"):
            rows = score_rows(baseline, out, sweep.rows) if corruptions else sweep.rows
            earlier = finished_cells(baseline, out, {row["folder"] for row in rows})
            if earlier:
                say(f"the summary also holds {len(earlier)} jobs that earlier runs finished in {out}")
            write_results(out, baseline_record(baseline), [*rows, *earlier], provenance())
    return rows


class Sweep:
    """The cells of one command, and what came of them."""

    def __init__(
        self, cells: Sequence[Cell], baseline: Baseline, how: SweepOptions, commands: CommandLines | None = None
    ):
        """Nothing is run yet.

        Args:
            cells: what is to be done.
            baseline: what they are compared with.
            how: which of them are run again.
            commands: gives the command lines of jobs.
        """
        self._cells, self._baseline, self._how, self._commands = cells, baseline, how, commands
        self._rows: dict[str, ComparisonRow] = {}
        self._began, self._progress = time.time(), SweepProgress(len(cells))

    @property
    def rows(self) -> list[ComparisonRow]:
        """Those of the cells that are finished, in the order of the cells."""
        return [self._rows[cell.name] for cell in self._cells if cell.name in self._rows]

    def launch(self, out: Path) -> None:
        """Lets a launcher run the cells that are to be run; `run` then finds them finished.

        Cells that measure times are left to `run`, which does one after the other.

        Args:
            out: folder of the benchmark.

        Raises:
            BenchError: the launcher cannot be had.
            KeyboardInterrupt: Ctrl-C or SIGTERM; the processes are stopped.
        """
        todo = [cell for cell in self._cells if not cell.is_timed and self._is_open(cell)]
        # Made once here, so that they do not all wait for the first.
        _ = self._baseline.evaluation if todo else None
        self._progress.workers = max(1, min(self._how.jobs, len(todo)))
        launched = Launched(todo, self._how, self._commands, self._baseline.device, out)
        with self._progress.shown(), self._telling():
            for cell, failure in launched.ended():
                if failure is not None and not _is_newer(cell.folder / FAILED, self._began):
                    fail(make_folder(cell.folder), failure)
                self._finished(cell)

    def _is_open(self, cell: Cell) -> bool:
        if self._how.force:
            return True
        if (cell.folder / FAILED).is_file():
            return self._how.retry_failed
        try:
            return not cell.is_done()
        except DamagedFile:
            return True

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Says of an interrupt how far the sweep is."""
        try:
            yield
        except KeyboardInterrupt:
            say(f"stopped; {len(self._rows)} of {len(self._cells)} cells are finished, the same command goes on")
            raise

    def run(self) -> None:
        """Runs each cell that is not done, here or in another process.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM; what is finished stays.
        """
        waiting = [cell for cell in self._cells if cell.name not in self._rows]

        def told(left: list[Cell]) -> str:
            return f"other processes are at {len(left)} of the cells; waiting for them"

        with self._progress.shown(), self._telling():
            share_out(waiting, self._finished, told)

    def _finished(self, cell: Cell) -> bool:
        """Runs a cell, unless another process is at it, which makes it False."""
        try:
            lock = try_lock(lock_of(make_folder(cell.folder)))
        except BenchError as error:
            # A disk may be full for one and have room for the next.
            self._end(cell, failed_row(cell, as_flags(str(error))), None)
            return True
        if lock is None:
            return False
        try:
            row, seconds = self._row_of(cell)
        except KeyboardInterrupt:
            # It did not fail.
            with contextlib.suppress(OSError):
                (cell.folder / FAILED).unlink(missing_ok=True)
            raise
        finally:
            lock.release()
        self._end(cell, row, seconds)
        release_memory()
        return True

    def _end(self, cell: Cell, row: ComparisonRow, seconds: float | None) -> None:
        self._rows[cell.name] = row
        self._progress.finish(f"{cell.job}: {outcome(row)}", seconds)

    def _row_of(self, cell: Cell) -> tuple[ComparisonRow, float | None]:
        """What came of a cell, and the seconds that took; None where it was done before."""
        failed = cell.folder / FAILED
        if failed.is_file() and not (self._how.retry_failed and failed.stat().st_mtime < self._began):
            reason = (failed.read_text(encoding="utf-8").splitlines() or ["no reason given"])[0]
            return failed_row(cell, reason), None
        if self._how.force and not _is_newer(cell.folder / DONE, self._began):
            cell.forget()
        began, worked = time.perf_counter(), []

        def work() -> Measured:
            if not cell.is_done():
                worked.append(True)
                with alone_on(self._baseline.device) if cell.is_timed else contextlib.nullcontext():
                    cell.work()
            return measured_in(cell.folder, self._baseline)

        def made() -> Measured:
            measured = with_kept(work, cell.folder)
            if worked:
                self._note(cell, time.perf_counter() - began)
            return measured

        row = attempt(cell.job, cell.folder, made, cell.settings)
        if row["status"] == "failed":
            # On a full disk the row has to do.
            with contextlib.suppress(BenchError):
                self._note(cell, None)
        elif not worked and _is_newer(cell.folder / CELL, self._began):
            # Another process did it meanwhile.
            row = {**row, "seconds": round(read_json(cell.folder / CELL)["seconds"], 1)}
            return row, row["seconds"]
        return row, row["seconds"] if worked else None

    def _note(self, cell: Cell, seconds: float | None) -> None:
        """Writes what it takes to make the cell again; None for the seconds of one that failed."""
        record = {
            "format": "cell/1",
            "name": cell.name,
            "method": cell.job.method,
            "target_kind": cell.job.goal.kind,
            "target_value": cell.job.goal.value,
            "seed": cell.job.seed,
            "command": self._commands.text(cell.job) if self._commands else None,
            "working_folder": Path.cwd(),
            "seconds": seconds,
            "host": socket.gethostname(),
            "provenance": provenance(),
        }
        write_json(cell.folder / CELL, record)

    def time(self) -> None:
        """Times the networks of the finished cells beside the baseline, one after the other, alone on the device."""
        for cell in self._cells:
            row = self._rows[cell.name]
            if row["status"] != "done":
                continue
            with locked(lock_of(cell.folder), cell.name):
                self._rows[cell.name] = {**self._timed(cell), "seconds": row["seconds"]}

    def _timed(self, cell: Cell) -> ComparisonRow:
        def timed() -> Measured:
            with alone_on(self._baseline.device):
                time_model(self._baseline, cell.folder)
            return measured_in(cell.folder, self._baseline)

        return attempt(cell.job, cell.folder, lambda: with_kept(timed, cell.folder), cell.settings)


def failed_row(cell: Cell, reason: str) -> ComparisonRow:
    """The row of a cell that failed before, or elsewhere."""
    return comparison_row(
        cell.job.method,
        cell.job.goal,
        cell.job.seed,
        cell.folder.name,
        settings=cell.settings,
        measured={},
        error=reason,
        seconds=0.0,
    )


def _is_newer(path: Path, moment: float) -> bool:
    return path.is_file() and path.stat().st_mtime >= moment


@contextlib.contextmanager
def untimed(baseline: Baseline) -> Iterator[None]:
    """Leaves latency, unless it is what a pruning aims at, to a later stage."""
    before, baseline.is_timed = baseline.is_timed, False
    try:
        yield
    finally:
        baseline.is_timed = before


@contextlib.contextmanager
def tidied(folder: Path) -> Iterator[None]:
    """Removes before and after the block what processes that were killed have left in a folder."""
    remove_unfinished(folder)
    try:
        yield
    finally:
        remove_unfinished(folder)
