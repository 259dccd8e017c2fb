"""benchmark.py as a sweep: what it would do, which cells it runs, and that a cell's command line is that cell."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from records import faults
from scripts import run_script

from bench.errors import BenchError, MachineError
from bench.launchers import LAUNCHERS
from bench.launchers.base import Ended, Launcher
from bench.models.checkpoint import load_model
from bench.models.state_dict_file import tensors_digest
from bench.pruners.norm.pruner import L1
from bench.system.locks import lock_of, try_lock

FEW = ["--calib-images", 2, "--calib-batch-size", 2, "--recalibration-images", 2, "--reconstruction-images", 0]


@pytest.fixture
def sweep(call, tiny_camvid, shallow_baseline, tmp_path):
    """`sweep("--methods", ...)` runs benchmark.py on the tiny data set; the results go to `tmp_path / "out"`."""
    flags = ["--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0, "--threads", 1, "--no-latency"]
    common = [*flags, *FEW, "--baseline", shallow_baseline, "--out-dir", tmp_path / "out"]
    return lambda *words: call("benchmark.py", *common, *words)


def rows_of(out: Path) -> list[dict]:
    rows = json.loads((out / "benchmark_summary.json").read_text())["rows"]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def written(out: Path) -> dict[str, int]:
    return {path.parent.name.split("_")[0]: path.stat().st_mtime_ns for path in out.glob("*/pruned_model.pt")}


def test_a_dry_run_shows_the_cells_and_how_long_they_take(sweep, tmp_path):
    words = ["--methods", "l1,random", "--ratios", 0.2, "--seeds", "0,1"]
    shown = sweep(*words, "--dry-run")
    assert shown.code == 0 and not (tmp_path / "out").exists()
    assert [line.split()[::2] for line in shown.out.splitlines()[1:5]] == [
        [name, "to"] for name in ("l1@0.2@0", "l1@0.2@1", "random@0.2@0", "random@0.2@1")
    ]
    assert "4 cells, 0 of them done; how long the others take is known when one is done" in shown.out

    assert sweep(*words, "--only", "l1@*@0").code == 0
    assert written(tmp_path / "out").keys() == {"l1"} and len(rows_of(tmp_path / "out")) == 1
    held = try_lock(lock_of(tmp_path / "out" / shown.out.splitlines()[4].split()[1]))
    shown = sweep(*words, "--dry-run")
    held.release()
    states = [line.split("  ")[-1] for line in shown.out.splitlines()[1:5]]
    assert states[:3] == ["done", "to do", "to do"] and states[3].startswith("running (process ")
    assert "4 cells, 1 of them done; the others may take " in shown.out

    refused = sweep(*words, "--only", "l2@*")
    assert refused.code == 2 and "no cell fits --only 'l2@*'; there are l1@0.2@0, l1@0.2@1" in refused.err


def test_the_command_line_of_a_cell_gives_its_numbers(sweep, call, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("methods: [l1, taylor]\nratios: [0.2, 0.4]\nopt: {taylor.term: gamma}\nseeds: [0, 3]\n")
    finetune = ["--finetune-epochs", 1, "--batch-size", 4]
    assert sweep("--config", config, *finetune).code == 0
    assert len(rows_of(tmp_path / "out")) == 8
    (cell,) = (tmp_path / "out").glob("taylor_r0.4_s3_*")
    record = json.loads((cell / "cell.json").read_text())
    assert faults(record) == []
    words = shlex.split(record["command"])
    assert words[:3] == ["python", "-m", "bench.commands.benchmark"]
    assert "--config" not in words and words[-2:] == ['--opt=taylor.term="gamma"', "--cells=taylor@0.4@3"]
    alone = call("benchmark.py", *words[3:], "--out-dir", tmp_path / "alone")
    assert alone.code == 0, alone.err
    (row,) = rows_of(tmp_path / "alone")
    assert row in rows_of(tmp_path / "out")
    for name in ("pruned_model.pt", "finetuned_model.pt"):
        networks = [load_model(tmp_path / out / cell.name / name).model.state_dict() for out in ("out", "alone")]
        assert tensors_digest(networks[0]) == tensors_digest(networks[1])


def test_cells_take_the_place_of_the_grid(sweep, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("methods: [l1]\nratios: [0.2]\nseeds: [0, 1]\n")
    shown = sweep("--config", config, "--cells", "random@macs0.5@7,l1@0.3@0", "--dry-run")
    assert [line.split()[0] for line in shown.out.splitlines()[1:3]] == ["random@macs0.5@7", "l1@0.3@0"]
    config.write_text("cells: [random@macs0.5@7]\nmethods: [l1]\n")
    refused = sweep("--config", config, "--dry-run")
    assert refused.code == 2 and "--cells names methods, targets and seeds; leave --methods out" in refused.err


def test_what_failed_is_run_again_unless_that_is_not_wanted(sweep, tmp_path, monkeypatch):
    def fails(self, *_):
        raise BenchError("no norm at hand")

    words = ["--methods", "l1,random", "--ratios", 0.2]
    with monkeypatch.context() as patch:
        patch.setattr(L1, "score", fails)
        failed = sweep(*words)
    assert failed.code == 1 and "1 of 2 jobs failed, the first with: no norm at hand" in failed.err
    assert "failed: no norm at hand" in sweep(*words, "--dry-run").out
    left = sweep(*words, "--no-retry-failed")
    assert left.code == 1 and "no norm at hand" in left.err and written(tmp_path / "out").keys() == {"random"}
    assert sweep(*words).code == 0
    before = written(tmp_path / "out")
    assert before.keys() == {"l1", "random"}
    assert sweep(*words, "--force", "--only", "random").code == 0
    after = written(tmp_path / "out")
    assert after["l1"] == before["l1"] and after["random"] > before["random"]


def held_by_another(sweep, out: Path, monkeypatch, before: Callable[[Path], object] = id) -> Path:
    """The folder of the cell l1@0.2@0, whose lock is held until the sweep waits for it."""
    folder = out / sweep("--methods", "l1", "--ratios", 0.2, "--dry-run").out.splitlines()[1].split()[1]
    folder.mkdir(parents=True)
    held = [try_lock(lock_of(folder))]

    def let_go(_: float) -> None:
        before(folder)
        held.pop().release()

    # Its own clock alone: others sleep, too.
    monkeypatch.setattr("bench.system.locks.time", SimpleNamespace(**{**vars(time), "sleep": let_go}))
    return folder


def test_a_cell_that_another_process_is_at_comes_later(sweep, tmp_path, monkeypatch):
    held_by_another(sweep, tmp_path / "out", monkeypatch)
    done = sweep("--methods", "l1,random", "--ratios", 0.2, "--cells-only")
    lines = [line for line in done.out.splitlines() if line.startswith("[")]
    assert [line.split()[1] for line in lines] == ["random", "l1"], done.out
    assert "other processes are at 1 of the cells; waiting for them" in done.out
    assert not (tmp_path / "out" / "benchmark_summary.json").exists()
    assert list((tmp_path / "out").rglob(".*")) == []


def test_what_another_process_found_to_fail_is_not_run_again(sweep, tmp_path, monkeypatch):
    def fail(folder: Path) -> None:
        (folder / "failed").write_text("too little of it\n")

    held_by_another(sweep, tmp_path / "out", monkeypatch, fail)
    monkeypatch.setattr(L1, "score", pytest.fail)
    done = sweep("--methods", "l1", "--ratios", 0.2)
    assert done.code == 1 and "too little of it" in done.err


def test_a_cell_whose_lock_cannot_be_written_costs_no_other(sweep, tmp_path, monkeypatch):
    def try_most(path: Path):
        if ".l1_" in path.name:
            raise MachineError(f"cannot write {path}: No space left on device")
        return try_lock(path)

    monkeypatch.setattr("bench.sweep.run.try_lock", try_most)
    done = sweep("--methods", "l1,random", "--ratios", 0.2)
    assert done.code == 1 and "1 of 2 jobs failed, the first with: cannot write" in done.err
    assert [row["status"] for row in rows_of(tmp_path / "out")] == ["failed", "done"]


class InThisProcess(Launcher):
    """Runs command lines here, one after the other; the first is lost, and one is never run."""

    known = ("lose", "break_at")

    def run(self, commands):
        for number, words in enumerate(commands):
            said.append(words)
            if number == 0 and len(said) == 1:
                yield Ended(number, -9, "")
            elif any(str(word).startswith("--cells=random@") for word in words):
                yield Ended(number, 2, "benchmark.py: error: no such thing")
            else:
                done = run_script("benchmark.py", *words)
                yield Ended(number, done.code, done.err.strip())


said: list[list[str]] = []


def test_a_launcher_runs_the_command_line_of_each_cell(sweep, tmp_path, monkeypatch):
    said.clear()
    monkeypatch.setitem(LAUNCHERS, "local", (__name__, "InThisProcess"))
    words = ["--methods", "l1,random", "--ratios", "0.2,0.3", "--launcher", "local", "--jobs", 2]
    done = sweep(*words)
    assert done.code == 1 and "2 of 4 jobs failed, the first with: benchmark.py: error: no such thing" in done.err
    assert "l1@0.2@0: its process was killed (SIGKILL), most likely because memory ran out; it is tried" in done.out
    assert [line[-3] for line in said] == [
        f"--cells={name}" for name in ("l1@0.2@0", "l1@0.3@0", "random@0.2@0", "random@0.3@0", "l1@0.2@0")
    ]
    assert said[0][-2:] == ["--threads=1", "--cells-only"]
    assert not any(str(word).startswith(("--launcher", "--jobs", "--processes")) for word in said[0])
    rows = rows_of(tmp_path / "out")
    assert [row["status"] for row in rows] == ["done", "done", "failed", "failed"]
    assert (tmp_path / "out" / rows[2]["folder"] / "failed").read_text() == "benchmark.py: error: no such thing\n"
    # What is done is launched no more, and what a process of its own made is what this one makes.
    said.clear()
    assert sweep("--methods", "l1", "--ratios", "0.2,0.3", *words[4:]).code == 0
    assert said == []
    assert sweep("--methods", "l1", "--ratios", "0.2,0.3", "--out-dir", tmp_path / "here").code == 0
    assert rows_of(tmp_path / "here") == rows[:2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--launcher", "slurm"], "--launcher slurm needs submitit; pip install -r requirements-cluster.txt"),
        (["--launcher", "ray"], "--launcher ray needs Ray; pip install -r requirements-cluster.txt"),
        (["--launcher", "ray", "--launcher-options", "adress=x"], "option of the launcher 'adress'; did you mean addr"),
        (
            ["--launcher", "local", "--launcher-options", "a=1"],
            "this launcher has no options; leave --launcher-options",
        ),
        (["--processes-per-cell", 2], "is for --launcher; without one, start the command by torchrun --nproc_per_node"),
        (["--launcher", "local", "--jobs", 2], "leave torchrun out and pass --processes-per-cell, or unset WORLD_SIZE"),
    ],
)
def test_a_launcher_that_cannot_be_had_is_one_line(sweep, monkeypatch, flags, message):
    if "torchrun out" in message:
        monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("submitit", "ray"):
        monkeypatch.setitem(sys.modules, name, None)
    refused = sweep("--methods", "l1", "--ratios", 0.2, *flags)
    assert refused.code in (1, 2) and message in refused.err and refused.err.count("\n") == 1
