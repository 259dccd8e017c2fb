"""SIGTERM as an interrupt: what a cluster or a service manager sends ends a command in order, like Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

INTERRUPTED = 130
"""Exit status of a command that SIGINT or SIGTERM stopped: Ctrl-C, or a cluster that takes its machine back."""


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raises KeyboardInterrupt where SIGTERM meets the block, so that it leaves files and markers as after Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
