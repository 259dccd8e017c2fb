"""Jobs of a SLURM cluster, by submitit: an array of one task a command line, put back in the queue when preempted."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError, UsageError, first_line
from bench.launchers.base import Ended, Launcher, Launching, run_command

_POLL_SECONDS = 2.0
_QUEUE_SECONDS = 10.0
# States of a job that will not run again by itself.
_OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "GONE", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")


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
        # The local executor has no queue.
        self._has_queue = cluster == "slurm"
        own = {name: options.pop(name) for name in ("timeout_min", "mem_gb") if name in options}
        own |= {f"slurm_{name}": value for name, value in options.items()}
        # It warns at each look where SLURM keeps no accounts.
        logging.getLogger("submitit").setLevel(logging.ERROR)
        own |= {"slurm_array_parallelism": launching.jobs} if cluster == "slurm" else {}
        self._executor.update_parameters(
            name="bench", cpus_per_task=launching.threads, gpus_per_node=launching.gpus, **own
        )

    def run(self, commands: Sequence[Sequence[str]]) -> Iterator[Ended]:
        """Submits them as an array; on Ctrl-C what is left of it is cancelled."""
        tasks = [Task(self.how.module, words, str(Path.cwd())) for words in commands]
        with self._executor.batch():
            jobs = [self._executor.submit(task) for task in tasks]
        left, next_look = dict(enumerate(jobs)), time.monotonic()
        try:
            while left:
                over = {number: "" for number, job in left.items() if self._has_result(job)}
                if self._has_queue and time.monotonic() > next_look:
                    next_look = time.monotonic() + _QUEUE_SECONDS
                    over = gone(left) | over
                for number, state in over.items():
                    yield _ended(number, left.pop(number), state)
                time.sleep(_POLL_SECONDS if left else 0)
        finally:
            for job in left.values():
                job.cancel()

    def _has_result(self, job: Any) -> bool:
        # What submitit does besides is to ask the accounts, which not every SLURM keeps: there it would wait for ever
        # for a job that is cancelled.
        return job.paths.result_pickle.exists() if self._has_queue else job.done()


def gone(jobs: Mapping[int, Any]) -> dict[int, str]:
    """Which of some jobs SLURM's queue says are over, and how."""
    words = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i %T"]
    queue = subprocess.run(words, capture_output=True, text=True, check=False)
    if queue.returncode:
        return {}
    states = dict(line.split()[:2] for line in queue.stdout.splitlines() if line.strip())
    # One that is not listed any more ended a while ago.
    found = {number: states.get(job.job_id, "GONE") for number, job in jobs.items()}
    return {number: state for number, state in found.items() if state in _OVER}


def _ended(number: int, job: Any, state: str) -> Ended:
    """How a job ended that has a result, or that is over by its state: then the file may need a moment to be seen."""
    end = time.monotonic() + _QUEUE_SECONDS
    while state and not job.paths.result_pickle.exists():
        if state != "COMPLETED" or time.monotonic() > end:
            # To ask submitit for the result would be to wait for it.
            return Ended(number, None, f"SLURM job {job.job_id}: {state}")
        time.sleep(_POLL_SECONDS)
    try:
        return Ended(number, *job.result())
    except Exception as error:  # noqa: BLE001 - a job that was cancelled or killed says so in submitit's own ways
        return Ended(number, None, f"SLURM job {job.job_id}: {job.state}, {first_line(error)}")
