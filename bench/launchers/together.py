"""A command line in several processes that torchrun starts: `python -m bench.launchers.together N MODULE WORDS`.

Ends as the process that failed first, without torchrun's account of it: with its status, or by the signal that ended
it, so that who waits can tell one from the other. With `gpus=4,5` before N they see these alone.
"""

from __future__ import annotations

import logging
import os
import signal
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from bench.launchers.base import import_path

GPUS = "gpus="


def main(*words: str) -> int:
    """Runs it; the exit status.

    Args:
        words: which GPUs, if that is said; how many processes; what `python -m` runs in each, and what stands behind.
    """
    variables = [f"PYTHONPATH={import_path()}"]
    if words[0].startswith(GPUS):
        variables.append(f"CUDA_VISIBLE_DEVICES={words[0].removeprefix(GPUS)}")
        words = words[1:]
    count, module, *others = words
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    program = ["env", *variables, sys.executable, "-m", module, *others]
    try:
        run.main(["--standalone", f"--nproc_per_node={count}", "--no-python", *program])
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        # Those that torchrun ended itself, because of another one, are told apart by SIGTERM.
        code = next((code for code in codes if code < 0 and code != -signal.SIGTERM), max(codes))
        if code < 0:
            _end_by(-code)
        return code
    return 0


def _end_by(number: int) -> None:
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
