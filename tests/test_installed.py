"""An installed copy: what it holds, and that it works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import ROOT

SCRIPTS = ("train", "prune", "eval", "benchmark", "finetune_batch")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `pip install .` would fill, filled by the build itself: no network, no environment."""
    library, elsewhere = tmp_path_factory.mktemp("site-packages"), tmp_path_factory.mktemp("build")
    steps = ["egg_info", "--egg-base", elsewhere, "build", "--build-base", elsewhere, "--build-lib", library]
    command = [sys.executable, "setup.py", "--quiet", *steps]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    return library


def python(installed: Path, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def files_in(folder: Path, *endings: str) -> set[str]:
    found = (path for path in folder.rglob("*") if path.suffix in endings and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found}


def test_the_package_is_all_there_and_nothing_else(installed: Path, project_root: Path) -> None:
    assert {path.name for path in installed.iterdir()} == {"bench"}
    kinds = (".py", ".css", ".html", ".js", ".md", ".yaml")
    wanted = files_in(project_root / "bench", *kinds)
    assert "commands/prune.py" in wanted and "report/html_page.css" in wanted and "pruners/taylor/README.md" in wanted
    assert "leaderboard/page/main.js" in wanted
    configs = {f"configs/{name}" for name in files_in(project_root / "configs", *kinds)}
    assert "configs/quick.yaml" in configs
    assert files_in(installed / "bench", *kinds) == wanted | configs


@pytest.mark.parametrize("script", SCRIPTS)
def test_its_commands_answer_in_any_folder(installed: Path, tmp_path: Path, script: str) -> None:
    done = python(installed, tmp_path, "-m", f"bench.commands.{script}", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ") and "--help-all" in done.stdout


def test_it_finds_its_own_configs(installed: Path, tmp_path: Path) -> None:
    command = ["-m", "bench.commands.benchmark", "--config", "configs/quick.yaml"]
    done = python(installed, tmp_path, *command, "--baseline", "other.pt")
    # It is the config that asks for a baseline to be trained.
    assert (done.returncode, done.stdout) == (2, "") and "--train-baseline writes a best.pt" in done.stderr
    program = "import bench; print(bench.__file__); print(bench.make_pruner('magnitude').table[0].category)"
    done = python(installed, tmp_path, "-c", program)
    assert done.stdout.splitlines() == [str(installed / "bench" / "__init__.py"), "stem"], done.stderr
