"""Networks as `.safetensors`: tensors that anybody reads, and in the header what it takes to open the network.

https://github.com/huggingface/safetensors: a header of JSON, then bytes; nothing in such a file can be run. Its header
maps words to text, so what is no text stands there as JSON: `model` (name, outputs, kwargs: how the dense network is
built), `channels` (the plan: which channels of each group are left), `classes`, `sizes` and `meta`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.errors import BenchError, DamagedFile, first_line
from bench.system.extras import extra
from bench.system.files import whole_file

SUFFIX = ".safetensors"

_OURS = "segmentation-pruning-bench"
"""Key of the header that a file of this project has: the version of its content."""

_BUFFER = "buffer:"
"""Before the names of buffers that are in no state dict."""

_TOLD = ("model", "channels", "sizes", "meta")


def is_safetensors(path: Path | str) -> bool:
    """Whether a file calls itself so, or begins as such a file does: with the length of its header, and a brace."""
    path = Path(path)
    if path.suffix == SUFFIX:
        return True
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and 8 + length <= path.stat().st_size


def write_safetensors(path: Path | str, content: Mapping[str, Any]) -> None:
    """Writes the content of a checkpoint (`bench.models.checkpoint`), in one piece or not at all.

    Args:
        path: the file.
        content: without a state of training, which is no list of tensors.

    Raises:
        BenchError: safetensors is not installed, or the file cannot be written.
    """
    tensors = {**content["state_dict"]}
    tensors |= {_BUFFER + name: tensor for name, tensor in content.get("buffers", {}).items()}
    header = {"format": "pt", _OURS: content["format"], "classes": json.dumps(content["meta"].get("classes", []))}
    header |= {part: json.dumps(content[part]) for part in _TOLD if part in content}
    library = extra("safetensors.torch", "a .safetensors file")
    # Copies, because the format has no tensors that are one.
    packed = library.save({name: tensor.clone() for name, tensor in tensors.items()}, header)
    with whole_file(path) as temporary:
        temporary.write_bytes(packed)


def read_safetensors(path: Path | str) -> dict[str, Any]:
    """Reads a file: the content of a checkpoint where it is one of this project, else its tensors by name.

    Raises:
        DamagedFile: damaged, or no such file.
        BenchError: not to be read, or safetensors is not installed.
    """
    library = extra("safetensors", "a .safetensors file")
    try:
        with library.safe_open(str(path), framework="pt", device="cpu") as file:
            header: dict[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except library.SafetensorError as error:
        raise DamagedFile(
            f"{path} is damaged or no .safetensors file ({first_line(error)}); write or download it again", path
        ) from error
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from error
    if _OURS not in header:
        return tensors
    try:
        told = {part: json.loads(header[part]) for part in _TOLD if part in header}
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged: its header is no JSON; write it again", path) from error
    buffers = {name.removeprefix(_BUFFER): tensor for name, tensor in tensors.items() if name.startswith(_BUFFER)}
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(_BUFFER)}
    return {"format": header[_OURS], "state_dict": weights, "buffers": buffers, **told}
