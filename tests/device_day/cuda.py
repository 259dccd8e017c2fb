"""The tests that need a GPU, by pytest in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from bench.errors import BenchError
from tests.device_day.day import NotHere, Part, Row, Setting, Step

ROOT = Path(__file__).resolve().parent.parent.parent
MARK = "pytest.mark.cuda"


def files_with_cuda_tests() -> list[str]:
    """The files of tests that need a GPU, by what stands in them: to collect all the others takes long."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    return [path.relative_to(ROOT).as_posix() for path in found if MARK in path.read_text(encoding="utf-8")]


def outcomes(report: Path) -> list[Row]:
    """A row for each test of a report in JUnit's XML."""
    rows = []
    for case in ElementTree.parse(report).iter("testcase"):
        ended = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        outcome = "passed" if ended is None else {"failure": "failed"}.get(ended.tag, ended.tag)
        why = None if ended is None else (ended.get("message") or "").partition("\n")[0][:200]
        rows.append({"test": case.get("name"), "outcome": outcome, "seconds": float(case.get("time")), "why": why})
    return rows


def run_tests(setting: Setting, which: str, deadline: float) -> list[Row]:
    """Runs them.

    Args:
        setting: the day's.
        which: of them, as pytest's `-k` takes it.
        deadline: when they have to be through.

    Raises:
        NotHere: there is no GPU.
        BenchError: pytest did not come to its end, or tests failed, which are named.
    """
    if setting.device.type != "cuda":
        raise NotHere("these tests need a GPU")
    report = setting.scratch / "tests.xml"
    report.unlink(missing_ok=True)
    words = ["-m", "pytest", "-m", "cuda", "-k", which, "-n", "0", f"--junitxml={report}", *files_with_cuda_tests()]
    # What deterministic products of matrices ask for, before the first of them.
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    limit = max(1, deadline - time.monotonic())
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"the tests were not through in {limit:.0f} s") from None
    if not report.is_file():
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing said"]
        raise BenchError(f"pytest ended with {done.returncode}: {said[-1]}")
    rows = outcomes(report)
    if failed := [row for row in rows if row["outcome"] in ("failed", "error")]:
        named = "; ".join(f"{row['test']}: {row['why']}" for row in failed)
        raise BenchError(f"{len(failed)} of {len(rows)} tests failed: {named}")
    return rows


def steps(setting: Setting) -> Iterator[Step]:
    """Two: what torch.compile does the first time may take longer than all the others."""
    for name, which in (("tests", "not compiled"), ("compiled", "compiled")):
        yield Step(name, lambda deadline, which=which: run_tests(setting, which, deadline))


PART = Part("cuda", "Tests on the GPU", 0.25, steps, {"test": "", "outcome": "", "seconds": ".1f", "why": ""})
