"""Tasks of an existing Ray cluster: one a command line, spread over its nodes, run again where a node is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError, first_line
from bench.launchers import base
from bench.launchers.base import Ended, Launcher, Launching, run_command

_RETRIES = 3


class RayCluster(Launcher):
    """`--launcher ray --launcher-options address=HOST:PORT`."""

    known = ("address", "retries", "memory_gb", "placement")

    def __init__(self, launching: Launching):
        """Joins the cluster.

        Raises:
            BenchError: Ray is not installed, or there is no cluster at the address.
        """
        super().__init__(launching)
        try:
            import ray
        except ImportError as error:
            raise BenchError(
                "--launcher ray needs Ray; pip install -r requirements-cluster.txt, or use --launcher local"
            ) from error
        # By value, so that nodes need the package only where its folder is: the same as here.
        ray.cloudpickle.register_pickle_by_value(base)
        self._ray, address = ray, launching.options.get("address", "auto")
        if ray.is_initialized():
            return
        try:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BenchError(
                f"no Ray cluster at {address} ({first_line(error)}); start one with 'ray start --head', or name it "
                "with --launcher-options address=HOST:PORT"
            ) from error

    def run(self, commands: Sequence[Sequence[str]]) -> Iterator[Ended]:
        """Runs them as resources are free; on Ctrl-C what is left is cancelled."""
        options = self.how.options
        resources: dict[str, Any] = {"num_cpus": self.how.threads, "num_gpus": self.how.gpus}
        if "memory_gb" in options:
            resources["memory"] = int(float(options["memory_gb"]) * 2**30)
        task = self._ray.remote(run_command).options(
            max_retries=int(options.get("retries", _RETRIES)),
            scheduling_strategy=str(options.get("placement", "SPREAD")).upper(),
            **resources,
        )
        folder = str(Path.cwd())
        left = {task.remote(self.how.module, list(words), folder): number for number, words in enumerate(commands)}
        try:
            while left:
                (done,), _ = self._ray.wait(list(left), num_returns=1)
                number = left.pop(done)
                try:
                    yield Ended(number, *self._ray.get(done))
                except self._ray.exceptions.RayError as error:
                    yield Ended(number, None, first_line(error))
        finally:
            for task_left in left:
                self._ray.cancel(task_left, force=True)
