"""What several tests share: where the real data lies, and a tiny data set of the project's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


def _real_data(name: str) -> Path:
    folder = Path(os.environ.get("VSS_DATA", ROOT.parent / "shared" / "datasets")) / name
    if not folder.is_dir():
        pytest.skip(f"real data not present: {folder} (set VSS_DATA to the folder that holds it)")
    return folder


@pytest.fixture(scope="session")
def camvid_root() -> Path:
    return _real_data("camvid")


@pytest.fixture(scope="session")
def cityscapes_root() -> Path:
    return _real_data("cityscapes_sample")
