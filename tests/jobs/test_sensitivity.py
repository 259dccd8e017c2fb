"""Sensitivity: one group at a time, what it costs, and ratios that can be fed back."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from bench.channels.groups import prunable
from bench.datasets.options import DataOptions
from bench.engine.one_cut import smaller
from bench.engine.options import PruneOptions
from bench.engine.session import Session
from bench.engine.weighing import sensitivity as engine_sensitivity
from bench.engine.weighing.sensitivity import plan_for_group
from bench.errors import UsageError
from bench.jobs import sensitivity
from bench.jobs.options import SensitivityOptions
from bench.jobs.sensitivity import COLUMNS, measure_sensitivity, tolerated
from bench.measure.baseline import Baseline
from bench.measure.cost import measure_cost
from bench.measure.evaluation import evaluate
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.pruners import make_pruner
from bench.recover.recalibration import recalibrate
from bench.report.plots import heat_map
from bench.system.files import file_digest

PLAIN = PruneOptions(recalibrate=False, calib_batch_size=4, recalibration_images=4)
TRIED = SensitivityOptions(sensitivity_ratios=[0.5, 0.0], sensitivity_images=4)
L1 = make_pruner("l1")
MakeBench = Callable[..., Session]


@pytest.fixture(scope="module")
def half_dead_baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `unet_small` of two stages, half of whose group `downs.0.conv.0` is dead."""
    torch.manual_seed(5)
    spec = ModelSpec("unet_small", 12, {"depth": 2})
    network = build_model(spec)
    norm = network.downs[0].conv[1]
    half = norm.num_features // 2
    with torch.no_grad():
        norm.weight[:half] = 0
        norm.bias[:half] = 0
        # The least by l1 as well.
        network.downs[0].conv[0].weight[:half] = 0
    path = tmp_path_factory.mktemp("dead") / "best.pt"
    save_model(path, SavedModel(network, spec, meta={"input_size": [48, 64]}))
    return path


def session_of(baseline: Path, data_root: Path, scores: Path, **options: Any) -> Session:
    data = DataOptions(dataset="camvid", data_root=str(data_root), num_workers=0)
    timing = TimingOptions(latency=False)
    reference = Baseline(baseline, data, ScoringOptions(), timing, device=torch.device("cpu"))
    return Session(reference, replace(PLAIN, **options), scores)


