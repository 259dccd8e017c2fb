"""A sweep on a cluster, of which a part is lost while it runs: its numbers are those of a sweep in one process.

    PYTHONPATH=tests python -m tests.reliability.cluster_sweep --launcher ray|slurm|local [--processes 2]

ray: a real cluster of two nodes on this machine (`ray.cluster_utils`), of which one is killed once a cell is done.
slurm: a real SLURM of one node, whose daemons are started in a folder of their own; a job is cancelled. Where they are
not installed (Debian: slurmctld, slurmd, munge), submitit's local executor, of whose processes one is killed. local: a
process of `--jobs 2` is killed. What was done before must not be run again. With `--processes` each cell is run by so
many, which torchrun starts; networks and mIoU may then differ by 1e-4. The exit status is 1 where something differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.commands.benchmark import main as benchmark
from bench.models.checkpoint import load_model
from tests.reliability import one_node_slurm
from tests.reliability.sweeps import NETWORKS, Process, descendants, finished, numbers, prepared, strays


@contextlib.contextmanager
def two_nodes(cpus: int) -> Iterator[tuple[str, Callable[[], str]]]:
    """A Ray cluster of so many CPUs a node: the option that names it, and what kills one of its nodes."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus})
    second = cluster.add_node(num_cpus=cpus)
    try:

        def kill() -> str:
            cluster.remove_node(second, allow_graceful=False)
            return "a node"

        yield f"address={cluster.address}", kill
    finally:
        ray.shutdown()
        cluster.shutdown()


@contextlib.contextmanager
def slurm() -> Iterator[tuple[str, Callable[[], str]]]:
    """A SLURM of one node: no option, and what cancels a job."""
    with one_node_slurm.one_node():
        yield "timeout_min=30", one_node_slurm.cancel_one


@contextlib.contextmanager
def processes(option: str, words: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """No cluster: processes of this one, of which one that runs a cell is killed."""

    def kill() -> str:
        for pid in descendants(os.getpid()):
            with contextlib.suppress(OSError):
                if words in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)
                    return f"process {pid}"
        return "nothing"

    yield option, kill


def main() -> int:
    """Runs both sweeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--launcher", choices=("ray", "slurm", "local"), required=True)
    parser.add_argument("--processes", type=int, default=1, help="of each cell")
    arguments = parser.parse_args()
    places = {
        "ray": lambda: two_nodes(arguments.processes),
        "slurm": slurm if one_node_slurm.is_installed() else lambda: processes("cluster=local", "submitit"),
        "local": lambda: processes("", "forkserver" if arguments.processes == 1 else "bench.commands.benchmark"),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = [*prepared(folder), "--methods", "l1,taylor", "--seeds", "0"]
        flags = [word for word in flags if word not in ("--opt", "slimming.sparse_epochs=1")]
        assert Process([*flags, "--out-dir", str(folder / "whole")], folder / "log.txt").wait() == 0
        with places[arguments.launcher]() as (option, kill):
            launched = ["--launcher", arguments.launcher, "--jobs", "2"]
            launched += ["--processes-per-cell", str(arguments.processes)]
            launched += ["--launcher-options", option] if option else []
            faults = lost(folder / "out", [*flags, *launched, "--out-dir", str(folder / "out")], kill)
        whole, found = numbers(folder / "whole"), numbers(folder / "out")
        if arguments.processes == 1:
            faults += [f"the numbers of {cell} differ" for cell in whole if whole[cell] != found.get(cell)]
        else:
            furthest = max(apart(folder / "whole", folder / "out", cell) for cell in whole)
            print(f"furthest apart: {furthest:.2e}")
            faults += ["the numbers differ by more than 1e-4"] if furthest > 1e-4 else []
        faults += [f"{name} is left" for name in strays(folder / "out")]
    for fault in faults:
        print(fault)
    print(f"{arguments.launcher}, {len(whole)} cells: {len(faults)} faults")
    return int(bool(faults))


def apart(whole: Path, found: Path, cell: str) -> float:
    """How far the networks of a cell and their mIoU are from those of the same cell elsewhere."""
    differences = []
    for name in NETWORKS:
        one, other = (load_model(out / cell / name).model.state_dict() for out in (whole, found))
        differences += [(one[key].float() - other[key].float()).abs().max().item() for key in one]
    for name in ("report.json", "finetuned_report.json"):
        one, other = (json.loads((out / cell / name).read_text()) for out in (whole, found))
        differences.append(abs(one["candidate"]["quality"]["miou"] - other["candidate"]["quality"]["miou"]))
    return max(differences)


def lost(out: Path, words: list[str], kill: Callable[[], str]) -> list[str]:
    """Runs a sweep, of which a part is lost once a cell is done; the cells that were run again all the same."""
    before: dict[str, tuple[int, ...]] = {}
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.2):
            if out.is_dir() and (done := finished(out)):
                before.update(done)
                print(f"killed {kill()} when {len(done)} cells were done", flush=True)
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    try:
        benchmark(words)
    finally:
        is_over.set()
        watcher.join()
    print(f"{time.monotonic() - began:.0f} s")
    now = finished(out)
    return [f"{cell} was run again" for cell in before if before[cell] != now[cell]]


if __name__ == "__main__":
    sys.exit(main())
