"""What `oracle_agreement.json` and `oracle_agreement.csv` hold, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from bench.oracle.set_removal import SetTest
from bench.system.files import make_folder, write_csv, write_json

FORMAT = "oracle-agreement/1"
RECORD, CSV = "oracle_agreement.json", "oracle_agreement.csv"


class AgreementRow(TypedDict, total=False):
    """How well the scores of a (method, seed) tell what the oracle measured; of one that failed only why.

    `scores` is the file they are in, `absolute` and `signed` what `bench.oracle.agreement.agreement` says.
    """

    method: str
    seed: int
    status: Literal["done", "failed"]
    error: str | None
    scores: str
    absolute: dict[str, Any]
    signed: dict[str, Any]
    set_test: dict[str, SetTest]


class AgreementRecord(TypedDict):
    """An `oracle_agreement.json`: the oracle, how far two halves of its images agree, and a row a (method, seed)."""

    format: str
    baseline: dict[str, str]
    model: dict[str, Any]
    oracle: dict[str, Any]
    ceiling: dict[str, Any]
    rows: list[AgreementRow]
    provenance: dict[str, Any]


def write_agreement(folder: Path, record: AgreementRecord) -> None:
    """Writes both files; the table has one line for the ceiling and one a (method, seed).

    Raises:
        BenchError: the folder cannot be written.
    """
    make_folder(folder)
    write_json(folder / RECORD, record)
    lines = [_flat({"method": "(ceiling)", "status": "done", **record["ceiling"]}), *map(_flat, record["rows"])]
    write_csv(folder / CSV, list(dict.fromkeys(key for line in lines for key in line)), lines)


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
