"""What is written beside a network's file of how it was made, and the file itself as far as that vouches for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.datasets.fingerprint import DataFiles
from bench.errors import BenchError, DamagedFile
from bench.models.checkpoint import read_meta
from bench.system.files import file_digest, read_json
from bench.system.kept_files import read_kept


def record_of(path: Path) -> Path:
    """Where it is written how the network of a file was made: beside it, as JSON."""
    return path.with_suffix(".json")


def kept_record(path: Path, identity: Mapping[str, Any], files: DataFiles, done: str) -> dict[str, Any] | None:
    """The record of a file that was made so before; None where there is none, or it is to be made anew.

    Args:
        path: the file.
        identity: all that it depends on but the images, as the record has it.
        files: the images and labels that it is to be of.
        done: what was done to it, for who hears that images changed.
    """

    def read(beside: Path) -> dict[str, Any] | None:
        record = read_json(beside)
        if not isinstance(record, dict):
            raise DamagedFile(f"{beside} is no record", beside)
        is_same = record["identity"] == identity and record["file"]["sha256"] == file_digest(path)
        return record if is_same and files.fits(record["data"], f"{path.name} was {done}") else None

    return read_kept(record_of(path), read) if path.is_file() else None


def record_beside(path: Path, form: str, again: str) -> dict[str, Any]:
    """The record of a file, which must have been written with it.

    Args:
        path: the file.
        form: the record's format.
        again: how both are written again.

    Raises:
        BenchError: the record is missing, damaged, or another file's.
    """
    beside = record_of(path)
    record = read_record(beside, again)
    said = record.get("file") if isinstance(record, dict) and record.get("format") == form else None
    if not isinstance(said, dict) or said.get("sha256") != file_digest(path):
        raise BenchError(f"{beside} was not written with {path.name}; {again}")
    return record


def read_record(path: Path, again: str, first: str | None = None) -> Any:
    """What a JSON file holds that a step has written.

    Args:
        path: the file.
        again: how it is written again.
        first: how it is written at first, where that is not the same.

    Raises:
        BenchError: missing or damaged.
    """
    if not path.is_file():
        raise BenchError(f"{path} is missing; {first or again}")
    try:
        return read_json(path)
    except DamagedFile as error:
        raise BenchError(f"{path} is damaged; {again}") from error


def said_in(path: Path, key: str, what: str, again: str) -> dict[str, Any]:
    """What a network's file says of the purpose it was made for.

    Args:
        path: the file.
        key: of the purpose.
        what: the file holds, if that is its purpose.
        again: how it is written again.

    Raises:
        BenchError: missing or damaged, or a network that was made for something else.
    """
    if not path.is_file():
        raise BenchError(f"{path} is missing; {again}")
    try:
        meta = read_meta(path)
    except DamagedFile as error:
        raise BenchError(f"{str(error).rpartition('; ')[0]}; {again}") from error
    said = meta.get(key) if isinstance(meta, dict) else None
    if not isinstance(said, dict):
        raise BenchError(f"{path} holds no {what} but something else; {again}")
    return said
