"""The README's "A method of your own", followed as written."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SECTION = re.compile(r"### A method of your own\n(.*?)\n### ", re.DOTALL)
FILE = re.compile(r"`(bench/\S+\.py)`\n\n```python\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"```\npython (.*?)```", re.DOTALL)


@pytest.fixture
def project(project_root: Path, tmp_path: Path) -> Path:
    """A copy of the code, so that the new method is not written into the project."""
    copy = tmp_path / "project"
    shutil.copytree(project_root / "bench", copy / "bench", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project_root / "benchmark.py", copy)
    return copy


def test_the_section_adds_a_method_and_benchmarks_it(
    project_root: Path, project: Path, tiny_baseline: Path, tiny_camvid: Path
) -> None:
    section = SECTION.search((project_root / "README.md").read_text(encoding="utf-8"))[1]
    files = dict(FILE.findall(section))
    assert len(files) == 2
    for path, text in files.items():
        target = project / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
    words = shlex.split(COMMAND.search(section)[1].replace("\\\n", " "))
    words[words.index("--baseline") + 1] = str(tiny_baseline)
    out = project / words[words.index("--out-dir") + 1]
    tiny = ["--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", "0", "--no-latency", "--threads", "1"]

    subprocess.run([sys.executable, *words, *map(str, tiny)], cwd=project, check=True, capture_output=True, timeout=120)

    rows = json.loads((out / "benchmark_summary.json").read_text(encoding="utf-8"))["rows"]
    assert {row["method"]: row["status"] for row in rows} == {"spread": "done", "l1": "done"}
    spread, l1 = rows
    assert spread["parameters_kept"] == pytest.approx(l1["parameters_kept"])
    kept = {row["method"]: json.loads((out / row["folder"] / "pruning_info.json").read_text())["plan"] for row in rows}
    assert kept["spread"]["kept"] != kept["l1"]["kept"]
    listed = subprocess.run([sys.executable, "benchmark.py", "--list-methods"], cwd=project, capture_output=True)
    assert b"standard deviation of the filter" in listed.stdout
