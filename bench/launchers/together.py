"""A command line in several processes that torchrun starts: `python -m bench.launchers.together N MODULE WORDS`.

Ends as the process that failed first, without torchrun's account of it: with its status, or by the signal that ended
it, so that who waits can tell one from the other.
"""

from __future__ import annotations

import logging
import os
import signal
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from bench.launchers.base import import_path


def main(count: str, module: str, *words: str) -> int:
    """Runs it; the exit status.

    Args:
        count: how many processes.
        module: what `python -m` runs in each.
        words: what stands behind it.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ |= {"PYTHONPATH": import_path(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    try:
        run.main(["--standalone", f"--nproc_per_node={count}", "-m", module, *words])
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        # Those that torchrun ended itself, because of another one, are told apart by SIGTERM.
        code = next((code for code in codes if code < 0 and code != -signal.SIGTERM), max(codes))
        if code < 0:
            signal.signal(-code, signal.SIG_DFL) if code != -signal.SIGKILL else None
            os.kill(os.getpid(), -code)
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
