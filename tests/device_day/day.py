"""A day at a device: parts of steps, each within its time, recorded as soon as it is done and never done twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.errors import BenchError, UsageError, first_line
from bench.measure.latency import device_name
from bench.system.console import console, say
from bench.system.devices import release_memory
from bench.system.files import make_folder, plain, read_json, write_json
from bench.system.provenance import provenance

FORMAT = "device-day/1"
DONE, FAILED, LEFT = "done", "failed", "left out"

Row = dict[str, Any]


class NotHere(BenchError):
    """What a step needs is not on this machine: the step is left out, which is no failure."""


@dataclass(frozen=True)
class Setting:
    """Where a day is spent, and how large what it measures is.

    Attributes:
        device: the device.
        scratch: folder for what nobody keeps, such as drawn images.
        out: folder of the records.
        data_root: CamVid, if it is there.
        input_size: (height, width) in pixels of all images.
        models: the networks.
        batch: images a training step, and the larger batch of latencies.
        images: training images that are drawn: by default as many as CamVid's, for an epoch begins its loader anew.
        epochs: epochs of each training that is timed; the first one counts as warm-up.
        workers: processes that load images.
        rounds: timed rounds of latencies.
        units: channels a group that the oracle removes.
        matrix: side of the matrices whose product measures the peak.
        baseline: the network that the last part trains.
        most_epochs: the longest training of it.
    """

    device: torch.device
    scratch: Path
    out: Path
    data_root: Path | None = None
    input_size: tuple[int, int] = (360, 480)
    models: tuple[str, ...] = ("unet", "resnet50_seg", "deeplabv3_resnet50", "segformer_b0")
    batch: int = 16
    images: int = 368
    epochs: int = 4
    workers: int = 8
    rounds: int = 40
    units: int = 4
    matrix: int = 8192
    baseline: str = "segnet"
    most_epochs: int = 300

    @property
    def record(self) -> Row:
        """What has to be the same for records to be of one day."""
        left_out = ("device", "scratch", "out", "data_root", "workers", "baseline", "most_epochs")
        sizes = {name: value for name, value in asdict(self).items() if name not in left_out}
        return plain({"device": device_name(self.device), **sizes})


@dataclass(frozen=True)
class Step:
    """Something that is measured.

    Attributes:
        name: what it is called in the record.
        work: measures, given the moment by `time.monotonic` at which it should be over; returns rows.
        goes_on: whether every call does it, each going on where the last one ended.
    """

    name: str
    work: Callable[[float], list[Row]]
    goes_on: bool = False


@dataclass(frozen=True)
class Part:
    """Steps that belong together.

    Attributes:
        name: of the record.
        title: of its table.
        share: of the day's time; what is not needed is left to the parts that follow.
        steps: makes the steps, the most valuable first.
        columns: key of a row -> how a number of it is shown.
    """

    name: str
    title: str
    share: float
    steps: Callable[[Setting], Iterable[Step]]
    columns: dict[str, str] = field(default_factory=dict)


def spend(
    parts: Sequence[Part], setting: Setting, minutes: float, command: str, clock: Callable[[], float] = time.monotonic
) -> list[Row]:
    """Runs the parts one after the other, and shows a table of each.

    Args:
        parts: the most valuable first.
        setting: where and how large.
        minutes: for all of them.
        command: what was typed, without the machine's folders.
        clock: tells seconds.

    Returns:
        The record of each part.

    Raises:
        UsageError: the folder holds records of another device or other sizes.
    """
    end, records = clock() + 60 * minutes, []
    for part in parts:
        deadline = min(end, clock() + 60 * minutes * part.share)
        records.append(_spent(part, setting, deadline if part is not parts[-1] else end, command, clock))
        _show(part, records[-1])
        for step in records[-1]["steps"]:
            if step["reason"]:
                say(f"  {step['name']}: {step['status']}: {step['reason']}")
    return records


def _spent(part: Part, setting: Setting, deadline: float, command: str, clock: Callable[[], float]) -> Row:
    """Does the steps of a part that are not done; one that fails does not sink the others."""
    path = make_folder(setting.out) / f"device_{part.name}.json"
    kept = _kept(path, setting)
    record = {"format": FORMAT, "part": part.name, "status": LEFT, "setting": setting.record, "steps": []}
    record["provenance"] = {**provenance(), "command": command}
    steps = list(part.steps(setting))
    for step in steps:
        if step.name in kept and not step.goes_on:
            record["steps"].append(kept[step.name])
            continue
        began = clock()
        if began >= deadline:
            outcome = {"status": LEFT, "reason": "no time was left", "rows": []}
        else:
            say(f"{part.name}: {step.name} ...")
            outcome = _tried(step, deadline)
        record["steps"].append({"name": step.name, **outcome, "seconds": round(clock() - began, 1)})
        record["status"] = _status(record["steps"], len(steps))
        write_json(path, record)
        release_memory()
    record["status"] = _status(record["steps"], len(steps))
    write_json(path, record)
    return record


def _tried(step: Step, deadline: float) -> Row:
    try:
        return {"status": DONE, "reason": None, "rows": plain(step.work(deadline))}
    except NotHere as error:
        return {"status": LEFT, "reason": str(error), "rows": []}
    except Exception as error:  # noqa: BLE001 - the others are worth their time all the same
        return {"status": FAILED, "reason": f"{type(error).__name__}: {first_line(error)}", "rows": []}


def _kept(path: Path, setting: Setting) -> dict[str, Row]:
    """Name -> what an earlier call brought of the steps that are done."""
    if not path.is_file():
        return {}
    record = read_json(path)
    if record["setting"] != setting.record:
        raise UsageError(f"{path} is of another device or other sizes; choose another --out or remove it")
    return {step["name"]: step for step in record["steps"] if step["status"] == DONE}


def _status(steps: Sequence[Row], of: int) -> str:
    """`done`, `failed` (one of them), or `left out` (one of them, or not there yet)."""
    found = {step["status"] for step in steps} | ({LEFT} if len(steps) < of else set())
    return next((status for status in (FAILED, LEFT) if status in found), DONE)


def _show(part: Part, record: Row) -> None:
    from rich.table import Table

    rows = [row for step in record["steps"] for row in step["rows"]]
    title = f"{part.title} ({record['status']}), {record['setting']['device']}"
    if not rows:
        say(title)
        return
    shown = [name for name in part.columns if any(row.get(name) is not None for row in rows)]
    table = Table(title=title)
    for name in shown:
        table.add_column(name.replace("_", " "))
    for row in rows:
        table.add_row(*(_text(row.get(name), part.columns[name]) for name in shown))
    console().print(table)


def _text(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
