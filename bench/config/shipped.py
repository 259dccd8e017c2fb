"""Files that come along with the code, `configs/` above all, found from any folder."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder `bench/`: an installed copy has them inside, a checkout beside it."""


def located(path: Path | str) -> Path:
    """Where a file lies: as it is named, seen from the working folder; else where it comes along, if it does."""
    path = Path(path)
    try:
        if not path.exists():
            return next((place for place in (PACKAGE / path, PACKAGE.parent / path) if place.is_file()), path)
    except OSError:
        # A name that is too long, for one: whoever opens it says so.
        return path
    return path
