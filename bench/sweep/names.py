"""What a cell is called on the command line: METHOD@TARGET@SEED, such as `taylor@0.5@0` or `l1@macs0.5@1`."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from bench.config.values import parse_bytes, parse_kept, parse_latency, parse_ratio, whole

_KINDS = {"macs": parse_kept, "params": parse_kept, "size": parse_bytes, "latency": parse_latency}


class CellName(NamedTuple):
    """A method, what it is to reach, and a seed.

    Attributes:
        method: its name.
        kind: that of the goal.
        value: the goal's.
        seed: the seed.
    """

    method: str
    kind: str
    value: float
    seed: int

    def __str__(self) -> str:
        value = int(self.value) if self.kind == "size" else self.value
        target = {
            "channels": f"{value!r}",
            "milliseconds": f"latency{value!r}ms",
            "size": f"size{value}B" if value % 10**6 else f"size{value // 10**6}MB",
        }.get(self.kind, f"{self.kind}{value!r}")
        return f"{self.method}@{target}@{self.seed}"


def parse_cell(text: str) -> CellName:
    """`'taylor@0.5@0'` -> the cell of that name.

    Raises:
        ValueError: it is no name of a cell.
    """
    parts = text.split("@")
    if len(parts) != 3 or not parts[0]:
        raise ValueError(f"'{text}' is not METHOD@TARGET@SEED, such as taylor@0.5@0 or l1@macs0.5@1")
    method, target, seed = parts
    kind = next((kind for kind in _KINDS if target.startswith(kind)), "channels")
    if kind == "latency":
        return CellName(method, *parse_latency(target.removeprefix(kind)), whole(seed))
    value = _KINDS[kind](target.removeprefix(kind)) if kind in _KINDS else parse_ratio(target)
    return CellName(method, kind, value, whole(seed))


def fits(name: str, pattern: str) -> bool:
    """Whether each part of a pattern fits the whole of a part of METHOD@TARGET@SEED; those left out fit anything."""
    parts = pattern.split("@")
    return len(parts) <= 3 and all(map(fnmatchcase, name.split("@"), parts))


def is_chosen(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of some patterns; any name where there are none."""
    return not patterns or any(fits(name, pattern) for pattern in patterns)
