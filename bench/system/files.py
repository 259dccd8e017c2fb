"""Files that are whole or not there, plain data in them, and digests that name them by content."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import socket
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError, DamagedFile, MachineError
from bench.system.failures import not_written


def make_folder(path: Path | str) -> Path:
    """Creates a folder and checks that files can be written into it.

    Raises:
        BenchError: the folder cannot be created or written.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Without a name where the system can do that, so that nothing stays of it whatever happens.
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise MachineError(f"cannot write to {path}: {error.strerror}; choose another output folder") from error
    return path


def host_name() -> str:
    """The machine's name as a part of a file's."""
    return re.sub(r"[^\w-]", "-", socket.gethostname())


@contextlib.contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yields a temporary name; the file appears under its own name only once it is complete."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{host_name()}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        # Where the folder is not one, there is nothing to remove, and the error above is the one to see.
        with contextlib.suppress(OSError):
            temporary.unlink()


def plain(value: Any) -> Any:
    """Turns dataclasses, tuples, paths and scalar tensors into what JSON knows; nan becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and value != value:
        return None
    return value


def write_json(path: Path | str, data: Any) -> None:
    """Writes a JSON file in one piece; a file name that is no text is read back as it was."""
    write_text(path, json.dumps(plain(data), indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Reads a JSON file.

    Raises:
        DamagedFile: not JSON.
        BenchError: missing, or not to be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is not a JSON file: {error}", path) from error


def write_text(path: Path | str, text: str) -> None:
    """Writes a text file in one piece; what is no text in a file name is written as `\\udcfc`, as in JSON."""
    with whole_file(path) as temporary:
        temporary.write_bytes(_utf8(text))


def write_csv(path: Path | str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a table in one piece: a line of names, then a line a row.

    Args:
        path: the file.
        columns: names of the columns, in their order.
        rows: column -> value; what a row does not hold, or holds None for, is left empty.

    Raises:
        ValueError: a row holds what is no column.
    """
    write_text(path, csv_text(columns, rows))


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """What `write_csv` writes."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def digest(data: Any) -> str:
    """Twelve hexadecimal digits that name a piece of plain data by its content."""
    text = json.dumps(plain(data), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(_utf8(text)).hexdigest()[:12]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="backslashreplace")


def file_digest(path: Path | str) -> str:
    """Sixty-four hexadecimal digits (SHA-256) that name a file by its content."""
    sha = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def compressed_size(path: Path | str) -> int:
    """Bytes of a file packed as `gzip -6` does (without a file name in its header)."""
    packer = zlib.compressobj(6, wbits=16 + zlib.MAX_WBITS)
    with Path(path).open("rb") as file:
        size = sum(len(packer.compress(block)) for block in iter(lambda: file.read(1 << 20), b""))
    return size + len(packer.flush())
