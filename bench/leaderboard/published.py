"""Numbers from papers, to be set beside those of a benchmark where they are of the same data, split and size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.config.shipped import located
from bench.config.values import parse_size
from bench.errors import BenchError

FILE = Path("configs", "published.yaml")
"""Where they are: beside `bench/`, in an installed copy inside it."""

_TEXTS = {"method", "network", "dataset", "split", "input_size", "source"}
_NUMBERS = {"miou", "sd", "dense", "macs_kept"}


def published_numbers(path: Path | str = FILE) -> list[dict[str, Any]]:
    """Reads the file: texts, mIoU and shares of MACs in percent, sizes as [height, width].

    Raises:
        BenchError: a file that is not there, or an entry that is not whole.
    """
    import yaml

    place = located(path)
    try:
        content = yaml.safe_load(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read {place}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BenchError(f"{place} is not a YAML file: {' '.join(str(error).split())}") from error
    entries = content.get("published") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise BenchError(f"{place} has no list `published`; see the one that comes along")
    return [_checked(place, number, entry) for number, entry in enumerate(entries, start=1)]


def _checked(path: Path, number: int, entry: Any) -> dict[str, Any]:
    where = f"{path}, entry {number}"
    if not isinstance(entry, dict):
        raise BenchError(f"{where} is not a mapping of keys to values")
    missing, unknown = sorted((_TEXTS | {"miou"}) - entry.keys()), sorted(entry.keys() - _TEXTS - _NUMBERS)
    if missing or unknown:
        named = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown keys {unknown}"] * bool(unknown)
        raise BenchError(f"{where} {' and '.join(named)}")
    wrong = [key for key in sorted(_TEXTS & entry.keys()) if not isinstance(entry[key], str)]
    wrong += [key for key in sorted(_NUMBERS & entry.keys()) if not _is_percent(entry[key])]
    if wrong:
        raise BenchError(f"{where}: {wrong[0]} cannot be {entry[wrong[0]]!r}; texts are texts, numbers are percent")
    try:
        return {**entry, "input_size": list(parse_size(entry["input_size"]))}
    except ValueError as error:
        raise BenchError(f"{where}: {error}") from None


def _is_percent(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100


def compares_with(entry: Mapping[str, Any], baseline: Mapping[str, Any]) -> bool:
    """Whether a published number is of the data set, the split and the size of a benchmark."""
    return all(entry[key] == baseline.get(key) for key in ("dataset", "split", "input_size"))
