"""Studies: several benchmarks in one file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.errors import UsageError


@pytest.fixture
def study(tiny_camvid, tmp_path):
    """Writes a study of the tiny data set with some text after what holds for all; returns its file."""

    def write(text: str) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(
            f"dataset: camvid\ndata-root: {tiny_camvid}\nnum-workers: 0\nthreads: 1\nlatency: false\n"
            f"out-dir: {tmp_path / 'out'}\nmethods: [l1, random]\nratios: [0.2]\nopt: {{taylor.term: gamma}}\n"
            f"calib-images: 2\nrecalibration-images: 2\nreconstruction-images: 0\n{text}"
        )
        return path

    return write


def test_each_benchmark_has_a_folder_and_all_one_table(study, call, tiny_baseline, shallow_baseline, tmp_path):
    path = study(
        f"benchmarks:\n- {{name: small, baseline: {shallow_baseline}}}\n- {{name: gone, baseline: {tmp_path}/no.pt}}\n"
        f"- {{name: large, baseline: {tiny_baseline}, cells: [l2@macs0.5@1]}}\n"
    )
    shown = call("benchmark.py", "--config", path, "--dry-run", "--ratios", 0.3)
    assert "random@0.3@0" in shown.out and "l2@macs0.5@1" not in shown.out, "what is typed counts more"
    done = call("benchmark.py", "--config", path)
    assert done.code == 1
    assert "1 of 3 benchmarks failed, the first: " in done.err and f"{tmp_path}/no.pt" in done.err
    assert "left out what concerns other methods than l1, random: taylor.term" in done.out
    rows = {
        name: [(row["method"], row["target_value"]) for row in json.loads(path.read_text())["rows"]]
        for name in ("small", "large")
        for path in [tmp_path / "out" / name / "benchmark_summary.json"]
    }
    assert rows == {"small": [("l1", 0.2), ("random", 0.2)], "large": [("l2", 0.5)]}
    assert (tmp_path / "out" / "comparison.csv").read_text().count("\n") == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("benchmarks: {a: 1}", "benchmarks must be a list of mappings"),
        ("benchmarks: [{name: a}, {name: a}]", "give it a `name` of its own"),
        ("benchmarks: [{methds: [l1]}]", "benchmark 1: unknown key 'methds'; did you mean methods"),
    ],
)
def test_a_study_that_cannot_be_says_where(study, text, message):
    from bench.commands.benchmark import build_parser
    from bench.commands.comparing import benchmarks_of

    with pytest.raises(UsageError, match=message):
        benchmarks_of(build_parser(), ["--config", str(study(text))])
