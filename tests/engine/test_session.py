"""A session of prunings: what repeats is equal, what is kept is reused, and the record says what was done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from records import faults
from torch import Tensor
from toy_latency import time_by_macs

from bench.datasets.options import DataOptions
from bench.engine.options import PruneOptions
from bench.engine.pruning import prune_network
from bench.engine.results import Pruned
from bench.engine.session import Session
from bench.errors import BenchError, UsageError
from bench.jobs.pruning import prune_model
from bench.measure.baseline import Baseline
from bench.measure.cost import measure_cost
from bench.measure.inference import PLAIN
from bench.measure.latency import Effort
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models.checkpoint import load_model, save_model
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.system.files import file_digest, plain

IMAGES = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(3))
OPTIONS = PruneOptions(calib_images=4, calib_batch_size=2, recalibration_images=4)
HALF = Target(Goal("channels", 0.5))
TAYLOR, L1 = make_pruner("taylor"), make_pruner("l1")
MakeBench = Callable[..., Session]


@pytest.fixture
def make_bench(tiny_camvid: Path, shallow_baseline: Path, tmp_path: Path) -> MakeBench:
    """A new session over the tiny data; scores go to the test's own folder."""

    def make(
        checkpoint: Path = shallow_baseline,
        scoring: dict[str, Any] | None = None,
        timing: dict[str, Any] | None = None,
        **options: Any,
    ) -> Session:
        data = DataOptions(dataset="camvid", data_root=str(tiny_camvid), num_workers=0)
        times = replace(TimingOptions(latency=False, latency_runs=10, latency_warmup=0), **(timing or {}))
        reference = Baseline(checkpoint, data, ScoringOptions(**(scoring or {})), times, device=torch.device("cpu"))
        return Session(reference, replace(OPTIONS, **options), tmp_path / "scores")

    return make


@torch.inference_mode()
def logits_of(pruned: Pruned) -> Tensor:
    return pruned.saved.model.eval()(IMAGES)


def without_times(info: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key not in ("seconds", "provenance")}


def score_files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- repeating


