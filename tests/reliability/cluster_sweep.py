"""A sweep on a cluster, of which a part is lost while it runs: its numbers are those of a sweep in one process.

    PYTHONPATH=tests python -m tests.reliability.cluster_sweep --launcher ray|slurm|local

ray: a real cluster of two nodes on this machine (`ray.cluster_utils`), of which one is killed once a cell is done.
slurm: submitit's local executor, of whose processes one is killed. local: a process of `--jobs 2` is killed. What was
done before must not be run again. The exit status is 1 where something differs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.commands.benchmark import main as benchmark
from tests.reliability.sweeps import Process, descendants, finished, numbers, prepared, strays


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[str, Callable[[], str]]]:
    """A Ray cluster: the option that names it, and what kills one of its nodes."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    try:

        def kill() -> str:
            cluster.remove_node(second, allow_graceful=False)
            return "a node"

        yield f"address={cluster.address}", kill
    finally:
        ray.shutdown()
        cluster.shutdown()


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
    arguments = parser.parse_args()
    places = {
        "ray": two_nodes,
        "slurm": lambda: processes("cluster=local", "submitit"),
        "local": lambda: processes("", "forkserver"),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = [*prepared(folder), "--methods", "l1,taylor", "--seeds", "0"]
        flags = [word for word in flags if word not in ("--opt", "slimming.sparse_epochs=1")]
        assert Process([*flags, "--out-dir", str(folder / "whole")], folder / "log.txt").wait() == 0
        with places[arguments.launcher]() as (option, kill):
            launched = ["--launcher", arguments.launcher, "--jobs", "2"]
            launched += ["--launcher-options", option] if option else []
            faults = lost(folder / "out", [*flags, *launched, "--out-dir", str(folder / "out")], kill)
        whole, found = numbers(folder / "whole"), numbers(folder / "out")
        faults += [f"the numbers of {cell} differ" for cell in whole if whole[cell] != found.get(cell)]
        faults += [f"{name} is left" for name in strays(folder / "out")]
    for fault in faults:
        print(fault)
    print(f"{arguments.launcher}, {len(whole)} cells: {len(faults)} faults")
    return int(bool(faults))


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
