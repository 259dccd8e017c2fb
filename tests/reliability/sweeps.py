"""Sweeps that are run, killed and run side by side by the scripts beside this one.

Each sweep is a process that is forked from one that has imported all it needs, so that it begins at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.cli.entry import run
from bench.commands.benchmark import main as benchmark
from bench.datasets.synthetic import draw_dataset
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.models.state_dict_file import tensors_digest
from bench.pruners import make_pruner
from bench.sweep import cells as sweep_cells

SIZE = (24, 32)
GRID = ["--methods", "l1,taylor,slimming", "--ratios", "0.3,0.5", "--seeds", "0,1", "--opt", "slimming.sparse_epochs=1"]
SHORT = ["--calib-images", "4", "--recalibration-images", "4", "--batch-size", "2", "--finetune-epochs", "1"]
# What differs from run to run.
UNEQUAL = ("seconds", "latency_ms", "baseline_latency_ms", "speedup", "speedup_low", "speedup_high")


def prepared(folder: Path) -> list[str]:
    """Draws data and makes a network; returns the flags that every sweep takes."""
    torch.set_num_threads(1)
    draw_dataset(folder / "camvid", images={"train": 4, "val": 2, "test": 2}, size=SIZE)
    torch.manual_seed(0)
    spec = ModelSpec("unet_small", 12, {"width": 8, "depth": 1})
    save_model(folder / "best.pt", SavedModel(build_model(spec), spec, meta={"input_size": list(SIZE)}))
    where = ["--dataset", "camvid", "--data-root", str(folder / "camvid"), "--baseline", str(folder / "best.pt")]
    return [*where, *GRID, *SHORT, "--threads", "1", "--device", "cpu", "--num-workers", "0", "--no-latency"]


class Process:
    """A sweep in a process of its own.

    Attributes:
        pid: its number.
    """

    def __init__(self, words: Sequence[str], log: Path, before: Callable[[], Any] | None = None):
        """Starts it.

        Args:
            words: the flags of benchmark.py.
            log: receives what it says.
            before: is called in the new process first.
        """
        self.pid = os.fork()
        if self.pid == 0:
            self._become(words, log, before)

    def _become(self, words: Sequence[str], log: Path, before: Callable[[], Any] | None) -> None:
        code = 70
        try:
            os.setsid()
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.argv = ["benchmark.py", *words]
            if before:
                before()
            with contextlib.suppress(SystemExit):
                run(benchmark)
                code = 0
            if code:
                code = sys.exc_info()[1].code if sys.exc_info()[1] else 1
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush()
            os._exit(code)

    def is_over(self) -> bool:
        """Whether it has ended, by itself or not."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.code = os.waitstatus_to_exitcode(status)
        return bool(pid)

    def wait(self) -> int:
        """Waits for its end; the exit status, negative for a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal to it alone."""
        os.kill(self.pid, number)


def descendants(pid: int) -> list[int]:
    """All processes that a process has started, and they."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, open_ = [], [pid]
    while open_:
        for child in children.get(open_.pop(), []):
            found.append(child)
            open_.append(child)
    return found


class Journal:
    """What the processes of several sweeps did, each thing a line."""

    def __init__(self, path: Path):
        """Nothing is written yet."""
        self.path = path

    def watch(self) -> None:
        """Notes from now on, in this process, each pruning, scoring and training of a method, and each evaluation."""

        def noted(owner: Any, name: str, text: Callable[..., str]) -> None:
            original = getattr(owner, name)

            def spy(*args: Any, **settings: Any) -> Any:
                with self.path.open("a") as file:
                    file.write(text(*args) + "\n")
                return original(*args, **settings)

            setattr(owner, name, spy)

        noted(sweep_cells, "prune_model", lambda session, pruner, goal, seed, folder: f"pruned {folder.name}")
        noted(sweep_cells, "finetune_model", lambda baseline, folder, *_: f"tuned {folder.name}")
        for method in ("l1", "taylor", "slimming"):
            noted(type(make_pruner(method)), "score", lambda pruner, *_, calibration=None: f"scored {pruner.name}")
        from bench.measure.baseline import Baseline

        noted(Baseline, "evaluate", lambda baseline, model, label: f"evaluated {label}")

    def counts(self) -> Counter[str]:
        """How often each thing was done."""
        return Counter(self.path.read_text().splitlines())


def numbers(out: Path) -> dict[str, Any]:
    """All that a finished sweep found, by cell: rows, the networks' tensors and the records, without times."""
    found = {}
    for row in json.loads((out / "benchmark_summary.json").read_text())["rows"]:
        folder = out / row["folder"]
        tensors = [tensors_digest(load_model(folder / name).model.state_dict()) for name in NETWORKS]
        quality = json.loads((folder / "pruning_info.json").read_text())["quality"]
        tuned = json.loads((folder / "finetuned_report.json").read_text())["candidate"]["quality"]
        values = {key: value for key, value in row.items() if key not in UNEQUAL}
        found[row["folder"]] = [values, tensors, quality, tuned]
    return found


NETWORKS = ("pruned_model.pt", "finetuned_model.pt")


def finished(out: Path) -> dict[str, tuple[int, ...]]:
    """Folder -> when its networks were written, of the cells that are done."""
    return {
        path.parent.name: tuple((path.parent / name).stat().st_mtime_ns for name in NETWORKS)
        for path in out.glob("*/cell.json")
        if (path.parent / "done").is_file() and all((path.parent / name).is_file() for name in NETWORKS)
    }


def strays(out: Path) -> list[str]:
    """Files that no finished sweep has: locks, and what was half written."""
    return [str(path.relative_to(out)) for path in out.rglob(".*")]


def until_over(process: Process, seconds: float) -> bool:
    """Waits so long, or until a process is over, which makes it True."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.is_over():
            return True
        time.sleep(0.005)
    return False
