"""What the machine does to a command: one line, nothing lost, and what was damaged is made anew."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.data import SegmentationData
from bench.datasets.options import DataOptions
from bench.errors import MachineError
from bench.measure import evaluation
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, save_model
from bench.system.files import read_json, write_json
from bench.system.run_folder import INFO, PRUNED, REPORT
from bench.training.step import TrainingLoss

MEMORY = (
    "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"
)


@pytest.fixture
def common(tiny_camvid):
    return ["--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0, "--device", "cpu"]


@pytest.fixture
def prune(call, common, shallow_baseline, tmp_path):
    def run(*flags):
        quick = ["--no-latency", "--calib-images", 2, "--recalibration-images", 2, "--reconstruction-images", 0]
        return call("prune.py", *common, *quick, "--ckpt", shallow_baseline, *flags, folder=tmp_path)

    return run


def test_consoles_and_folders_of_any_encoding(tiny_camvid, shallow_baseline, tmp_path, project_root):
    folder = os.fsdecode("gr\N{LATIN SMALL LETTER O WITH DIAERESIS}".encode() + b"\xdfe")
    words = ["--dataset", "camvid", "--data-root", tiny_camvid, "-j", 0, "--ckpt", shallow_baseline, "--save", folder]
    words += ["--method", "taylor", "--global-ratio", 0.3, "--no-latency", "--calib-images", 2, "--no-recalibrate"]
    done = subprocess.run(
        [sys.executable, project_root / "prune.py", *map(str, words)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines()[-1] == rb"-> gr\xf6\udcdfe/pruned_model.pt"
    info = read_json(tmp_path / folder / INFO)
    assert info["saved_model"] == f"{folder}/{PRUNED}" and (tmp_path / folder / PRUNED).is_file()
    json.loads((tmp_path / folder / REPORT).read_bytes().decode("utf-8"))


def test_text_that_is_none_goes_through_json_and_leaves_all_other_bytes_as_they_were(tmp_path):
    write_json(tmp_path / "a.json", {"ü": os.fsdecode(b"M\xfcnchen")})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "ü": "M\\udcfcnchen"\n}\n'.encode()
    assert os.fsencode(read_json(tmp_path / "a.json")["ü"]) == b"M\xfcnchen"


def test_a_closed_pipe_ends_quietly(project_root):
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, project_root / "prune.py", "--list-methods"]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_full_console_is_one_line(project_root):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, project_root / "prune.py", "--list-methods"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("prune.py: error: cannot write a file: No space left on device")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("kept", [False, True])
def test_a_disk_that_takes_no_more(tmp_path, kept):
    spec = ModelSpec("unet_small", 12, {"width": 8, "depth": 1})
    path, saved = tmp_path / "best.pt", SavedModel(build_model(spec), spec)
    if kept:
        save_model(path, saved)
    before = path.read_bytes() if kept else None
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
        with pytest.raises(MachineError, match=r"cannot write .*best\.pt: File too large$"):
            save_model(path, saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (path.read_bytes() if kept else None) == before
    assert [entry.name for entry in tmp_path.iterdir()] == (["best.pt"] if kept else [])


class TestDamagedFiles:
    def test_scores(self, prune, tmp_path):
        flags = ["--method", "taylor", "--save", "p", "--global-ratio"]
        assert prune(*flags, 0.3).code == 0
        (path,) = (tmp_path / "p").glob("scores_*.pt")
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        again = prune(*flags, 0.5)
        assert (again.code, again.err) == (0, "")
        assert f"p/{path.name} is damaged; it is made anew" in again.out.splitlines()
        assert "damaged" not in prune(*flags, 0.5).out

    def test_a_network_that_a_method_trained(self, prune, tmp_path):
        flags = ["--method", "slimming", "--opt", "sparse_epochs=1", "--save", "p", "--global-ratio", 0.3]
        assert prune(*flags).code == 0
        (path,) = (tmp_path / "p").glob("prepared_*/network.pt")
        for scores in (tmp_path / "p").glob("scores_*.pt"):
            scores.unlink()
        path.write_bytes(path.read_bytes()[:2000])
        again = prune(*flags)
        assert again.code == 0 and "network.pt is damaged; it is made anew" in again.out

    def test_files_of_a_benchmark(self, call, common, shallow_baseline, tmp_path):
        words = [*common, "--no-latency", "--no-recalibrate", "--reconstruction-images", 0, "--methods", "l1"]
        words += ["--ratios", 0.3, "--out-dir", "o", "--baseline", shallow_baseline, "--oracle", "--oracle-images", 2]
        words += ["--oracle-units", 1, "--model", "unet_small"]
        assert call("benchmark.py", *words, folder=tmp_path).code == 0
        (job,) = (tmp_path / "o").glob("l1_*")
        (losses,) = (tmp_path / "o").glob("oracle_losses_*.json")
        for path in (job / REPORT, job / INFO, losses):
            path.write_bytes(path.read_bytes()[:50])
            again = call("benchmark.py", *words, folder=tmp_path)
            assert (again.code, again.err) == (0, ""), path
            named = path.relative_to(tmp_path)
            assert [line for line in again.out.splitlines() if "damaged" in line] == [
                f"{named} is damaged; it is made anew"
            ]
            read_json(path)

    def test_a_run_to_resume(self, call, common, tmp_path):
        words = [*common, "--model", "unet_small", "--input-size", "16,16", "--batch-size", 4, "--save", "t"]
        assert call("train.py", *words, "--epochs", 1, folder=tmp_path).code == 0
        (tmp_path / "t" / REPORT).unlink()
        (tmp_path / "t" / "last.pt").write_bytes(b"half")
        refused = call("train.py", *words, "--epochs", 1, "--resume", folder=tmp_path)
        assert refused.code == 1 and len(refused.err.splitlines()) == 1
        assert "last.pt is damaged" in refused.err and "--overwrite" in refused.err


class TestMemory:
    def test_scoring_names_what_would_take_less(self, call, common, shallow_baseline, tmp_path, monkeypatch):
        def runs_out(*_):
            raise RuntimeError(MEMORY)

        monkeypatch.setattr(evaluation, "predict", runs_out)
        words = ["--baseline", shallow_baseline, "--report", "r.json"]
        done = call("eval.py", *common, *words, folder=tmp_path)
        assert done.code == 1 and len(done.err.splitlines()) == 1
        assert "out of memory in scoring" in done.err and "--eval-batch-size" in done.err

    def test_training_names_its_own_options(self, call, common, prune, tmp_path, monkeypatch):
        def runs_out(*_):
            raise MemoryError

        monkeypatch.setattr(TrainingLoss, "__call__", runs_out)
        words = [*common, "--model", "unet_small", "--epochs", 1, "--input-size", "16,16", "--save", "t"]
        done = call("train.py", *words, folder=tmp_path)
        assert done.code == 1 and len(done.err.splitlines()) == 1
        assert "out of memory in training; use a smaller --batch-size or --crop-size" in done.err
        assert "--resume goes on after the last finished epoch" in done.err
        done = prune("--method", "slimming", "--opt", "sparse_epochs=1", "--save", "p", "--global-ratio", 0.3)
        assert done.code == 1 and "sparse_batch_size of slimming" in done.err and "--batch-size" not in done.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_loader_process_that_is_killed_is_replaced(tiny_camvid, number):
    data = SegmentationData(DataOptions(dataset="camvid", data_root=str(tiny_camvid), num_workers=1))
    loader = data.eval_loader("train", 1)
    with pytest.raises(MachineError, match="a process that loads images was killed"):
        for _ in loader:
            iterator = loader._batches._iterator
            (worker,) = iterator._workers
            lock = iterator._workers_done_event._cond
            os.kill(worker.pid, number)
            # torch tells of it in the middle of anything: here, and not in pytest's own code.
            with contextlib.suppress(RuntimeError):
                time.sleep(0.5)
    assert len(list(loader)) == 8
    # Where the process was killed while it held the lock, nobody may wait for it.
    with lock:
        iterator._shutdown_workers()
    assert not worker.is_alive()


def test_a_folder_for_temporary_files_is_looked_at_before_processes_wait_for_it(tiny_camvid, monkeypatch):
    from multiprocessing import util

    data = SegmentationData(DataOptions(dataset="camvid", data_root=str(tiny_camvid), num_workers=1))
    monkeypatch.setattr(util, "get_temp_dir", lambda: "/" + "long" * 30)
    with pytest.raises(MachineError, match=r"too long.*set TMPDIR"):
        next(iter(data.eval_loader("val", 1)))

    def none():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(util, "get_temp_dir", none)
    with pytest.raises(MachineError, match=r"no folder for temporary files.*`num_workers=0`"):
        next(iter(data.eval_loader("val", 1)))
