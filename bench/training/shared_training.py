"""Trainings of a command that the first of several processes runs: how it asks the others to help, and tells them why.

The first leaves an order for each training where they meet (`processes.messages`); the others do the same training at
the same time, each on its share of every batch. After an error that they do not all meet the first trains alone.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, Diverged, MachineError, first_line
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.system import processes
from bench.system.console import say
from bench.system.failures import explained, in_one_line
from bench.system.files import plain
from bench.training.distillation import Distillation
from bench.training.options import DistillOptions, TrainOptions

if TYPE_CHECKING:
    from bench.data import SegmentationData

NETWORK = "helpers.pt"
_POLL_SECONDS = 0.05
_REASON = "reason"


class _Orders:
    """How many were given or followed by this process, and whether nobody follows any more."""

    count = 0
    is_broken = False
    is_told = False


@dataclass(frozen=True)
class Order:
    """A training that is to be shared.

    Attributes:
        folder: where it is, and its first network, which may be looked at as long as the training has not begun.
        options: the recipe.
        seed: of the training.
        data_seed: of its images.
        taught: the options of its distillation, if there is one.
        resume: whether it goes on.
        label: what it is called.
    """

    folder: Path
    options: TrainOptions
    seed: int
    data_seed: int
    taught: DistillOptions | None
    resume: bool
    label: str

    @property
    def network(self) -> SavedModel:
        """The network that it begins with."""
        return load_model(self.folder / NETWORK)

    def text(self) -> str:
        """As it is sent."""
        return json.dumps(plain(asdict(self)))

    @classmethod
    def of_text(cls, text: str) -> Order:
        """What `text` made."""
        said: dict[str, Any] = json.loads(text)
        options = TrainOptions(**said["options"])
        options.crop_size = options.crop_size and tuple(options.crop_size)
        taught = said["taught"] and DistillOptions(**said["taught"])
        return cls(**{**said, "folder": Path(said["folder"]), "options": options, "taught": taught})


@contextlib.contextmanager
def shared_out(
    saved: SavedModel,
    data: SegmentationData,
    options: TrainOptions,
    seed: int,
    folder: Path,
    distillation: Distillation | None,
    *,
    resume: bool,
    label: str,
) -> Iterator[None]:
    """Lets the others take part in the training that the block does, where there are others; see `fit`.

    Raises:
        BenchError: what one of the others met alone.
        MachineError: one of the others is gone.
    """
    store = processes.messages()
    if store is None or not processes.world().is_first or processes.world().size > 1:
        yield
        return
    if _Orders.is_broken:
        if not _Orders.is_told:
            say("the processes that helped to train are gone after an error; this one goes on alone")
        _Orders.is_told = True
        yield
        return
    network = folder / NETWORK
    save_model(network, saved)
    taught = distillation.options if distillation else None
    _give(Order(folder, options, seed, data.seed, taught, resume, label).text())
    try:
        with processes.together():
            yield
    except Diverged:
        raise
    except BaseException as error:
        _Orders.is_broken = True
        processes.lose()
        if reason := _reason():
            raise BenchError(reason) from error
        if isinstance(error, RuntimeError) and explained(error) is None:
            raise MachineError(f"a process that trained together with others is gone ({first_line(error)})") from error
        raise
    finally:
        network.unlink(missing_ok=True)


def dismiss() -> None:
    """Lets the others go on from their `orders`."""
    if processes.messages() is not None and processes.world().is_first and not _Orders.is_broken:
        _give("")


def orders() -> Iterator[Order]:
    """What the first process asks this one to help with, until it dismisses it."""
    store = processes.messages()
    while True:
        key = str(_Orders.count)
        while not store.check([key]):
            time.sleep(_POLL_SECONDS)
        _Orders.count += 1
        text = store.get(key).decode()
        if not text:
            return
        yield Order.of_text(text)


def give_up(error: BaseException) -> None:
    """Tells the first process why this one helps no more."""
    with contextlib.suppress(RuntimeError):
        processes.messages().set(_REASON, in_one_line(error))


def _give(text: str) -> None:
    processes.messages().set(str(_Orders.count), text)
    _Orders.count += 1


def _reason() -> str | None:
    """What one of the others told."""
    with contextlib.suppress(RuntimeError):
        if processes.messages().check([_REASON]):
            return processes.messages().get(_REASON).decode()
    return None
