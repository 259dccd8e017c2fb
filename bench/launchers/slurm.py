"""Jobs of a SLURM cluster, by submitit: an array of one task a command line, put back in the queue when preempted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError, UsageError, first_line
from bench.launchers.base import Ended, Launcher, Launching, run_command

_POLL_SECONDS = 2.0


class Task:
    """A command line that submitit pickles, and submits again where its job is preempted or runs out of time."""

    def __init__(self, module: str, words: Sequence[str], folder: str):
        """Takes over what it is.

        Args:
            module: what `python -m` runs.
            words: what stands behind it.
            folder: the working folder.
        """
        self.module, self.words, self.folder = module, list(words), folder

    def __call__(self) -> tuple[int, str]:
        """Runs it; exit status and last line on stderr."""
        return run_command(self.module, self.words, self.folder)

    def checkpoint(self) -> Any:
        """What submitit submits again: the same, which goes on where its files say."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class Slurm(Launcher):
    """`--launcher slurm --jobs N --launcher-options partition=NAME,timeout_min=240`."""

    known = ("partition", "timeout_min", "mem_gb", "account", "qos", "constraint", "gres", "setup", "cluster")

    def __init__(self, launching: Launching):
        """Finds submitit and the cluster.

        Raises:
            BenchError: submitit is not installed, or there is no SLURM here.
        """
        super().__init__(launching)
        try:
            import submitit
        except ImportError as error:
            raise BenchError(
                "--launcher slurm needs submitit; pip install -r requirements-cluster.txt, or use --launcher local"
            ) from error
        options = dict(launching.options)
        cluster = options.pop("cluster", "slurm")
        if cluster not in ("slurm", "local"):
            raise UsageError(f"--launcher-options cluster={cluster} is neither slurm nor local")
        try:
            self._executor = submitit.AutoExecutor(folder=launching.logs, cluster=cluster)
        except RuntimeError as error:
            raise BenchError(f"no SLURM is to be had here ({first_line(error)}); use --launcher local") from error
        own = {name: options.pop(name) for name in ("timeout_min", "mem_gb") if name in options}
        own |= {f"slurm_{name}": value for name, value in options.items()}
        own |= {"slurm_array_parallelism": launching.jobs} if cluster == "slurm" else {}
        self._executor.update_parameters(
            name="bench", cpus_per_task=launching.threads, gpus_per_node=launching.gpus, **own
        )

    def run(self, commands: Sequence[Sequence[str]]) -> Iterator[Ended]:
        """Submits them as an array; on Ctrl-C what is left of it is cancelled."""
        tasks = [Task(self.how.module, words, str(Path.cwd())) for words in commands]
        with self._executor.batch():
            jobs = [self._executor.submit(task) for task in tasks]
        left = dict(enumerate(jobs))
        try:
            while left:
                for number, job in list(left.items()):
                    if job.done():
                        del left[number]
                        yield _ended(number, job)
                time.sleep(_POLL_SECONDS if left else 0)
        finally:
            for job in left.values():
                job.cancel()


def _ended(number: int, job: Any) -> Ended:
    try:
        return Ended(number, *job.result())
    except Exception as error:  # noqa: BLE001 - a job that was cancelled or killed says so in submitit's own ways
        return Ended(number, None, f"SLURM job {job.job_id}: {job.state}, {first_line(error)}")
