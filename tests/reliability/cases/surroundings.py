"""Folders that results cannot go to, and what a process finds around it."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.reliability.cases.checkpoint import set_weight
from tests.reliability.place import (
    SCRIPTS,
    Case,
    Place,
    Surroundings,
    done,
)

SAVES = {"train.py": "--save", "prune.py": "--save", "benchmark.py": "--out-dir"}


def out_of(script: str, folder: Path | str) -> list[Any]:
    """The flags that make a folder the command's output."""
    return [SAVES[script], folder] if script in SAVES else ["--report", f"{folder}/report.json"]


def folder() -> Iterator[Case]:
    """Places that cannot be written, and what earlier runs left there."""
    for script in (*SAVES, "eval.py"):
        yield Case("folder", "an output below a file", script,
                   lambda place, script=script: out_of(script, place.file("file", "mine") / "below"))  # fmt: skip
        yield Case("folder", "an output that is not to be written", script,
                   lambda _, script=script: out_of(script, "/proc/none"))  # fmt: skip
        yield Case("folder", "a name that is too long", script,
                   lambda place, script=script: out_of(script, place.folder / ("x" * 300)))  # fmt: skip
    yield Case("folder", "an output that is a file", "train.py", lambda place: ["--save", place.file("file", "mine")])
    yield Case("folder", "a report that is a folder", "eval.py", lambda place: ["--report", place.folder])
    yield Case("folder", "a picture that is a folder", "eval.py", lambda place: ["--picture", place.folder])
    yield Case("folder", "predictions below a file", "eval.py", lambda place: ["--predict", place.file("f", "x") / "b"])
    yield Case("folder", "a network that is a folder", "train.py", lambda place: done(made(place.out / "best.pt")))
    yield Case("folder", "no benchmark", "finetune_batch.py", lambda place: ["--benchmark-dir", place.folder / "none"])
    yield Case("folder", "an empty benchmark", "finetune_batch.py", lambda place: [
        "--benchmark-dir", made(place.folder / "empty")])  # fmt: skip
    yield Case("folder", "a benchmark that is a file", "finetune_batch.py", lambda place: [
        "--benchmark-dir", place.file("file", "x")])  # fmt: skip
    yield Case("folder", "a benchmark of another baseline", "finetune_batch.py", lambda place: place.changed(
        set_weight(0.5)))  # fmt: skip
    records = {"cut off": '{"format": "pruning', "empty": "", "a list": "[1]", "of another format": '{"format": "x/1"}'}
    for name, text in records.items():
        for record in ("pruning_info.json", "report.json"):
            yield Case("folder", f"a {record} that is {name}", "finetune_batch.py",
                       lambda place, record=record, text=text: done((place.job / record).write_text(text)))  # fmt: skip
    yield Case("folder", "nothing but a state to resume", "train.py",
               lambda place: [*done(place.file("out/last.pt", b"x")), "--resume"])  # fmt: skip
    yield Case("folder", "a finished run", "train.py", lambda place: done(
        place.file("out/done", ""), place.file("out/report.json", "{}"),
        place.file("out/best.pt", place.store.baseline.read_bytes())))  # fmt: skip


def made(path: Path) -> Path:
    """A folder, made now."""
    path.mkdir(parents=True)
    return path


def limited(what: int, amount: int) -> Callable[[], None]:
    """Sets a limit on the process."""
    return lambda: resource.setrlimit(what, (amount, amount))


def gone() -> None:
    """The working folder is removed."""
    place = Path.cwd() / "gone"
    place.mkdir()
    os.chdir(place)
    place.rmdir()


def environment() -> Iterator[Case]:
    """What a process finds, each in one of its own."""

    def case(name: str, script: str, words: Callable[[Place], list[Any]] | None = None, **settings: Any) -> Case:
        may_succeed = settings.pop("may_succeed", False)
        process = Surroundings(**settings)
        return Case("environment", name, script, words or (lambda _: []), (), process, may_succeed)

    for script in SCRIPTS:
        yield case("no more than 8 KiB in a file", script, before=limited(resource.RLIMIT_FSIZE, 8192))
    yield case("a full stdout", "prune.py", stdout="/dev/full")
    yield case("a full stdout for a listing", "prune.py", lambda _: ["--list-models"], stdout="/dev/full")
    yield case("a full stdout for help", "eval.py", lambda _: ["--help"], stdout="/dev/full")
    yield case("a closed stdout", "eval.py", closed=(1,), may_succeed=True)
    yield case("a closed stdout and a bad flag", "train.py", lambda _: ["--epochs", 0], closed=(1,))
    yield case("a closed stderr and a bad flag", "train.py", lambda _: ["--epochs", 0], closed=(2,), silent=True)
    yield case("all closed and a bad flag", "eval.py", lambda _: ["--split", "x"], closed=(0, 1, 2), silent=True)
    yield case("no HOME", "benchmark.py", unset=("HOME",), may_succeed=True)
    yield case("no HOME and a bad flag", "benchmark.py", lambda _: ["--ratios", "2"], unset=("HOME",))
    yield case("a HOME and TMPDIR below a file", "benchmark.py", set={"HOME": "/dev/null/x", "TMPDIR": "/dev/null/x"},
               may_succeed=True)  # fmt: skip
    yield case("ASCII alone and a path that is not", "prune.py", lambda _: ["--ckpt", "straße.pt"],
               set={"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})  # fmt: skip
    yield case("ASCII alone", "eval.py", set={"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
               may_succeed=True)  # fmt: skip
    yield case("bytes that are no text in a path", "eval.py", lambda _: ["--data-root", os.fsdecode(b"/tmp/\xff\xfe")])
    yield case("bytes that are no text in an output", "prune.py",
               lambda place: ["--save", place.folder / os.fsdecode(b"\xff")], may_succeed=True)  # fmt: skip
    yield case("no working folder", "prune.py", lambda _: ["--ckpt", "none.pt"], before=gone)
    yield case("no working folder, and data beside it", "eval.py", lambda _: ["--dataset", "synthetic", "--data-root",
               "data"], before=gone)  # fmt: skip
    yield case("12 open files", "eval.py", before=limited(resource.RLIMIT_NOFILE, 12), may_succeed=True)
    yield case("an image size of terabytes", "eval.py", lambda _: ["--input-size", "900000,900000"],
               before=limited(resource.RLIMIT_AS, 6 << 30))  # fmt: skip
    yield case("a crop of terabytes", "train.py", lambda _: ["--crop-size", "900000,900000"],
               before=limited(resource.RLIMIT_AS, 6 << 30))  # fmt: skip
    yield case("a rank outside the world", "train.py", set={"RANK": "5", "WORLD_SIZE": "2", "LOCAL_RANK": "5",
               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"})  # fmt: skip
    yield case("a rank in words", "train.py", set={"RANK": "first", "WORLD_SIZE": "two", "LOCAL_RANK": "x"})
    yield case("threads in words", "prune.py", lambda _: ["--ckpt", "none.pt"], set={"OMP_NUM_THREADS": "many"})
    yield case("loader processes without open files", "train.py", lambda _: ["--num-workers", 2],
               before=limited(resource.RLIMIT_NOFILE, 16))  # fmt: skip
    for script in ("train.py", "prune.py", "eval.py", "benchmark.py"):
        yield case("a full disk", script, lambda place, script=script: out_of(script, full_disk(place)))


def full_disk(place: Place) -> Path:
    """A file system of 16 KiB, where that may be made; else it raises, and the case is left out."""
    folder = made(place.folder / "disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        raise PermissionError("file systems cannot be mounted here")
    return folder / "out"
