"""A command under torchrun: the first process runs it, the others help it to train."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from bench.errors import Diverged
from bench.measure.baseline import Baseline
from bench.system import processes
from bench.system.devices import resolve_device
from bench.train_eval import fit
from bench.training import shared_training
from bench.training.distillation import Distillation


def leads(baseline: Baseline) -> bool:
    """Whether this process runs the command; one that does not helps to train until it is dismissed.

    Args:
        baseline: the images, and the teacher of distillations.
    """
    if processes.world().is_first:
        return True
    for order in shared_training.orders():
        _help(baseline, order)
    return False


def _help(baseline: Baseline, order: shared_training.Order) -> None:
    taught = order.taught and Distillation(baseline.saved.model, baseline.digest, order.taught)
    try:
        with processes.together():
            fit(
                order.network,
                baseline.data.seeded(order.data_seed),
                order.options,
                order.seed,
                order.folder,
                distillation=taught,
                resume=order.resume,
                device=baseline.device,
                label=order.label,
            )
    except Diverged:
        # The first process has met it, too.
        return
    except BaseException as error:  # noqa: BLE001 - whatever it is, the first process says it
        shared_training.give_up(error)
        # The end of this process is what the first sees of it, and goes on alone. On GPUs it would not, and wait: there
        # torchrun is to end it, too.
        os._exit(0 if baseline.device.type == "cpu" else 1)


@contextlib.contextmanager
def led(device: str) -> Iterator[None]:
    """`processes.led` by the name of a device."""
    if not processes.are_several():
        yield
        return
    with processes.led(resolve_device(device)):
        yield


@contextlib.contextmanager
def dismissing() -> Iterator[None]:
    """Lets those go that help in the block."""
    try:
        yield
    finally:
        shared_training.dismiss()
