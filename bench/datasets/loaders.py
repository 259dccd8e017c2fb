"""Batches from the processes that load images, and what may befall these processes."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import util
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import data
from torch.utils.data import _utils

from bench.config.values import size_text
from bench.errors import BenchError, MachineError
from bench.system.failures import explained
from bench.torch_utils.batches import Batch

# A socket's name has at most 107 bytes, of which its own part is `/listener-` and 8 letters.
_LONGEST = 107 - 18

# Files that a command has open, and those of a process that loads images: pipes, and a tensor for each image and label
# of the batches that wait.
_OWN_FILES, _FILES_A_WORKER = 48, 16


class EpochOrder(Protocol):
    """Batches of keys whose order follows the epoch."""

    epoch: int

    def __iter__(self) -> Iterator[list[Any]]: ...


class Samples(data.Dataset):
    """Samples by key. An error is returned in the sample's place: raised in a worker it would lose its message."""

    def __getitem__(self, key: Any) -> tuple[Tensor, Tensor] | BenchError:
        try:
            return self.sample(key)
        except Exception as error:
            known = explained(error)
            if known is None:
                raise
            return known

    def sample(self, key: Any) -> tuple[Tensor, Tensor]:
        """One image and its label; a BenchError about either, or about the machine, is passed on as it is."""
        raise NotImplementedError


class Loader:
    """Iterates over batches; an error met in a worker process is raised here as it is, one of the process in one line.

    After an error the next iteration begins with new processes.
    """

    def __init__(self, samples: data.Dataset, batches: Iterable[list[Any]], workers: int):
        self._settings = {
            "dataset": samples,
            "batch_sampler": batches,
            "num_workers": workers,
            "collate_fn": _collate,
            "pin_memory": torch.cuda.is_available(),
            "persistent_workers": workers > 0,
            "worker_init_fn": _begin_worker,
        }
        self._batches = data.DataLoader(**self._settings)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        if self._settings["num_workers"]:
            _check_temporary_folder()
            _check_open_files(self._settings["num_workers"])
        batches = None
        while True:
            try:
                batches = batches or iter(self._batches)
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                # Persistent workers of which one is gone would fail ever after.
                _end_workers(self._batches)
                self._batches = data.DataLoader(**self._settings)
                known = explained(error)
                if known is None:
                    raise
                raise known from error
            if isinstance(batch, BenchError):
                try:
                    raise batch
                finally:
                    # The error's traceback holds this frame; held by it in turn, it would keep the workers alive.
                    del batch
            yield batch


class TrainLoader(Loader):
    """A loader whose order and augmentation follow the epoch."""

    def __init__(self, samples: data.Dataset, batches: EpochOrder, workers: int):
        super().__init__(samples, batches, workers)
        self._order = batches

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch the next iteration runs; call it before every one."""
        self._order.epoch = epoch


def _end_workers(batches: data.DataLoader) -> None:
    """Ends the processes of a loader of which one was killed; without such a one torch does.

    The killed one may have held the lock of the event by which torch ends them, for which it would wait for ever.
    """
    iterator = getattr(batches, "_iterator", None)
    workers = getattr(iterator, "_workers", [])
    if all(worker.is_alive() for worker in workers):
        return
    # That they end is no failure any more.
    _utils.signal_handling._remove_worker_pids(id(iterator))
    iterator._worker_pids_set = False
    for worker in workers:
        worker.kill()
    iterator._workers_done_event = threading.Event()


def _begin_worker(_number: int) -> None:
    """Leaves Ctrl-C and SIGTERM, which may be sent to a whole group, to the process that trains to tell of."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Without a failure, which torch would raise in the other process wherever that is by then.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    sys.excepthook = _tell_of_defects


def _tell_of_defects(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Shows what a thread of a worker that passes images on ends with, except where the other process says it."""
    if explained(error) is None:
        sys.__excepthook__(kind, error, traceback)


def _check_temporary_folder() -> None:
    """Makes the folder in which processes meet that pass images on.

    Each would make it for itself, and where it cannot, those that wait for its images would wait for ever.

    Raises:
        MachineError: there is none to write to, or its name is too long for a socket's.
    """
    mend = "set TMPDIR to a folder with space and a short name, or pass `num_workers=0`"
    try:
        folder = util.get_temp_dir()
    except OSError as error:
        raise MachineError(f"no folder for temporary files ({error.strerror or error}); {mend}") from error
    if len(folder.encode(errors="surrogateescape")) > _LONGEST:
        raise MachineError(f"the name of the folder for temporary files is too long ({folder}); {mend}")


def _check_open_files(workers: int) -> None:
    """Raises the number of files that may be open to what is needed, where the system allows it.

    Each tensor that waits to be used keeps one open. A process that cannot open one more ends, or waits for ever,
    wherever that befalls it.

    Raises:
        MachineError: too few may be open.
    """
    wanted = _OWN_FILES + workers * _FILES_A_WORKER
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise MachineError(
            f"only {hard} files may be open, too few for {workers} processes that load images; raise the limit "
            f"(ulimit -n {wanted}) or pass `num_workers=0`"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _collate(samples: list[tuple[Tensor, Tensor] | BenchError]) -> Batch | BenchError:
    for sample in samples:
        if isinstance(sample, BenchError):
            return sample
    sizes = {tuple(label.shape) for _, label in samples}
    if len(sizes) > 1:
        shown = " and ".join(map(size_text, sorted(sizes)[:2]))
        return BenchError(f"labels of one batch differ in size ({shown}); use `eval_batch_size=1`")
    images, labels = data.default_collate(samples)
    return images, labels
