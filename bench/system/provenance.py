"""A record of how a result came about: command, code, versions, machine, time."""

from __future__ import annotations

import contextlib
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """How a result came about: command, code, versions, machine, time."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "command": shlex.join([*_called(), *sys.argv[1:]]),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git": _git_state(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if cuda else None,
        "gpu": torch.cuda.get_device_name() if cuda else None,
    }


def _git_state() -> str | None:
    here = Path(__file__).resolve().parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return described.stdout.strip()
    return None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _called() -> list[str]:
    """What was run, as it is typed behind `python`: a package by its name, and not by the file in it."""
    called = Path(sys.argv[0])
    if called.name != "__main__.py":
        return [sys.argv[0]]
    return ["-m", f"{called.parent.parent.name}.{called.parent.name}"]
