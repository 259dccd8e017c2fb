"""Run folders: done and failed markers, and the names of the files in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from bench.errors import BenchError, as_flags
from bench.system.failures import explained
from bench.system.files import make_folder, write_text

DONE, FAILED = "done", "failed"

BEST, LAST, METRICS, CONFIG = "best.pt", "last.pt", "metrics.csv", "config.json"
"""Of a training: the best network, all that is needed to go on, one row an epoch, the options."""

SPLIT = "split.csv"
"""Of a training on images whose splits were drawn: which image is of which."""

PRUNED, INFO = "pruned_model.pt", "pruning_info.json"
"""Of a pruning: the network, and how it was made."""

FINETUNED, FINETUNED_REPORT = "finetuned_model.pt", "finetuned_report.json"
"""Of a fine-tuning: the network, and what was measured on it."""

CONTROLS = {
    "scratch": ("scratch_model.pt", "scratch_report.json"),
    "scratch-full": ("scratch_full_model.pt", "scratch_full_report.json"),
}
"""Of a pruned network's shape from new weights, trained as fine-tuning is and as the baseline was: the network, and
what was measured on it."""

REPORT = "report.json"
"""What was measured on the network of a training or a pruning."""

CELL = "cell.json"
"""Of a cell of a comparison: the command line that is this cell alone, and what it took."""

WORST_IMAGES = "worst_images.json"
"""Of a cell: pictures of the images that lost the most."""

LATENCY_FORMAT = "latency_format.json"
"""Of a comparison: the memory format that its networks are timed in."""


def begin(folder: Path) -> None:
    """Marks a run folder as under way: neither done nor failed."""
    make_folder(folder)
    for marker in (DONE, FAILED):
        (folder / marker).unlink(missing_ok=True)


def finish(folder: Path) -> None:
    """Marks a run folder as done; call after its last output is written."""
    write_text(folder / DONE, datetime.now(timezone.utc).isoformat(timespec="seconds") + "\n")


def fail(folder: Path, reason: str) -> None:
    """Marks a run folder as failed and says why."""
    write_text(folder / FAILED, as_flags(reason).rstrip() + "\n")


def is_done(folder: Path, *outputs: str) -> bool:
    """Whether a run is marked done and its outputs are there."""
    return (folder / DONE).is_file() and all((folder / name).is_file() for name in outputs)


@contextlib.contextmanager
def run_folder(folder: Path) -> Iterator[Path]:
    """Marks a folder done when the block ends and failed, with the reason, when it raises."""
    begin(folder)
    try:
        yield folder
    except BaseException as error:
        told = explained(error) or error
        with contextlib.suppress(BenchError):
            fail(folder, f"{type(told).__name__}: {told}")
        raise
    finish(folder)
