"""`deploy_inf.csv`: which classes go to which device, for each number of devices; and how groups are spelt."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError, UsageError
from bench.system.files import digest, write_csv

DEPLOYMENT = "deploy_inf.csv"

COLUMNS = ("devices", "best", "quality", "groups", "names")

# Names of files may have 255 bytes.
_LONGEST = 100

Group = tuple[int, ...]
"""Class ids, ascending."""


@dataclass(frozen=True)
class Grouping:
    """The classes spread over a number of devices.

    Attributes:
        groups: one a device, ordered by their first class.
        quality: see `bench.specialists.clustering.silhouette`; None for one that was written by hand.
        is_best: whether it is the one to deploy where no number is asked for.
    """

    groups: tuple[Group, ...]
    quality: float | None = None
    is_best: bool = False

    @property
    def devices(self) -> int:
        """How many groups there are."""
        return len(self.groups)


def spelt(group: Sequence[int]) -> str:
    """Class ids as ranges: `(0, 1, 2, 5, 7, 8)` -> `'0-2+5+7-8'`; different for different groups."""
    runs: list[list[int]] = []
    for number in group:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return "+".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def read_group(text: str) -> Group:
    """`'0-2+5'` -> `(0, 1, 2, 5)`.

    Raises:
        ValueError: it is no list of ranges.
    """
    ids: list[int] = []
    for part in text.split("+"):
        found = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not found or int(found[2] or found[1]) < int(found[1]):
            raise ValueError(f"'{text}' is no group of classes; write ids such as 0-2+5")
        ids += range(int(found[1]), int(found[2] or found[1]) + 1)
    return tuple(sorted(ids))


def group_name(group: Group) -> str:
    """A piece of a file's name: `class0-8`; of a spelling too long for one, how many classes and a digest of which."""
    text = f"class{spelt(group)}"
    return text if len(text) <= _LONGEST else f"{len(group)}classes-{digest(list(group))}"


def specialist_file(group: Group, threshold: float) -> str:
    """Name of a specialist's file: `pruned_class0-8_th77.pt`.

    Args:
        group: its classes.
        threshold: percent of the parameters that it lost.
    """
    return f"pruned_{group_name(group)}_th{threshold:g}.pt"


def write_deployment(folder: Path, groupings: Iterable[Grouping], names: Sequence[str]) -> None:
    """Writes the file: a row a number of devices, groups separated by `|`."""
    rows = [
        {
            "devices": grouping.devices,
            "best": "*" if grouping.is_best else "",
            "quality": None if grouping.quality is None else f"{grouping.quality:.4f}",
            "groups": "|".join(map(spelt, grouping.groups)),
            "names": "|".join(" ".join(names[number] for number in group) for group in grouping.groups),
        }
        for grouping in groupings
    ]
    write_csv(folder / DEPLOYMENT, COLUMNS, rows)


def read_deployment(folder: Path, classes: Sequence[int]) -> dict[int, Grouping]:
    """Reads the file, which may have been changed by hand: number of devices -> grouping.

    Args:
        folder: where it is.
        classes: the ids that a grouping spreads over the devices, each to one.

    Raises:
        BenchError: missing, or a row that cannot be; names its line.
    """
    path = folder / DEPLOYMENT
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BenchError(f"{path} is missing; run `python -m bench.specialists group` into that folder first") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot read {path}: {error}") from error
    rows = csv.DictReader(io.StringIO(text))
    if not {"devices", "groups"} <= set(rows.fieldnames or ()):
        raise BenchError(
            f"{path} has no columns devices and groups; write it again by `python -m bench.specialists group`"
        )
    found: dict[int, Grouping] = {}
    for line, row in enumerate(rows, start=2):
        try:
            grouping = _grouping(row, classes)
            if grouping.devices in found:
                raise ValueError(f"there are two groupings for {grouping.devices} devices")
        except ValueError as error:
            raise BenchError(f"{path}, line {line}: {error}") from None
        found[grouping.devices] = grouping
    if not found:
        raise BenchError(f"{path} holds no grouping; write it again by `python -m bench.specialists group`")
    return found


def _grouping(row: dict[str, str | None], classes: Sequence[int]) -> Grouping:
    groups = tuple(sorted(read_group(part) for part in (row["groups"] or "").split("|")))
    listed = [number for group in groups for number in group]
    twice = next((number for number in listed if listed.count(number) > 1), None)
    strange = next((number for number in listed if number not in classes), None)
    missing = next((number for number in classes if number not in listed), None)
    if twice is not None:
        raise ValueError(f"class {twice} is in two groups")
    if strange is not None:
        raise ValueError(f"{strange} is no class that the training images show")
    if missing is not None:
        raise ValueError(f"class {missing} is in no group")
    if len(groups) < 2:
        raise ValueError("a grouping has at least two groups; one network for all classes is the baseline")
    if (row["devices"] or "").strip() != str(len(groups)):
        raise ValueError(f"devices is '{row['devices']}', but there are {len(groups)} groups")
    quality = (row.get("quality") or "").strip()
    return Grouping(groups, float(quality) if quality else None, (row.get("best") or "").strip() == "*")


def chosen_groupings(found: dict[int, Grouping], wanted: Sequence[int], folder: Path) -> list[Grouping]:
    """The groupings for the numbers of devices asked for; the one marked best where none is.

    Raises:
        UsageError: there is none for a number.
        BenchError: nothing was asked for, and not exactly one is marked best.
    """
    if not wanted:
        best = [grouping for grouping in found.values() if grouping.is_best]
        if len(best) != 1:
            raise BenchError(
                f"{folder / DEPLOYMENT} marks {len(best)} groupings as best; mark one with * or pass `device_counts`"
            )
        return best
    for number in wanted:
        if number not in found:
            known = ", ".join(map(str, sorted(found)))
            raise UsageError(f"{folder / DEPLOYMENT} has no grouping for {number} devices; it has {known}")
    return [found[number] for number in dict.fromkeys(wanted)]


def chosen_groups(groupings: Iterable[Grouping], wanted: str | None) -> list[Group]:
    """The groups of some groupings, one that several have once; or of these the ones asked for.

    Args:
        groupings: at least one.
        wanted: such as `0-3,4+7`; None: all.

    Raises:
        UsageError: one asked for is no group of theirs.
    """
    groups = list(dict.fromkeys(group for grouping in groupings for group in grouping.groups))
    if wanted is None:
        return groups
    try:
        asked = [read_group(text) for text in wanted.split(",")]
    except ValueError as error:
        raise UsageError(f"`groups`: {error}") from None
    strange = next((group for group in asked if group not in groups), None)
    if strange:
        raise UsageError(f"`groups={spelt(strange)}` is none of the groups: {', '.join(map(spelt, groups))}")
    return list(dict.fromkeys(asked))
