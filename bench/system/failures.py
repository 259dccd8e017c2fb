"""Failures of the machine told in one line: memory, disk, loader processes, open files, permissions, encodings.

What Python and torch raise for them differs in type and runs over many lines; here alone it is told apart. The command
line, the jobs of a sweep and the loaders ask `explained`; a stage that knows which option takes its memory says so by
`memory_of`.
"""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Iterator

from bench.errors import BenchError, MachineError, first_line

_NO_MEMORY = re.compile(
    r"DefaultCPUAllocator|CUDA out of memory|CUDA error: out of memory|not enough memory|Cannot allocate memory"
    r"|can't allocate memory|std::bad_alloc|_ALLOC_FAILED|unable to mmap|could not create a memory"
)
_SHARED_MEMORY = re.compile(r"shared memory|file </torch_|Bus error")
_LOADER = re.compile(r"DataLoader worker|Pin memory thread")
_OPEN_FILES = re.compile(r"Too many open files|items of ancdata")
_BUSY = re.compile(r"CUDA.*(busy or unavailable|no kernel image|driver)")
_AMOUNT = re.compile(r"allocate (\d+) bytes|allocate ([\d.]+ ?[KMGT]i?B)", re.IGNORECASE)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_DISK = "free some, or choose another folder; what is finished stays, the same command goes on from there"


def explained(error: BaseException) -> BenchError | None:
    """The error as a user can mend it, None where it is none of the machine's: a defect keeps its traceback.

    Args:
        error: anything that was raised; a BenchError is its own explanation.
    """
    if isinstance(error, BenchError):
        return error
    if not isinstance(error, Exception):
        return None
    if is_out_of_memory(error):
        return _out_of_memory(error, "", "use a smaller `batch_size`, `crop_size`, `eval_batch_size` or `input_size`")
    reason = _of_processes(str(error)) if isinstance(error, RuntimeError | OSError) else None
    if reason is None and isinstance(error, OSError):
        reason = _of_files(error)
    if reason is None and isinstance(error, RuntimeError) and _BUSY.search(str(error)):
        reason = f"the GPU cannot be used ({first_line(error)}); free it, or pass `device=cpu`"
    if isinstance(error, UnicodeEncodeError):
        reason = f"{error.object!a} cannot be written as {error.encoding}; set PYTHONUTF8=1 or use plainer names"
    return None if reason is None else MachineError(reason)


@contextlib.contextmanager
def memory_of(stage: str, mend: str) -> Iterator[None]:
    """Says of memory that runs out in a stage what would take less of it.

    Args:
        stage: what is done, as in "out of memory in training".
        mend: what to do about it, options in backticks.

    Raises:
        MachineError: in place of what torch, numpy or Python raise then.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise _out_of_memory(error, f" in {stage}", mend) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the CPU or of a GPU, has run out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def in_one_line(error: BaseException) -> str:
    """What an error says, in one line, whoever raised it."""
    return first_line(explained(error) or error)


def _out_of_memory(error: BaseException, where: str, mend: str) -> MachineError:
    amount = _AMOUNT.search(str(error))
    wanted = ""
    if amount:
        count, text = amount.groups()
        wanted = f" ({text or f'{int(count) / 2**30:.2f} GiB'} more wanted)"
    return MachineError(f"out of memory{where}{wanted}; {mend}")


def _of_processes(text: str) -> str | None:
    """What becomes of loader processes, threads and what they share."""
    if _OPEN_FILES.search(text):
        return "too many open files; raise the limit (ulimit -n) or pass `num_workers=0`"
    # What a process of its own has raised follows the traceback of there.
    said = text.strip().splitlines()[-1] if text.startswith("Caught ") else text
    if _SHARED_MEMORY.search(said):
        return (
            f"the processes that load images ran out of shared memory ({_size_of('/dev/shm')}); pass "
            "`num_workers=0` or a smaller `batch_size`, or give it more (docker run --shm-size=2g)"
        )
    if _LOADER.search(said) and re.search("exited unexpectedly|killed by signal", said):
        return (
            f"a process that loads images was killed ({_how(said)}), most likely because memory ran out; pass fewer "
            "`num_workers` (0 starts none) or a smaller `batch_size`"
        )
    if "can't start new thread" in text:
        return "no further thread can be started; raise the limit (ulimit -u), or lower `threads` and `num_workers`"
    return None


def _of_files(error: OSError) -> str | None:
    name = f"{error.filename}" if error.filename is not None else ""
    if isinstance(error, BrokenPipeError):
        return None
    if error.errno in _FULL:
        return f"cannot write {name or 'a file'}: {error.strerror}; {_DISK}"
    if error.errno == errno.EAGAIN:
        return (
            "no further process can be started (Resource temporarily unavailable); raise the limit (ulimit -u) or pass "
            "`num_workers=0`"
        )
    if error.errno in _DENIED:
        return f"{name or 'a file'}: {error.strerror}; change its permissions or choose another one"
    if error.strerror and name:
        return f"{name}: {error.strerror}"
    return first_line(error)


def not_written(path: object, error: BaseException) -> MachineError:
    """The error of a file that could not be written, by what was raised: torch's writer does not say why."""
    if not isinstance(error, OSError):
        return MachineError(f"cannot write {path} ({first_line(error)}); is the disk full?")
    mend = f"; {_DISK}" if error.errno in _FULL else "; choose another folder" if error.errno in _DENIED else ""
    return MachineError(f"cannot write {path}: {error.strerror or first_line(error)}{mend}")


def _how(text: str) -> str:
    found = re.search(r"pid\D*(\d+).*?(?:signal: (\w+))?(?:\.|$)", text, re.MULTILINE)
    return f"process {found[1]}" + (f", {found[2]}" if found[2] else "") if found else first_line(text)


def _size_of(folder: str) -> str:
    with contextlib.suppress(OSError):
        return f"{folder} has {shutil.disk_usage(folder).total / 2**20:.0f} MiB"
    return folder
