"""The machine's failures, told apart by what Python and torch raise, each in one line that says how to mend it."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from bench.errors import BenchError, MachineError, UsageError, as_flags
from bench.system.failures import explained, in_one_line, memory_of, not_written


def system_error(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4608000000 bytes. Error code 12 (Cannot allocate memory)"
)
GPU = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB"
BUS = (
    "DataLoader worker (pid 71) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit."
)
SHARED = (
    "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    '  File "x.py", line 1, in <module>\nRuntimeError: unable to allocate shared memory(shm) for file '
    "</torch_8_1_0>: No space left on device (28)\n"
)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), ["out of memory;", "--batch-size", "--eval-batch-size"]),
        (RuntimeError(CPU), ["out of memory (4.29 GiB more wanted)", "--batch-size"]),
        (torch.OutOfMemoryError(GPU), ["out of memory (2.50 GiB more wanted)", "--batch-size"]),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be..."), ["out of memory;"]),
        (RuntimeError("unable to mmap 96 bytes from file </torch_7>: Cannot allocate memory (12)"), ["out of memory"]),
        (system_error(errno.ENOMEM), ["out of memory"]),
        (RuntimeError(BUS), ["shared memory (/dev/shm", "--num-workers 0", "--shm-size"]),
        (RuntimeError(SHARED), ["shared memory (/dev/shm", "--num-workers 0"]),
        (
            RuntimeError("DataLoader worker (pid 71) is killed by signal: Killed. "),
            ["process that loads images was killed (process 71, Killed)", "--num-workers"],
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 71, 72) exited unexpectedly"),
            ["was killed (process 71)", "--num-workers"],
        ),
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)"),
         ["too many open files", "ulimit -n", "--num-workers 0"]),
        (RuntimeError("received 0 items of ancdata"), ["too many open files"]),
        (system_error(errno.EMFILE, "a.png"), ["too many open files", "ulimit -n"]),
        (RuntimeError("can't start new thread"), ["no further thread", "--threads"]),
        (system_error(errno.EAGAIN), ["no further process", "ulimit -u", "--num-workers 0"]),
        (system_error(errno.ENOSPC, "a.pt"), ["cannot write a.pt: No space left on device", "free some"]),
        (system_error(errno.EDQUOT, "a.pt"), ["cannot write a.pt: Disk quota exceeded", "free some"]),
        (system_error(errno.EACCES, "folder"), ["folder: Permission denied", "permissions"]),
        (system_error(errno.EROFS, "folder"), ["folder: Read-only file system"]),
        (system_error(errno.EIO, "a.png"), ["a.png: Input/output error"]),
        (OSError("Matplotlib requires access to a writable cache directory\nmore"), ["Matplotlib requires access"]),
        (UnicodeEncodeError("ascii", "größe", 2, 4, "ordinal not in range"), [r"'gr\xf6\xdfe'", "PYTHONUTF8=1"]),
        (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nmore"), ["--device cpu"]),
    ],
)  # fmt: skip
def test_what_can_be_mended_is_told_in_one_line(error, says):
    told = explained(error)
    assert type(told) is MachineError and "\n" not in str(told)
    assert [part for part in says if part not in as_flags(str(told))] == []
    assert in_one_line(error) == str(told)


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("division by zero"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError(
            "Caught RuntimeError in DataLoader worker process 0.\n...\nRuntimeError: stack expects each tensor"
        ),
        KeyError("shared memory"),
        KeyboardInterrupt(),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
    ],
)
def test_a_defect_stays_what_it_is(error):
    assert explained(error) is None


def test_a_users_error_explains_itself():
    error = UsageError("no")
    assert explained(error) is error


def test_a_stage_says_what_takes_its_memory():
    with pytest.raises(MachineError) as caught, memory_of("scoring", "use a smaller `eval_batch_size`"):
        raise RuntimeError(CPU)
    assert str(caught.value) == "out of memory in scoring (4.29 GiB more wanted); use a smaller `eval_batch_size`"
    with pytest.raises(MachineError, match="in scoring"), memory_of("training", "no"), memory_of("scoring", "this"):
        raise MemoryError
    with pytest.raises(ValueError), memory_of("scoring", "no"):
        raise ValueError("a defect")


def test_files_that_cannot_be_written():
    full = not_written("a.pt", system_error(errno.ENOSPC))
    assert str(full).startswith("cannot write a.pt: No space left on device; free some")
    assert str(not_written("a.pt", RuntimeError("iostream error\nx"))) == (
        "cannot write a.pt (iostream error); is the disk full?"
    )
    assert isinstance(full, BenchError)
