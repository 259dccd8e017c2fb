"""Studies: several benchmarks in one file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from bench.cli.parser import collect
from bench.commands.benchmark import build_parser
from bench.commands.comparing import benchmarks_of, jobs_of
from bench.engine.options import PruneOptions
from bench.engine.weighing.checks import check_objective
from bench.errors import UsageError
from bench.pruners import make_pruners, methods
from docs.write_results import KINDS


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
    assert "all benchmarks: 4 cells, 0 of them done; how long" in shown.out
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


def parsed(path: Path, *words: str) -> list[argparse.Namespace]:
    return benchmarks_of(build_parser(), ["--config", str(path), *words])


def test_benchmarks_of_one_name_share_a_folder_and_each_has_its_own_recipe(study, call, shallow_baseline, tmp_path):
    path = study(
        "finetune-epochs: 0\nbenchmarks:\n"
        f"- &first {{name: small, baseline: {shallow_baseline}, recipe: camvid/unet_small, methods: [l1]}}\n"
        "- {<<: *first, repair: least-squares, repair-images: 2, recipe: synthetic/unet_small}\n"
    )
    first, second = parsed(path)
    assert first.out_dir == second.out_dir == str(tmp_path / "out" / "small")
    assert (first.lr, second.lr, first.repair, second.repair) == (0.05, 0.1, "none", "least-squares")
    assert parsed(path, "--recipe", "camvid/resnet18_seg")[1].lr == 0.04, "what is typed counts more"
    assert call("benchmark.py", "--config", path).code == 0
    shown = call("benchmark.py", "--config", path, "--dry-run", "--seeds", "0,1", "--methods", "l1")
    assert "all benchmarks: 4 cells, 2 of them done; the others may take" in shown.out
    rows = json.loads((tmp_path / "out" / "small" / "benchmark_summary.json").read_text())["rows"]
    assert [(row["method"], row["pruning_options"]["repair"]) for row in rows] == [
        ("l1", "least-squares"),
        ("l1", "none"),
    ]
    _, lines = KINDS["comparison"](json.loads((tmp_path / "out" / "small" / "benchmark_summary.json").read_text()))
    told = [line[0].split(", ")[0] for line in lines]
    assert told == ["baseline", "l1 repair=least-squares", "l1 repair=none"], "tables tell them apart"


def test_only_picks_cells_of_a_study_wherever_they_are(study, call, tmp_path):
    path = study(
        f"train-baseline: true\nmodel: unet_small\nbenchmarks:\n- {{name: one, baseline: {tmp_path}/best.pt}}\n"
        f"- {{name: other, baseline: {tmp_path}/best.pt, methods: [l2]}}\n"
    )
    shown = call("benchmark.py", "--config", path, "--dry-run", "--only", "l2@*")
    assert shown.code == 0 and "benchmark 1 of 1: " in shown.out and "l2@0.2@0" in shown.out
    assert "random@0.2@0" not in shown.out


def test_the_camvid_study_prunes_by_every_structured_method_at_three_targets(project_root):
    parts = parsed(project_root / "configs" / "studies" / "camvid.yaml")
    by_folder: dict[str, set[tuple[str, float, int]]] = {}
    for part in parts:
        cells = {(job.method, job.goal.value, job.seed) for job in jobs_of(part)}
        by_folder.setdefault(part.out_dir, set()).update(cells)
    assert set(by_folder) == {"./runs/camvid/efficientnet_lite0_seg", "./runs/camvid/unet_small"}
    structured = set(methods()) - {"magnitude"}
    for cells in by_folder.values():
        assert cells >= {(method, kept, seed) for method in structured for kept in (0.7, 0.5, 0.28) for seed in (0, 1)}
        assert cells >= {("random", kept, 2) for kept in (0.7, 0.5, 0.28)}
    assert {part.finetune_epochs for part in parts} == {3}, "equal fine-tuning"
    assert {(part.model, part.lr) for part in parts} == {("efficientnet_lite0_seg", 1e-3), ("unet_small", 0.05)}
    for part in parts:
        assert part.input_size == part.crop_size
        checked = make_pruners(part.methods, {})
        for job in jobs_of(part):
            check_objective(collect(PruneOptions, part), checked[job.method], job.goal)


def test_the_recovery_study_fine_tunes_with_and_without_repair(project_root):
    parts = parsed(project_root / "configs" / "studies" / "recovery.yaml")
    tuned = [part for part in parts if part.finetune_epochs]
    assert {part.out_dir for part in tuned}.isdisjoint(part.out_dir for part in parts if not part.finetune_epochs)
    assert {(part.repair, part.objective) for part in tuned} == {
        ("none", "channels"), ("least-squares", "channels"), ("least-squares", "macs"),
    }  # fmt: skip
    assert {part.finetune_epochs for part in tuned} == {2}
    for part in parts:
        checked = make_pruners(part.methods, {})
        for job in jobs_of(part):
            check_objective(collect(PruneOptions, part), checked[job.method], job.goal)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("benchmarks: [{name: a, baseline: b}, {name: a, baseline: c}]", "give it a `name` of its own"),
        ("benchmarks: {a: 1}", "benchmarks must be a list of mappings"),
        ("benchmarks: [{name: a}, {name: a}]", "give it a `name` of its own"),
        ("benchmarks: [{methds: [l1]}]", "benchmark 1: unknown key 'methds'; did you mean methods"),
    ],
)
def test_a_study_that_cannot_be_says_where(study, text, message):
    with pytest.raises(UsageError, match=message):
        parsed(study(text))