def test_scores_of_another_revision_are_computed_anew(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_bench()
    first = session.scores(L1, 0)[1]
    assert "revision" not in session.score_identity(L1, 0)
    monkeypatch.setattr(type(L1), "revision", 2)
    assert session.score_identity(L1, 0)["revision"] == 2
    assert session.scores(L1, 0)[1] != first


@pytest.mark.parametrize("method", ["taylor", "random"])
def test_the_same_seed_gives_the_same_network_and_numbers(make_bench: MakeBench, tmp_path: Path, method: str) -> None:
    pruner = make_pruner(method)
    first = prune_network(make_bench(), pruner, HALF, seed=1)
    # Nothing of the first run is reused: the scores are computed again.
    for path in (tmp_path / "scores").iterdir():
        path.unlink()
    again = prune_network(make_bench(), pruner, HALF, seed=1)
    assert "score" in again.info["seconds"]
    assert without_times(again.info) == without_times(first.info)
    assert torch.equal(logits_of(again), logits_of(first))


def test_one_bench_can_be_used_again(make_bench: MakeBench) -> None:
    bench = make_bench()
    before = {name: tensor.clone() for name, tensor in bench.baseline.saved.model.state_dict().items()}
    first = prune_network(bench, TAYLOR, HALF, seed=1)
    prune_network(bench, L1, Target(Goal("channels", 0.8), "local"), seed=1)
    again = prune_network(bench, TAYLOR, HALF, seed=1)
    assert without_times(again.info) == without_times(first.info)
    assert torch.equal(logits_of(again), logits_of(first))
    after = bench.baseline.saved.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_another_seed_sees_other_images(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench()
    one, other = (prune_network(bench, TAYLOR, HALF, seed) for seed in (1, 2))
    assert one.info["scores"] != other.info["scores"]
    scores = [torch.load(tmp_path / "scores" / p.info["scores"], weights_only=True)["scores"] for p in (one, other)]
    assert not any(torch.equal(scores[0][name], scores[1][name]) for name in scores[0])
    assert one.info["plan"]["kept"] != other.info["plan"]["kept"]
    # Weights alone do not depend on the seed; the statistics re-estimated on other images do.
    one, other = (prune_network(bench, L1, HALF, seed) for seed in (1, 2))
    assert one.info["plan"]["kept"] == other.info["plan"]["kept"]
    assert one.info["quality"]["cut"] == other.info["quality"]["cut"]
    assert not torch.equal(logits_of(one), logits_of(other))


# --- scores are kept


def test_scores_are_computed_once_for_all_targets(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench()
    first = prune_network(bench, TAYLOR, Target(Goal("channels", 0.2)), seed=0)
    again = {"plan", "cut", "recalibrate"}
    assert first.info["seconds"].keys() == {"groups", "cost_table", "score"} | again
    second = prune_network(bench, TAYLOR, Target(Goal("macs", 0.5)), seed=0)
    assert second.info["seconds"].keys() == again
    assert second.info["scores"] == first.info["scores"]
    # A bench of another process finds them too.
    third = prune_network(make_bench(), TAYLOR, Target(Goal("channels", 0.2)), seed=0)
    assert "score" not in third.info["seconds"]
    assert without_times(third.info) == without_times(first.info)
    assert score_files(tmp_path / "scores") == {first.info["scores"]}


def test_scores_of_other_settings_are_not_mixed_up(
    make_bench: MakeBench, shallow_baseline: Path, tmp_path: Path
) -> None:
    target = Target(Goal("channels", 0.2))
    names = [
        prune_network(make_bench(), TAYLOR, target, seed=0).info["scores"],
        prune_network(make_bench(), TAYLOR, target, seed=1).info["scores"],
        prune_network(make_bench(), make_pruner("taylor", {"term": "gamma"}), target, seed=0).info["scores"],
        prune_network(make_bench(calib_images=2), TAYLOR, target, seed=0).info["scores"],
        prune_network(make_bench(calib_batch_size=1), TAYLOR, target, seed=0).info["scores"],
        prune_network(make_bench(ignore=["downs.0*"]), TAYLOR, target, seed=0).info["scores"],
        prune_network(make_bench(), L1, target, seed=0).info["scores"],
    ]
    saved = load_model(shallow_baseline)
    saved.model.final_conv.weight.data.mul_(2)
    save_model(tmp_path / "other.pt", saved)
    names.append(prune_network(make_bench(tmp_path / "other.pt"), TAYLOR, target, seed=0).info["scores"])
    assert len(set(names)) == len(names)
    # Calibration images are none of L1's business.
    assert prune_network(make_bench(calib_images=2), L1, target, seed=0).info["scores"] == names[6]


# --- the record


def test_the_record(make_bench: MakeBench, tiny_baseline: Path) -> None:
    bench = make_bench(tiny_baseline)
    pruned = prune_network(
        bench, make_pruner("taylor", {"term": "gamma"}), Target(Goal("channels", 0.5), "local", 0.1), seed=4
    )
    info = pruned.info
    assert json.loads(json.dumps(info)) == info
    assert list(info) == [
        "format", "method", "method_options", "target", "seed", "baseline", "paper", "model", "dataset", "cost",
        "scoring", "quality", "options", "seconds", "provenance", "repair",
        "scores", "plan", "sparsity", "bias_absorption", "preparation", "latency_search", "reconstruction",
    ]  # fmt: skip
    assert info["format"] == "pruning-info/1"
    assert (info["method"], info["method_options"]) == ("taylor", {"term": "gamma"})
    assert info["target"] == {
        "kind": "channels", "value": 0.5, "scope": "local", "min_keep": 0.1, "max_ratio": 1.0, "round_to": 1,
        "ratio_of": {}, "within": None, "pools": {},
    }  # fmt: skip
    assert info["seed"] == 4
    assert info["baseline"] == {"path": str(tiny_baseline), "sha256": file_digest(tiny_baseline)}
    assert info["model"] == {
        "name": "unet_small",
        "outputs": 12,
        "kwargs": {},
        "classes": list(bench.baseline.data.classes.names),
        "input_size": [48, 64],
    }
    assert info["dataset"] == "camvid"
    assert info["options"]["calib_images"] == 4
    assert list(info["quality"]) == ["split", "baseline", "cut", "recalibrated"]
    assert info["quality"]["split"] == "test"
    assert info["quality"]["baseline"] == bench.baseline.quality
    assert 0 <= info["quality"]["recalibrated"]["miou"] <= 1

    plan = info["plan"]
    assert plan["channel_ratio"] == pytest.approx(0.5)
    assert plan["channels"]["kept"] == sum(map(len, plan["kept"].values()))
    assert plan["skipped_groups"] == []
    cost = measure_cost(pruned.saved.model, (48, 64))
    after = info["cost"]["after"]
    assert after == {**after, "parameters": cost.parameters, "macs": cost.macs, "state_bytes": cost.state_bytes}
    assert plan["predicted"] == {"parameters": cost.parameters, "macs": cost.macs, "bytes": cost.state_bytes}
    before = info["cost"]["before"]
    assert plan["before"] == {name: before[name] for name in ("parameters", "macs")} | {"bytes": before["state_bytes"]}
    for name in ("parameters", "macs", "flops", "state_bytes"):
        assert info["cost"]["change"][f"{name}_percent"] == pytest.approx(100 * (after[name] / before[name] - 1))
        assert after[name] < before[name]

    saved = pruned.saved
    assert saved.spec == bench.baseline.saved.spec
    assert saved.channels == plan["kept"]
    assert saved.meta["input_size"] == [48, 64]
    assert [step["method"] for step in saved.meta["pruning"]] == ["taylor"]


def test_quality_is_that_of_the_network(make_bench: MakeBench) -> None:
    bench = make_bench()
    pruned = prune_network(bench, L1, Target(Goal("channels", 0.3), "local"), seed=0)
    again = bench.baseline.evaluate(pruned.saved.model, "again")
    assert again.record() == pruned.evaluation.record() == pruned.info["quality"]["recalibrated"]
    assert torch.equal(again.per_image, pruned.evaluation.per_image)
    raw = prune_network(make_bench(recalibrate=False), L1, Target(Goal("channels", 0.3), "local"), seed=0)
    assert raw.info["quality"].keys() == {"split", "baseline", "cut"}
    assert raw.info["quality"]["cut"] == pruned.info["quality"]["cut"]
    quiet = prune_network(make_bench(evaluate=False), L1, Target(Goal("channels", 0.3), "local"), seed=0)
    assert quiet.info["quality"] == {"split": "test"}
    assert torch.equal(logits_of(quiet), logits_of(pruned))


def test_bias_absorption_is_recorded(make_bench: MakeBench, tiny_baseline: Path) -> None:
    target, options = Target(Goal("channels", 0.3), "local"), {"checkpoint": tiny_baseline, "recalibrate": False}
    plain, absorbed = (prune_network(make_bench(absorb_bias=on, **options), L1, target, seed=0) for on in (False, True))
    assert plain.info["bias_absorption"] is None
    record = absorbed.info["bias_absorption"]
    assert record["absorbed"]["ups.5.conv.3"] == ["final_conv"]
    assert record["skipped"].keys() == {"bottleneck.conv.3", "ups.1.conv.3", "ups.3.conv.3"}
    assert absorbed.info["plan"] == plain.info["plan"]
    shapes = [{k: v.shape for k, v in pruned.saved.model.state_dict().items()} for pruned in (plain, absorbed)]
    assert shapes[0] == shapes[1]


def test_a_pattern_that_fits_nothing_is_found_before_scoring(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench()
    with pytest.raises(UsageError, match=r"`ratio_of` pattern 'layer9\*' fits no group"):
        prune_network(bench, TAYLOR, Target(Goal("channels", 0.3), ratio_of={"layer9*": 0.5}), seed=0)
    assert not (tmp_path / "scores").exists()


def test_targets_of_a_method(make_bench: MakeBench) -> None:
    goal, exact = Goal("channels", 0.3), Goal("params", 0.5, within=0.01)
    bench = make_bench()
    assert bench.target(TAYLOR, goal) == Target(Goal("channels", 0.3), "global", 0.02)
    assert make_bench(min_keep=0.1).target(L1, goal) == Target(Goal("channels", 0.3), "local", 0.1)
    limits = {"max_ratio": 0.8, "round_to": 8, "ratio_of": {"head*": 0.1}}
    narrowed = make_bench(scope="isomorphic", **limits)
    assert narrowed.target(L1, Goal("size", 10**7)) == Target(Goal("size", 10**7), "isomorphic", **limits)
    assert bench.target(TAYLOR, exact) == Target(Goal("params", 0.5, within=0.01), "global")
    assert Target(exact).goal == exact
    with pytest.raises(UsageError, match="l1 ranks with `scope=local`; pass `scope=global` or leave it out"):
        bench.target(L1, exact)


def test_pools_of_a_method_are_used_and_recorded_unless_a_scope_is_asked_for(make_bench: MakeBench) -> None:
    sirfp, goal = make_pruner("sirfp"), Goal("channels", 0.5)
    bench = make_bench(recalibrate=False, evaluate=False)
    target = bench.target(sirfp, goal)
    assert set(target.pools.values()) == {"backbone", "rest"}
    assert make_bench(scope="global").target(sirfp, goal) == Target(Goal("channels", 0.5))
    info = prune_network(bench, sirfp, target, seed=0).info
    assert info["target"]["pools"] == target.pools
    whole = prune_network(bench, sirfp, Target(Goal("channels", 0.5)), seed=0)
    assert whole.info["scores"] == info["scores"]
    assert whole.info["plan"]["kept"] != info["plan"]["kept"]
    with pytest.raises(UsageError, match="sirfp ranks in pools; pass `scope=global`"):
        bench.target(sirfp, Goal("params", 0.5, within=0.01))


# --- a latency, which is measured


@pytest.fixture
def efforts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Lets the share of the MACs tell the time, and notes the effort of each measurement."""
    return time_by_macs(monkeypatch)


@pytest.mark.parametrize("limits", [{}, {"scope": "local", "round_to": 4}, {"ratio_of": {"downs.0*": 0.5}}])
@pytest.mark.parametrize("goal", [Goal("latency", 0.6), Goal("milliseconds", 12.0)])
def test_a_latency_is_searched_and_verified(
    make_bench: MakeBench, tiny_baseline: Path, efforts: list[float], goal: Goal, limits: dict[str, Any]
) -> None:
    # Of so many channels that the latency is met closely.
    bench = make_bench(tiny_baseline, evaluate=False, recalibrate=False)
    info = prune_network(bench, L1, Target(goal, **limits), seed=0).info
    search = info["latency_search"]
    macs = info["cost"]["after"]["macs"] / info["cost"]["before"]["macs"]
    assert 0.2 + 0.8 * macs == pytest.approx(0.6, rel=0.02)
    assert search["reached"] == pytest.approx(goal.value, rel=0.02)
    assert search["error_percent"] == pytest.approx(100 * (search["reached"] / goal.value - 1))
    assert not search["missed"]
    assert search["measured"][-1]["macs"] == pytest.approx(macs)
    assert search["verified"]["networks"]["candidate"]["speedup"] == pytest.approx(1 / (0.2 + 0.8 * macs))
    # Whatever was measured on the way, the finished network is measured anew and in full.
    assert efforts == [*(0.5 if point["is_long"] else 0.2 for point in search["measured"]), 1.0]
    # It is the same network that its share of the MACs gives.
    same = prune_network(bench, L1, Target(Goal("macs", macs), **limits), seed=0).info
    assert same["plan"]["kept"] == info["plan"]["kept"]
    assert same["latency_search"] is None


def test_the_effort_is_a_share_of_a_full_measurement(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    full = {"latency": True, "latency_warmup": 20, "latency_runs": 200, "latency_seconds": 10.0}
    reference = make_bench(timing=full).baseline
    asked = []
    monkeypatch.setattr("bench.measure.baseline.time_networks", lambda *_, effort, **__: asked.append(effort))
    for effort in (1.0, 0.2):
        reference.time(reference.saved.model, effort)
    assert asked == [
        Effort(warmup=20, runs=200, seconds=10.0),
        Effort(warmup=4, runs=40, seconds=2.0),
    ]


def test_a_job_takes_over_the_latency_it_was_verified_with(
    make_bench: MakeBench, efforts: list[float], tmp_path: Path
) -> None:
    bench = make_bench(evaluate=False, recalibrate=False)
    info = prune_model(bench, L1, Goal("latency", 0.5), 0, tmp_path / "job")
    report, written = (
        json.loads((tmp_path / "job" / name).read_text()) for name in ("report.json", "pruning_info.json")
    )
    assert [*faults(report), *faults(written)] == []
    assert report["latency"] == info["latency_search"]["verified"]
    assert efforts.count(1.0) == 1


def test_a_latency_out_of_reach_leaves_nothing_half_done(
    make_bench: MakeBench, efforts: list[float], tmp_path: Path
) -> None:
    with pytest.raises(BenchError, match=r"^cannot get down to 10\.0% of the latency: 2\d\.\d% of the latency is"):
        prune_model(make_bench(), L1, Goal("latency", 0.1), 0, tmp_path / "job")
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["failed"]


# --- what comes out


def test_removing_nothing_gives_the_baseline(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench()
    pruned = prune_network(bench, TAYLOR, Target(Goal("channels", 0.0)), seed=0)
    save_model(tmp_path / "same.pt", pruned.saved)
    opened = load_model(tmp_path / "same.pt").model
    with torch.inference_mode():
        assert torch.equal(opened(IMAGES), bench.baseline.saved.model.eval()(IMAGES))
    assert pruned.info["quality"]["cut"] == pruned.info["quality"]["baseline"]
    assert "recalibrated" not in pruned.info["quality"]
    assert set(pruned.info["cost"]["change"].values()) == {0.0}


def test_a_pruned_network_is_pruned_again(make_bench: MakeBench, tiny_baseline: Path, tmp_path: Path) -> None:
    options = {"recalibrate": False, "evaluate": False}
    once = prune_network(make_bench(tiny_baseline, **options), L1, Target(Goal("channels", 0.3), "local"), seed=0)
    save_model(tmp_path / "once.pt", once.saved)
    twice = prune_network(make_bench(tmp_path / "once.pt", **options), TAYLOR, Target(Goal("channels", 0.3)), seed=0)
    save_model(tmp_path / "twice.pt", twice.saved)
    opened = load_model(tmp_path / "twice.pt")
    with torch.inference_mode():
        assert torch.equal(opened.model(IMAGES), logits_of(twice))
    assert [step["method"] for step in opened.meta["pruning"]] == ["l1", "taylor"]
    dense, first = load_model(tiny_baseline).model, once.saved.channels
    for name, kept in opened.channels.items():
        assert len(kept) == len(twice.info["plan"]["kept"][name])
        assert set(kept) <= set(first[name])
    name = "downs.0.conv.0"
    assert torch.equal(opened.model.get_submodule(name).weight, dense.get_submodule(name).weight[opened.channels[name]])


# --- what cannot be done


def test_a_target_out_of_reach_leaves_the_scores(make_bench: MakeBench) -> None:
    bench = make_bench()
    with pytest.raises(BenchError, match=r"at least .* stay"):
        prune_network(bench, TAYLOR, Target(Goal("macs", 0.0001)), seed=0)
    assert "score" not in prune_network(bench, TAYLOR, HALF, seed=0).info["seconds"]


@pytest.mark.parametrize("method", ["l1", "taylor"])
def test_a_network_without_prunable_channels_is_an_error(make_bench: MakeBench, method: str) -> None:
    with pytest.raises(BenchError, match="no channel of unet_small may be removed") as caught:
        prune_network(make_bench(ignore=["*"]), make_pruner(method), HALF, seed=0)
    assert "\n" not in str(caught.value)


# --- the reference


def test_a_comparison(make_bench: MakeBench, shallow_baseline: Path, tmp_path: Path) -> None:
    bench = make_bench()
    pruned = prune_network(bench, L1, Target(Goal("channels", 0.5), "local"), seed=0)
    path = tmp_path / "pruned.pt"
    save_model(path, pruned.saved)
    report = bench.baseline.compare(path, pruned.saved)
    assert json.loads(json.dumps(report)) == report
    assert report["candidate"]["quality"] == pruned.info["quality"]["recalibrated"]
    assert report["candidate"]["cost"] == pruned.info["cost"]["after"]
    assert report["candidate"]["sha256"] == file_digest(path)
    assert report["candidate"]["bytes_on_disk"] == path.stat().st_size < report["baseline"]["bytes_on_disk"]
    assert report["baseline"]["path"] == str(shallow_baseline)
    assert (report["split"], report["input_size"], report["latency"]) == ("test", [48, 64], None)
    change, quality = report["change"], pruned.info["quality"]
    assert change["miou_points"] == pytest.approx(
        100 * (quality["recalibrated"]["miou"] - quality["baseline"]["miou"])
    )  # fmt: skip
    assert {key: change[key] for key in pruned.info["cost"]["change"]} == pruned.info["cost"]["change"]
    low, high = change["miou_points_interval"]
    assert low <= change["miou_points"] <= high
    assert report["scoring"] == pruned.info["scoring"] == plain(PLAIN)
    known = replace(pruned.evaluation, quality=replace(pruned.evaluation.quality, miou=0.5))
    assert bench.baseline.compare(path, pruned.saved, evaluation=known)["candidate"]["quality"]["miou"] == 0.5


def test_a_baseline_alone(make_bench: MakeBench) -> None:
    reference = make_bench().baseline
    report = reference.describe()
    assert json.loads(json.dumps(report)) == report
    assert (report["candidate"], report["change"], report["latency"]) == (None, None, None)
    assert report["baseline"]["quality"] == reference.quality
    assert reference.time().networks.keys() == {"baseline"}


def test_networks_are_scored_alike_as_the_options_say(make_bench: MakeBench, shallow_baseline: Path, tmp_path) -> None:
    scoring = {"sliding_window": (24, 32), "scales": [0.5, 1.0], "flip": True}
    ordinary, other = make_bench(), make_bench(scoring=scoring)
    quality = prune_network(other, L1, Target(Goal("channels", 0.5), "local"), seed=0).info["quality"]
    assert quality["baseline"] != ordinary.baseline.quality
    found = other.baseline.compare(shallow_baseline, load_model(shallow_baseline))
    assert found["scoring"] == {
        "sliding_window": [24, 32], "stride": None, "scales": [0.5, 1.0], "flip": True, "boundary_width": 0.0,
    }  # fmt: skip
    assert found["candidate"]["quality"] == found["baseline"]["quality"] == quality["baseline"]
    assert found["change"]["miou_points_interval"] == [0, 0]


def test_a_split_without_labels_is_an_error(tmp_path: Path, tiny_camvid: Path, shallow_baseline: Path) -> None:
    shutil.copytree(tiny_camvid, tmp_path / "camvid")
    for path in (tmp_path / "camvid" / "testannot").iterdir():
        Image.fromarray(np.full((48, 64), 11, np.uint8)).save(path)
    data = DataOptions("camvid", str(tmp_path / "camvid"), num_workers=0)
    timing = TimingOptions(latency=False)
    reference = Baseline(shallow_baseline, data, ScoringOptions(), timing, device=torch.device("cpu"))
    with pytest.raises(BenchError, match=r"no pixel of camvid's test split is labelled with a class.*`split`"):
        reference.describe()
    assert [name for name, _ in reference.predictions(reference.saved.model, "")] == reference.data.names("test")
