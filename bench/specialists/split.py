"""Specialists as processes of their own, as they would be on devices of their own, and the head that waits for them."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import BenchError, MachineError, first_line
from bench.specialists.deployment import spelt
from bench.specialists.features import LastFeatures, output_layer
from bench.specialists.fusion import FusionHead, scaled
from bench.specialists.opened import Specialist, open_frozen
from bench.system.devices import set_up
from bench.system.options import RunOptions
from bench.torch_utils.memory_format import contiguous

# A process loads torch before it answers, on a busy machine in half a minute.
_PATIENCE = 300


class _Device:
    """One specialist's process, seen from the one with the head."""

    def __init__(self, specialist: Specialist, run: RunOptions):
        self.name = spelt(specialist.group)
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, specialist.path, specialist.saved.spec.name, run)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        # Held by its process alone, so that its end is noticed here.
        theirs.close()

    def wait(self) -> None:
        """Until it can take images."""
        if not self._connection.poll(_PATIENCE):
            raise MachineError(f"the process of the specialist of {self.name} does not answer in {_PATIENCE} seconds")
        self._answer()

    def send(self, images: Tensor) -> None:
        """Images [N, 3, H, W] to be looked at."""
        with self._end_explained():
            self._connection.send(contiguous(images.cpu()).numpy())

    def features(self, device: torch.device) -> tuple[Tensor, float]:
        """What it made of them, and in how many seconds."""
        found, seconds = self._answer()
        return torch.from_numpy(found).to(device), seconds

    def stop(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _answer(self) -> Any:
        with self._end_explained():
            kind, *content = self._connection.recv()
        if kind == "error":
            raise BenchError(f"the specialist of {self.name} failed: {content[0]}")
        return content

    @contextlib.contextmanager
    def _end_explained(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError) as error:
            self._process.join(1)
            raise MachineError(
                f"the process of the specialist of {self.name} ended (exit code {self._process.exitcode}); was it "
                "killed, or is memory short?"
            ) from error


class SplitFused(nn.Module):
    """What `bench.specialists.fusion.Fused` is, with each specialist in a process of its own.

    Attributes:
        head: in this process.
        seconds: for each call: what each specialist took, then the head.
        images: seen so far.
        sent: bytes of features that came from other processes so far.
    """

    def __init__(self, devices: Sequence[_Device], head: FusionHead):
        super().__init__()
        self._devices, self.head = list(devices), head
        self.seconds: list[list[float]] = []
        self.images = self.sent = 0

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> logits [N, outputs, H, W], while the specialists work at the same time."""
        for device in self._devices:
            device.send(images)
        answers = [device.features(images.device) for device in self._devices]
        began = time.perf_counter()
        logits = scaled(self.head([found for found, _ in answers]), images.shape[-2:])
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        self.seconds.append([*(taken for _, taken in answers), time.perf_counter() - began])
        self.images += len(images)
        self.sent += sum(found.numel() * found.element_size() for found, _ in answers)
        return logits


@contextlib.contextmanager
def split_over_processes(specialists: Sequence[Specialist], head: FusionHead, run: RunOptions) -> Iterator[SplitFused]:
    """Starts a process for each specialist, and ends them with the block.

    Args:
        specialists: whose files the processes open.
        head: stays here.
        run: device, threads and determinism, the same in every process, so that the numbers are those of one process.

    Raises:
        MachineError: a process ends.
    """
    devices: list[_Device] = []
    try:
        for specialist in specialists:
            devices.append(_Device(specialist, run))
        for device in devices:
            device.wait()
        yield SplitFused(devices, head)
    finally:
        for device in devices:
            device.stop()


def _serve(connection: Connection, path: Path, network: str, run: RunOptions) -> None:
    """What a specialist's process does: looks at images until nobody sends any."""
    # Ctrl-C reaches the whole group; the process with the head says so and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        device = set_up(run)
        saved = open_frozen(path, device, name=network)
        features = LastFeatures(saved.model, output_layer(saved)).eval()
        connection.send(("ready",))
        with torch.inference_mode():
            while True:
                images = torch.from_numpy(connection.recv()).to(device)
                began = time.perf_counter()
                found = contiguous(features(images).cpu())
                connection.send(("features", found.numpy(), time.perf_counter() - began))
    except (EOFError, ConnectionError):
        return
    except Exception as error:  # noqa: BLE001  told by the other process
        connection.send(("error", first_line(error)))
