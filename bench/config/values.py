"""What the text of a flag or of a config's key means, for each kind of value.

Each function returns the value or raises ValueError with a reason and an example of what to write instead.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def parse_path(text: str) -> str:
    """`'~/runs/$NAME'` -> the path meant, as a shell would have it, which does not see what stands in a config."""
    if os.path.lexists(text):
        return text
    try:
        path = os.path.expandvars(str(Path(text).expanduser()) if text.startswith("~") else text)
    except RuntimeError:
        raise ValueError(f"'{text}' begins with the home folder of somebody unknown; write it out") from None
    unknown = re.search(r"\$([A-Za-z_]\w*|\{[^}]*\})", path)
    if unknown:
        raise ValueError(f"'{text}' names the environment variable {unknown[0]}, which is not set")
    return path


def parse_size(text: str) -> tuple[int, int]:
    """`'360,480'` or `'360x480'` -> `(360, 480)`, height first, in pixels."""
    parts = text.lower().replace("x", ",").split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"'{text}' is not a size; write height,width such as 360,480")
    height, width = (int(part) for part in parts)
    if min(height, width) < 1:
        raise ValueError(f"'{text}' is not a size; height and width are at least 1")
    return height, width


def size_text(size: Sequence[int]) -> str:
    """A size in words: `24x32`."""
    return "x".join(map(str, size))


def parse_ratio(text: str) -> float:
    """A share in [0, 1)."""
    try:
        ratio = float(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a number; write a ratio in [0, 1) such as 0.3") from None
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"{text} is not in [0, 1)")
    return ratio


def parse_kept(text: str) -> float:
    """A share in (0, 1]."""
    try:
        kept = float(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a number; write the share to keep, in (0, 1], such as 0.5") from None
    if not 0.0 < kept <= 1.0:
        raise ValueError(f"{text} is not in (0, 1]")
    return kept


def parse_reduction(text: str) -> float:
    """A share to remove, in [0, 1) -> the share to keep: `'0.77'` -> 0.23."""
    # Rounded, because 1 - 0.77 is 0.22999999999999998.
    return round(1 - parse_ratio(text), 12)


_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(text: str) -> int:
    """`'10MB'` -> 10,000,000; `'10MiB'` -> 10,485,760."""
    parts = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Z]+)\s*", text.upper())
    if parts is None or parts[2] not in _BYTES or not float(parts[1]) > 0:
        raise ValueError(f"'{text}' is not a size; write a number and B, KB, MB, GB, KiB, MiB or GiB, such as 10MB")
    return int(float(parts[1]) * _BYTES[parts[2]])


def parse_latency(text: str) -> tuple[str, float]:
    """Kind and value of a goal: `"0.6"` is a share, in (0, 1], and `"12ms"` a time."""
    parts = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*ms\s*", text.lower())
    if parts is not None and float(parts[1]) > 0:
        return "milliseconds", float(parts[1])
    try:
        return "latency", parse_kept(text)
    except ValueError as error:
        raise ValueError(f"{error}, or write a time such as 12ms") from None


def parse_ratios(text: str) -> dict[str, float]:
    """`'enc5*=0.5,classifier*=0.2'` -> `{"enc5*": 0.5, "classifier*": 0.2}`."""
    ratios = {}
    for part in text.split(","):
        pattern, equals, ratio = part.rpartition("=")
        if not equals or not pattern.strip():
            raise ValueError(f"'{part}' is not PATTERN=R")
        ratios[pattern.strip()] = parse_ratio(ratio.strip())
    return ratios


def parse_boundary_width(text: str) -> float:
    """Whole pixels, or below 1 a share of the diagonal; 0 means none."""
    width = share(text)
    if width >= 1 and not width.is_integer():
        raise ValueError(f"{text} is neither whole pixels nor, below 1, a share of the diagonal")
    return width


def _count(minimum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"'{text}' is not a whole number") from None
        if value < minimum:
            raise ValueError(f"{text} is too small; at least {minimum}")
        return value

    return parse


def _number(minimum: float, *, above: bool = False) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"'{text}' is not a number") from None
        if not value > minimum if above else not value >= minimum:
            raise ValueError(f"{text} is too small; {'above' if above else 'at least'} {minimum:g}")
        return value

    return parse


def list_of(parse: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Values separated by commas, at least one."""

    def parse_list(text: str) -> list[Any]:
        items = [parse(part.strip()) for part in text.split(",") if part.strip()]
        if not items:
            raise ValueError("the list is empty; separate several values by commas")
        return items

    return parse_list


def parse_settings(text: str) -> dict[str, object]:
    """`'term=gamma,alpha=0.3,classes=[0,3]'` -> `{"term": "gamma", "alpha": 0.3, "classes": [0, 3]}`.

    Values are YAML scalars or lists of them in brackets.
    """
    import yaml

    settings = {}
    for part in re.split(r",(?![^\[\]]*\])", text):
        key, equals, word = part.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"'{part}' is not KEY=VALUE")
        try:
            value = yaml.safe_load(word)
        except yaml.YAMLError:
            raise ValueError(
                f"'{part}' is not KEY=VALUE with a number, a word, true, false or a list in brackets"
            ) from None
        # To YAML 1.1, whose floats have a point, 1e-3 is a word.
        is_number = isinstance(value, str) and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value)
        settings[key.strip()] = float(value) if is_number else value
    return settings


def parse_arguments(text: str) -> dict[str, object]:
    """`'width=8,weights=None'` -> `{"width": 8, "weights": None}`: as `parse_settings`, and Python's None."""
    return {key: None if value == "None" else value for key, value in parse_settings(text).items()}


def parse_renames(text: str) -> dict[str, str]:
    """`'encoder.=backbone.,head='` -> `{"encoder.": "backbone.", "head": ""}`."""
    renames = {}
    for part in text.split(","):
        old, equals, new = (word.strip() for word in part.partition("="))
        if not equals or not (old or new):
            raise ValueError(f"'{part}' is not OLD=NEW, such as encoder.=backbone.")
        renames[old] = new
    return renames


def parse_some(text: str) -> float:
    """A share in (0, 1)."""
    ratio = parse_ratio(text)
    if not ratio:
        raise ValueError("0 is no channel; write a ratio in (0, 1) such as 0.3")
    return ratio


whole = _count(0)
positive = _count(1)
share = _number(0.0)
above_zero = _number(0.0, above=True)
