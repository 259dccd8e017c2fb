"""A checkpoint becomes a folder: its files, what they need to be used, and a record of how near they are to it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.config.values import size_text
from bench.errors import BenchError
from bench.export.facts import facts_of
from bench.export.formats import FORMATS, Network, Source, check_packages
from bench.export.onnx_file import OPSET
from bench.export.parity import check_parity, time_beside
from bench.export.readme import CLASSES, readme
from bench.measure.latency import Effort
from bench.measure.latency_report import speedup_in
from bench.models.checkpoint import SavedModel
from bench.system.console import announce
from bench.system.files import file_digest, make_folder, plain, write_json, write_text
from bench.system.provenance import provenance

RECORD, README = "export.json", "README.md"


def export(
    checkpoint: Path | str,
    saved: SavedModel,
    folder: Path | str,
    formats: Sequence[str],
    *,
    input_size: tuple[int, int] | None = None,
    fixed: bool = False,
    opset: int = OPSET,
    effort: Effort | None = None,
) -> dict[str, Any]:
    """Writes a network in several formats, each tried out against the network itself before any is put in its place.

    The folder receives the files of the formats, `classes.json`, `README.md` and `export.json`.

    Args:
        checkpoint: the file of the network.
        saved: what it holds.
        folder: where to write; files of the same names are replaced.
        formats: names in `bench.export.formats.FORMATS`.
        input_size: (height, width) in pixels; by default what the network was trained at.
        fixed: whether the files take images of that size alone.
        opset: version of ONNX's operators.
        effort: how much time timing is worth; None times nothing.

    Returns:
        What `export.json` says.

    Raises:
        BenchError: a package is missing, the network cannot be exported, a file is not the network, or the folder
            cannot be written. Then it is as it was.
    """
    check_packages(formats)
    folder = make_folder(folder)
    source = Source(saved, facts_of(saved, checkpoint, input_size), fixed, opset)
    networks: dict[str, Network] = {"pytorch": saved.model}
    record: dict[str, Any] = {
        "format": "export-report/1",
        "checkpoint": {"path": str(checkpoint), "sha256": file_digest(checkpoint)},
        "model": source.facts.model,
        "input_size": source.facts.input_size,
        "fixed": fixed,
        "opset": opset if "onnx" in formats else None,
        "files": {},
        "latency": None,
    }
    with _beside(folder) as place:
        for name in formats:
            announce(f"exporting to {name}")
            record["files"][name], networks[name] = _written(name, source, place)
        if effort is not None:
            record["latency"] = time_beside(networks, source.facts, effort)
        record["versions"] = _versions(formats)
        record["provenance"] = provenance()
        record = plain(record)
        write_json(place / CLASSES, source.facts.record())
        write_text(place / README, readme(source.facts, formats, fixed=fixed, opset=opset))
        write_json(place / RECORD, record)
        # Nothing is in its place before everything is there.
        for path in sorted(place.iterdir()):
            path.replace(folder / path.name)
    return record


def _written(name: str, source: Source, folder: Path) -> tuple[dict[str, Any], Network]:
    """Writes one format, runs it beside the network, and says what was found."""
    kind = FORMATS[name]
    path, fixed = folder / kind.file, source.fixed or kind.always_fixed
    kind.write(path, source)
    network = kind.open(path, source)
    parity = check_parity(network, source.saved.model, source.facts, fixed=fixed, what=kind.file)
    files = [path, *(folder / other for other in kind.beside)]
    found = {
        "files": [file.name for file in files],
        "bytes_on_disk": sum(file.stat().st_size for file in files),
        "sha256": file_digest(path),
        "fixed": fixed,
    }
    return {**found, **parity}, network


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder in the folder, of the same disk, that is gone in the end."""
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder, ignore_cleanup_errors=True) as place:
            yield Path(place)
    except IsADirectoryError as error:
        raise BenchError(f"{error.filename2} is a folder; choose another one to export to") from error


def _versions(formats: Sequence[str]) -> dict[str, str]:
    """The versions of torch and of the packages that took part."""
    packages = dict.fromkeys(package for name in formats for package in FORMATS[name].packages)
    return {"torch": str(torch.__version__), **{name: importlib.metadata.version(name) for name in packages}}


def told(record: dict[str, Any]) -> list[str]:
    """What a record says, for people: a line a file, and a line a latency."""
    lines = []
    for name, found in record["files"].items():
        sizes, batches = " and ".join(map(size_text, found["sizes"])), " and ".join(map(str, found["batches"]))
        opset = f", opset {record['opset']}" if name == "onnx" else ""
        lines.append(
            f"{found['files'][0]}{opset}: {found['bytes_on_disk'] / 1e6:.2f} MB, images of "
            f"{sizes if found['fixed'] else 'any size'}; logits differ from the network's by "
            f"{found['largest_difference']:.1e} at most (at {sizes}, batches of {batches})"
        )
    latency = record["latency"]
    if latency:
        for name, row in latency["networks"].items():
            speedup = speedup_in(row)
            lines.append(f"{name}: {row['median_ms']:.2f} ms" + (f", {speedup}" if speedup else ""))
        conditions = f"{latency['threads']} threads, {latency['rounds']} rounds"
        lines.append(f"at {size_text(latency['input_size'])}, by turns, {conditions}")
    return lines
