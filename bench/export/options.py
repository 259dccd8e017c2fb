"""Which files a network is exported to."""

from __future__ import annotations

from dataclasses import dataclass

from bench.config.declare import option

FORMATS = ("onnx", "torch-export", "torchscript", "safetensors", "openvino")


def parse_formats(text: str) -> list[str]:
    """Reads `onnx,torch-export`: formats, each once."""
    found = list(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in found:
        if word not in FORMATS:
            raise ValueError(f"'{word}' is no format; write some of {', '.join(FORMATS)}")
    return found


def parse_opset(text: str) -> int:
    """Reads a version of ONNX's operators that torch's exporter can write."""
    if not text.isdigit() or not 18 <= int(text) <= 23:
        raise ValueError("write a number from 18 to 23")
    return int(text)


@dataclass
class ExportOptions:
    """Which files a network is exported to."""

    format: list[str] | None = option(
        None, f"which files, some of {', '.join(FORMATS)} (required)", parse=parse_formats, metavar="NAME,..."
    )
    fixed: bool = option(False, "take images of --input-size alone; else of any size (torchscript is always fixed)")
    opset: int = option(20, "version of ONNX's operators, 18 to 23", parse=parse_opset)
