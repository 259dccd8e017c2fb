"""How a benchmark with limits ends: it says which are kept, writes what it measured, and fails where one is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def conclude(result: Mapping[str, Any], limits: Mapping[str, bool], out: Path | None) -> None:
    """Prints a line a limit; status 1 unless all are kept.

    Args:
        result: what was measured, plain data.
        limits: what is asked for -> whether it is kept.
        out: a JSON file for both, if one is wanted.
    """
    for limit, is_kept in limits.items():
        print(f"  {'kept' if is_kept else 'NOT KEPT'}: {limit}")
    if out:
        out.write_text(json.dumps({**result, "limits": dict(limits)}, indent=1) + "\n", encoding="utf-8")
    if not all(limits.values()):
        sys.exit(1)