@pytest.fixture
def make_bench(tiny_camvid: Path, half_dead_baseline: Path, tmp_path: Path) -> MakeBench:
    """A new session over the tiny data; scores go to the test's own folder."""
    return partial(session_of, half_dead_baseline, tiny_camvid, tmp_path / "scores")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `measured` wrote its files; to be copied by whoever goes on with them."""
    return tmp_path_factory.mktemp("sensitivity") / "out"


@pytest.fixture(scope="module")
def measured(half_dead_baseline: Path, tiny_camvid: Path, folder: Path) -> dict[str, Any]:
    session = session_of(half_dead_baseline, tiny_camvid, folder.parent / "scores")
    return measure_sensitivity(session, L1, TRIED, 0, folder)


def test_a_row_for_each_group_and_ratio(measured: dict[str, Any], make_bench: MakeBench, folder: Path) -> None:
    groups = prunable(make_bench().groups)
    wanted = [(group.name, group.channels, ratio) for group in groups for ratio in (0.0, 0.5)]
    assert [(row["group"], row["channels"], row["ratio"]) for row in measured["rows"]] == wanted
    for row in measured["rows"]:
        assert tuple(row) == COLUMNS
        assert row["channels_kept"] == (
            row["channels"] if row["ratio"] == 0 else row["channels"] - row["channels"] // 2
        )
        assert row["miou_drop_points"] == pytest.approx(100 * (measured["baseline"]["miou"] - row["miou"]), abs=1e-9)
        if row["ratio"] == 0:
            assert row["miou_drop_points"] == 0
    with (folder / sensitivity.CSV).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [{key: str(value) for key, value in row.items()} for row in measured["rows"]] == lines
    assert json.loads((folder / sensitivity.RECORD).read_text()) == measured


def test_rows_are_what_a_cut_network_costs_and_scores(measured: dict[str, Any], make_bench: MakeBench) -> None:
    bench = make_bench()
    scores, _ = bench.scores(L1, 0)
    images = bench.batches(4, 0)
    groups = {group.name: group for group in bench.groups}
    different = set()
    for row in measured["rows"]:
        plan = plan_for_group(groups[row["group"]], row["ratio"], scores, bench)
        others = [name for name, kept in plan.kept.items() if len(kept) < groups[name].channels]
        assert others == ([row["group"]] if row["ratio"] else [])
        network, _ = smaller(bench, bench.baseline.saved.model, plan)
        cost = measure_cost(network, (48, 64))
        assert (row["parameters"], row["macs"]) == (cost.parameters, cost.macs)
        quality = evaluate(network, images, bench.baseline.data.classes, device=torch.device("cpu"))
        assert row["miou"] == quality.miou
        different.add(row["miou"])
    assert len(different) > 5


def test_a_group_whose_channels_are_dead_loses_nothing(measured: dict[str, Any]) -> None:
    drops = {row["group"]: row["miou_drop_points"] for row in measured["rows"] if row["ratio"] == 0.5}
    assert drops["downs.0.conv.0"] == pytest.approx(0, abs=1e-3)
    assert max(map(abs, drops.values())) > 0.1


def test_the_record_says_what_was_measured_on_what(
    measured: dict[str, Any], half_dead_baseline: Path, folder: Path
) -> None:
    assert (measured["method"], measured["seed"], measured["dataset"]) == ("l1", 0, "camvid")
    assert measured["baseline"]["sha256"] == file_digest(half_dead_baseline)
    images = measured["images"]
    assert (images["split"], images["count"], images["recalibrated_on"]) == ("train", 4, 0)
    assert "command" in measured["provenance"]
    names = {path.name for path in folder.iterdir()}
    assert names == {"done", sensitivity.CSV, sensitivity.RECORD, sensitivity.PICTURE, sensitivity.RATIOS}


def test_another_split_and_recalibration_give_other_numbers(
    measured: dict[str, Any], make_bench: MakeBench, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "out")
    validation = measure_sensitivity(make_bench(), L1, TRIED, 0, tmp_path / "val", split="val")
    assert validation["images"]["split"] == "val"
    assert validation["baseline"]["miou"] != measured["baseline"]["miou"]
    again = measure_sensitivity(make_bench(recalibrate=True), L1, TRIED, 0, tmp_path / "out")
    assert again["images"]["recalibrated_on"] == 4
    assert again["baseline"]["miou"] == measured["baseline"]["miou"] == measured["baseline"]["miou_treated"]
    # Drops are counted from the whole network recalibrated as well.
    bench = make_bench(recalibrate=True)
    whole = bench.baseline.saved.model
    recalibrate(whole, bench.batches(4, 0), torch.device("cpu"))
    treated = evaluate(whole, bench.batches(4, 0), bench.baseline.data.classes, device=torch.device("cpu")).miou
    assert again["baseline"]["miou_treated"] == treated != measured["baseline"]["miou"]
    assert all(row["miou_drop_points"] == 0 for row in again["rows"] if row["ratio"] == 0)
    drops = [(row["miou_drop_points"], row["miou"]) for row in again["rows"]]
    assert all(drop == pytest.approx(100 * (treated - miou), abs=1e-9) for drop, miou in drops)
    # Counted so, dead channels lose nothing with recalibration either.
    (dead,) = (row for row in again["rows"] if row["group"] == "downs.0.conv.0" and row["ratio"] == 0.5)
    assert dead["miou_drop_points"] == pytest.approx(0, abs=1e-3)


def test_the_baseline_is_left_as_it_was(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench(recalibrate=True)
    before = {name: tensor.clone() for name, tensor in bench.baseline.saved.model.state_dict().items()}
    measure_sensitivity(bench, L1, replace(TRIED, sensitivity_ratios=[0.5]), 0, tmp_path / "out")
    after = bench.baseline.saved.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_an_interrupted_run_goes_on_where_it_stopped(
    make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, calls = tmp_path / "out", engine_sensitivity.evaluate, []

    def counted(*values: Any, **named: Any) -> Any:
        calls.append(named["label"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*values, **named)

    monkeypatch.setattr(engine_sensitivity, "evaluate", counted)
    options = replace(TRIED, sensitivity_ratios=[0.5])
    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(make_bench(), L1, options, 0, out)
    kept = json.loads((out / sensitivity.RECORD).read_text())["rows"]
    assert len(kept) == 2 and not (out / sensitivity.CSV).exists() and (out / "failed").is_file()
    calls[:] = ["after the interruption"] * 10
    resumed = measure_sensitivity(make_bench(), L1, options, 0, out)
    assert len(calls) == 10 + len(resumed["rows"]) - 2
    fresh = measure_sensitivity(make_bench(), L1, options, 0, tmp_path / "fresh")
    assert resumed["rows"] == fresh["rows"]
    # Fewer of the rows take no measuring, another seed takes all.
    calls[:] = ["again"] * 10
    assert measure_sensitivity(make_bench(), L1, options, 0, out)["rows"] == fresh["rows"]
    assert len(calls) == 10
    measure_sensitivity(make_bench(), L1, options, 1, out)
    assert len(calls) == 11 + len(fresh["rows"])


def test_the_largest_ratio_within_the_drop_is_taken() -> None:
    drops = {"a": (0.2, 1.0, 1.1), "b": (2.0, 3.0, 4.0), "c": (2.0, 0.9, -0.5)}
    rows = [
        {"group": name, "ratio": ratio, "miou_drop_points": drop}
        for name, values in drops.items()
        for ratio, drop in zip((0.1, 0.5, 0.9), values, strict=True)
    ]
    assert tolerated(rows, 1.0) == {"a": 0.5, "b": 0.0, "c": 0.9}


def test_a_ratio_beyond_the_limits_is_refused(make_bench: MakeBench, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--sensitivity-ratios 0\.5 is more than the 0\.4 of a group that can go"):
        measure_sensitivity(make_bench(max_ratio=0.4), L1, TRIED, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ratios_fed_back_give_exactly_those_counts(
    call: Callable[..., Any], tiny_camvid: Path, half_dead_baseline: Path, tmp_path: Path
) -> None:
    out, pruned = tmp_path / "sensitivity", tmp_path / "pruned"
    words = ["--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0, "--ckpt", half_dead_baseline]
    words += ["--method", "taylor", "--calib-images", 4, "--no-recalibrate", "--round-to", 4, "--no-latency"]
    flags = ["--sensitivity", "--sensitivity-ratios", "0.3,0.6", "--sensitivity-images", 4, "--sensitivity-drop", 0]
    result = call("prune.py", *words, *flags, "--save", out)
    assert result.code == 0, result.err
    assert str(out / sensitivity.PICTURE) in result.out.replace("\n", "")
    assert not list(out.glob("pruned_model*")) and (out / sensitivity.PICTURE).is_file()

    record = json.loads((out / sensitivity.RECORD).read_text())
    ratios = yaml.safe_load((out / sensitivity.RATIOS).read_text())
    assert ratios == {"ratio-of": record["ratio_of"]}
    assert set(ratios["ratio-of"].values()) == {0.0, 0.3, 0.6}
    widths = {row["group"]: row["channels"] for row in record["rows"]}
    counts = {(row["group"], row["ratio"]): row["channels_kept"] for row in record["rows"]}
    wanted = {name: counts.get((name, ratio), widths[name]) for name, ratio in ratios["ratio-of"].items()}
    assert set(wanted) == set(widths)

    result = call("prune.py", *words, "--config", out / sensitivity.RATIOS, "--global-ratio", 0, "--save", pruned)
    assert result.code == 0, result.err
    kept = json.loads((pruned / "pruning_info.json").read_text())["plan"]["kept"]
    assert {name: len(channels) for name, channels in kept.items()} == wanted
    load_model(pruned / "pruned_model.pt")


@pytest.mark.parametrize("groups", [14, 60])
def test_a_heat_map_grows_with_its_rows(tmp_path: Path, groups: int) -> None:
    values = [[row * column / 4 for column in range(5)] for row in range(groups)]
    names = [f"backbone.layer{row}.conv" for row in range(groups)]
    path = tmp_path / "map.png"
    heat_map(path, values, names, list("abcde"), marked=[(1, 2)], title="t", across="x", shade="s")
    with Image.open(path) as picture:
        # At 130 dots an inch a row of 0.25 inch has room for its name.
        assert picture.height > 130 * 0.25 * groups
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
