"""docs/method.md, followed word for word: its method passes the suite's own checks, and is compared like any other."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
FILE = re.compile(r"`(bench/\S+)`\n\n```\w+\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```\n(python .*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def page(project_root: Path) -> str:
    return (project_root / "docs" / "method.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def commands(page: str) -> list[list[str]]:
    """The words behind `python` of each command the page gives."""
    lines = COMMANDS.search(page)[1].replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture(scope="module")
def project(project_root: Path, tmp_path_factory: pytest.TempPathFactory, page: str) -> Path:
    """A copy of the project with the files of the page, so that they are not written into the project itself."""
    copy = tmp_path_factory.mktemp("own") / "project"
    leave_out = shutil.ignore_patterns("__pycache__", "fixtures", "results", ".*")
    for folder in ("bench", "tests", "docs", "configs"):
        shutil.copytree(project_root / folder, copy / folder, ignore=leave_out)
    for file in (*project_root.glob("*.py"), *project_root.glob("*.md"), project_root / "pyproject.toml"):
        shutil.copy(file, copy)
    for path, text in FILE.findall(page):
        target = copy / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return copy


def python(project: Path, *words: object) -> str:
    """What a command in the copy prints; it must succeed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=project, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_has_a_whole_method(page: str, commands: list[list[str]]) -> None:
    names = ("__init__.py", "pruner.py", "README.md")
    assert [path for path, _ in FILE.findall(page)] == [f"bench/pruners/spread/{name}" for name in names]
    assert [words[0] for words in commands] == ["benchmark.py", "-m"]


def test_it_passes_the_checks_of_the_suite(project: Path, commands: list[list[str]]) -> None:
    module, *files = commands[1][1:]
    assert module == "pytest" and "tests/test_house.py" in files and "tests/pruners/test_contract.py" in files
    python(project, "-m", "docs.draw_architecture")
    # What is checked of each module for this one alone, and the contract on one network: the rest is as without it.
    chosen = "contract and unet_small and spread or not contract and (spread or not bench.)"
    words = [*files, "tests/test_architecture.py", "-k", chosen]
    shown = python(project, "-m", "pytest", "-n", 0, "-p", "no:cacheprovider", "-rA", *words)
    for test in (
        "[bench.pruners.spread.pruner]",
        "test_contract.py::test_a_pruned_network",
        "a_readme",
        "_the_picture_",
    ):
        assert re.search(rf"^PASSED .*{re.escape(test)}", shown, re.MULTILINE), test
    python(project, "-m", "ruff", "check", "bench/pruners/spread")
    python(project, "-m", "ruff", "format", "--check", "bench/pruners/spread")


def test_it_is_listed_and_compared(
    project: Path, commands: list[list[str]], tiny_baseline: Path, tiny_camvid: Path
) -> None:
    words = commands[0]
    words = [str(tiny_baseline) if word.endswith("best.pt") else word for word in words]
    out = project / words[words.index("--out-dir") + 1]
    tiny = ["--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", "0", "--no-latency", "--threads", "1"]
    python(project, *words, *tiny)

    rows = json.loads((out / "benchmark_summary.json").read_text(encoding="utf-8"))["rows"]
    assert {row["method"]: row["status"] for row in rows} == {"spread": "done", "l1": "done"}
    spread, l1 = rows
    assert spread["parameters_kept"] == pytest.approx(l1["parameters_kept"])
    kept = {row["method"]: json.loads((out / row["folder"] / "pruning_info.json").read_text())["plan"] for row in rows}
    assert kept["spread"]["kept"] != kept["l1"]["kept"]
    assert "standard deviation of the filter" in python(project, "benchmark.py", "--list-methods")
