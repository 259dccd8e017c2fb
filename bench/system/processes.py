"""Several processes that train one network: `torchrun --nproc_per_node N train.py ...`.

A command whose work is more than one training is run by the first of them alone; the others help it to train (`led`,
`together`). Every function also works, and does nothing, in a process that torchrun did not start.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.errors import BenchError, UsageError, first_line
from bench.torch_utils.shared_statistics import share_statistics, stop_sharing

# How long processes that start together may be apart.
_PATIENCE = timedelta(seconds=100)
_BY_TORCHRUN = "start them by torchrun, or unset WORLD_SIZE to train in one process"


@dataclass(frozen=True)
class World:
    """This process's place among those that train together.

    Attributes:
        rank: number of this process, 0 for the one that writes files.
        size: number of processes.
        shares_batches: whether a batch is that of all processes together, and not one for each.
    """

    rank: int = 0
    size: int = 1
    shares_batches: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Joins the processes torchrun started and yields this process's own device.

    Args:
        device: the device asked for; `cuda` becomes one GPU a process. gloo connects CPUs, nccl GPUs.

    Raises:
        UsageError: one GPU named for several processes, fewer GPUs than processes, or variables that are none of
            torchrun's.
        BenchError: the other processes do not come.
    """
    if _asked_for().size == 1:
        yield device
        return
    device = own_device(device)
    if _Led.store is not None:
        with together():
            yield device
        return
    _meet(device)
    yield device
    _part(device)


@contextlib.contextmanager
def led(device: torch.device) -> Iterator[None]:
    """Joins the processes torchrun started, of which the first runs a command and the others help it to train.

    Within it each process is alone (`world`) but for what is `together`; `World.is_first` tells them apart.

    Args:
        device: as for `joined`.

    Raises:
        UsageError: as `joined`.
        BenchError: likewise.
    """
    if _asked_for().size == 1:
        yield
        return
    device = own_device(device)
    _Led.store, _Led.is_together, _Led.is_whole = _meet(device), False, True
    yield
    _Led.store, _Led.is_together = None, True
    if _Led.is_whole:
        _part(device)


class _Led:
    """What `led` has set up in this process."""

    store: dist.Store | None = None
    is_together: bool = True
    is_whole: bool = True


def lose() -> None:
    """Says within `led` that the others are gone: there is nobody to part from in the end."""
    _Led.is_whole = False


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within `led`, what all processes do at the same time: here each has its share."""
    before, _Led.is_together = _Led.is_together, True
    try:
        yield
    finally:
        _Led.is_together = before


def messages() -> dist.Store | None:
    """Where the processes of `led` leave words for each other; None outside of it."""
    return _Led.store


def own_device(device: torch.device) -> torch.device:
    """The device of this process: of several, each has a GPU of its own.

    Raises:
        UsageError: as `joined`.
    """
    if device.type != "cuda" or _asked_for().size == 1:
        return device
    device = _own_gpu(device)
    torch.cuda.set_device(device)
    return device


def _meet(device: torch.device) -> dist.Store:
    place = _asked_for()
    store = _meeting_place(place)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size)
    return store


def _part(device: torch.device) -> None:
    # Only reached without an error: after one, the peers wait in a collective and leaving in order would
    # hang. Ending the process with a non-zero code makes torchrun end them all.
    if device.type == "cpu":
        # Seen with torch 2.4: gloo's group ends holding the interpreter's lock, which its own thread waits for to let
        # go of the last collective's tensors. Meeting the peers once more gives it the time.
        dist.barrier()
    dist.destroy_process_group()


def _asked_for() -> World:
    """The place that the environment gives this process, a world of one where it says nothing."""
    size = _number("WORLD_SIZE", 1)
    if size == 1:
        return World()
    rank = _number("RANK", None)
    if not 0 <= rank < size:
        raise UsageError(f"RANK={rank} is not below WORLD_SIZE={size}; {_BY_TORCHRUN}")
    _number("MASTER_PORT", None)
    return World(rank, size)


def are_several() -> bool:
    """Whether torchrun has started this process as one of several that train together."""
    return _asked_for().size > 1


def _number(name: str, default: int | None) -> int:
    text = os.environ.get(name, default)
    try:
        return int(text)
    except (TypeError, ValueError):
        said = "is not set" if text is None else f"is '{text}', no number"
        raise UsageError(f"the variable {name} of processes that train together {said}; {_BY_TORCHRUN}") from None


def _meeting_place(place: World) -> dist.Store:
    """Where the processes find each other, once all are there."""
    try:
        store, _rank, _size = next(dist.rendezvous("env://", place.rank, place.size, timeout=_PATIENCE))
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise BenchError(
            f"process {place.rank} of {place.size} does not find the others in {_PATIENCE.seconds} seconds "
            f"({first_line(error)}); {_BY_TORCHRUN}"
        ) from error
    return store


def _own_gpu(device: torch.device) -> torch.device:
    if device.index is not None:
        raise UsageError(f"`device={device}` names one GPU for several processes; use `device=cuda` under torchrun")
    local_rank, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local_rank >= count:
        raise UsageError(f"{count} GPUs are visible, too few for torchrun's processes; lower --nproc_per_node")
    return torch.device("cuda", local_rank)


def world() -> World:
    """The place of this process; a world of one outside `joined`."""
    if not (dist.is_available() and dist.is_initialized()):
        return World()
    return World(dist.get_rank(), dist.get_world_size() if _Led.is_together else 1, _Led.store is not None)


def wrapped(model: nn.Module, device: torch.device) -> nn.Module:
    """The network as it is called in training: its gradients are averaged over the processes.

    Its BatchNorm layers share their batch statistics, in place, until `unwrapped`.
    """
    if world().size == 1:
        return model
    share_statistics(model, device)
    ddp = nn.parallel.DistributedDataParallel
    # Buffers are averaged once an epoch (`average_buffers`) and not overwritten by rank 0's at every step. The
    # option was renamed in torch 2.13.
    renamed = "forward_sync_buffers" in inspect.signature(ddp).parameters
    kept = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return ddp(model, device_ids=[device.index] if device.type == "cuda" else None, **kept)


def unwrapped(model: nn.Module) -> None:
    """Lets the BatchNorm layers of a network that was `wrapped` normalise by their own batch again."""
    stop_sharing(model)


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Adds up a tensor over all processes, in place."""
    if world().size > 1:
        dist.all_reduce(tensor)
    return tensor


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of a tensor over all processes, as float."""
    size = world().size
    return tensor if size == 1 else sum_over_processes(tensor.float()) / size


def in_order(rows: Tensor) -> Tensor:
    """Brings together what the processes have found on the images that `eval_loader(rank=, world=)` gave them.

    Args:
        rows: [images of this process, ...]; the k-th of process r belongs to image `k * size + r`.

    Returns:
        [all images, ...] in the order of the data set, the same in every process.
    """
    size = world().size
    if size == 1:
        return rows
    total = int(sum_over_processes(torch.tensor(len(rows), device=rows.device)))
    # Collectives want equal shapes: the processes with an image fewer add an empty row, which ends up last.
    padded = rows.new_zeros(-(-total // size), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded)
    return torch.stack(parts, dim=1).flatten(0, 1)[:total]


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Gives all processes the mean of their running statistics."""
    size = world().size
    if size == 1:
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= size


def barrier() -> None:
    """Waits until every process is here."""
    if world().size > 1:
        dist.barrier()
