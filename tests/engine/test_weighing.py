"""Objectives in a session: which methods compare, where curves and tables come from, what is recorded and kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import toy_latency
from records import faults
from torch import nn
from toy_benchmarks import run_benchmark

from bench.channels.groups import prunable
from bench.config.declare import identity_of
from bench.datasets.options import DataOptions
from bench.engine.cut_schedule import CutSchedule
from bench.engine.one_cut import smaller
from bench.engine.options import IterativeOptions, PruneOptions
from bench.engine.pruning import prune_network
from bench.engine.session import Session
from bench.engine.weighing import latency_table, refining
from bench.engine.weighing.checks import check_objective
from bench.engine.weighing.objective import curves_of, read_curves
from bench.engine.weighing.refining import mean_loss
from bench.errors import BenchError, UsageError, as_flags
from bench.jobs.options import SensitivityOptions
from bench.jobs.sensitivity import measure_sensitivity
from bench.measure.baseline import Baseline
from bench.measure.cost import measure_cost
from bench.measure.options import ScoringOptions, TimingOptions
from bench.measure.width_latencies import LayerTimes
from bench.plan.sensitivity_curves import channel_losses
from bench.plan.target import Goal
from bench.pruners import make_pruner, methods
from bench.pruners.base import Pruner
from bench.sweep.grid import grid
from bench.system.files import digest
from bench.training.options import TrainOptions

OPTIONS = PruneOptions(
    calib_images=2, calib_batch_size=2, recalibration_images=2, reconstruction_images=0, evaluate=False
)
HALF = Goal("macs", 0.5)
TAYLOR, L1 = make_pruner("taylor"), make_pruner("l1")
CUTS = CutSchedule(2, "linear", 0, TrainOptions(batch_size=2, lr=0.01))
MakeBench = Callable[..., Session]


@pytest.fixture
def make_bench(tiny_camvid: Path, shallow_baseline: Path, tmp_path: Path) -> MakeBench:
    """A new session over the tiny data, its baseline in a folder that can be written."""
    checkpoint = tmp_path / "baseline" / "best.pt"
    checkpoint.parent.mkdir()
    shutil.copyfile(shallow_baseline, checkpoint)

    def make(schedule: CutSchedule | None = None, **options: Any) -> Session:
        data = DataOptions(dataset="camvid", data_root=str(tiny_camvid), num_workers=0)
        timing = TimingOptions(latency=False)
        reference = Baseline(checkpoint, data, ScoringOptions(), timing, device=torch.device("cpu"))
        return Session(reference, replace(OPTIONS, **options), tmp_path / "scores", schedule)

    return make


def pruned(session: Session, method: Pruner, goal: Goal = HALF, seed: int = 0) -> dict[str, Any]:
    info = prune_network(session, method, session.target(method, goal), seed).info
    assert faults({**info, "saved_model": "x"}) == []
    return json.loads(json.dumps(info))


# --- which methods compare

COMPARABLE = {"taylor", "slimming", "fgp", "sirfp", "obs"}
RANKS = {"l1", "l2", "fpgm", "random", "apoz", "papm", "l1_global", "dmcp"}


@pytest.mark.parametrize("name", sorted(COMPARABLE | RANKS))
def test_a_method_says_whether_its_scores_compare(name: str) -> None:
    pruner = make_pruner(name)
    assert pruner.comparable == (name in COMPARABLE)
    options = PruneOptions(objective="macs")
    if name in COMPARABLE:
        check_objective(options, pruner, HALF)
        return
    with pytest.raises(UsageError) as caught:
        check_objective(options, pruner, HALF)
    assert as_flags(str(caught.value)) == (
        f"the scores of {name} only rank the channels of a layer, and --objective macs compares layers: pass "
        "--sensitivity-curves measure, or the sensitivity.json that prune.py --sensitivity wrote"
    )
    check_objective(replace(options, sensitivity_curves="measure"), pruner, HALF)


def test_every_method_is_decided() -> None:
    pruners = {name for name in methods() if isinstance(make_pruner(name), Pruner)}
    assert pruners >= COMPARABLE | RANKS
    check_objective(PruneOptions(objective="macs"), make_pruner("magnitude"), Goal("sparsity", 0.5))
    # Shares of a layer's own support say nothing between layers.
    assert not make_pruner("fgp", {"selection": "ratio"}).comparable


@pytest.mark.parametrize(
    ("options", "goal", "message"),
    [
        ({"refine": 3}, HALF, "`refine` varies how an objective weighs groups; pass `objective=macs`"),
        ({"objective": "macs", "scope": "local"}, HALF, "`scope=local` takes the same share of every group, so that"),
        ({"objective": "speed"}, HALF, "unknown objective 'speed'"),
        ({"objective": "macs"}, Goal("params", 0.5, 0.005), "`auto_search` finds one score up to which channels go"),
        ({"objective": "macs", "refine": 1}, Goal("latency", 0.5), "`refine` needs a target that is predicted"),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], goal: Goal, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_objective(PruneOptions(**options), TAYLOR, goal)
    assert str(caught.value).startswith(message)


def test_a_missing_file_of_curves_is_named() -> None:
    options = PruneOptions(objective="macs", sensitivity_curves="nowhere.json")
    with pytest.raises(UsageError, match=r"^`sensitivity_curves`: there is no file nowhere\.json; prune\.py"):
        check_objective(options, L1, HALF)


# --- names of results


def test_options_at_their_default_are_in_no_name(make_bench: MakeBench) -> None:
    """A job of the version before is found again."""
    fields = {"objective", "sensitivity_curves", "refine", "check"}
    named = identity_of(PruneOptions())
    assert fields.isdisjoint(named)
    assert named == {name: value for name, value in asdict(PruneOptions()).items() if name not in fields}
    assert identity_of(IterativeOptions()) == asdict(IterativeOptions())
    identities = [make_bench(**options).identity for options in ({}, {"objective": "macs"}, {"objective": "params"})]
    identities.append(make_bench(objective="macs", refine=2).identity)
    assert len({digest(identity) for identity in identities}) == 4


def test_a_file_of_curves_is_named_by_its_content(make_bench: MakeBench, tmp_path: Path) -> None:
    path, other = tmp_path / "a.json", tmp_path / "b.json"
    path.write_text("{}")
    other.write_text("{}")
    first, second = (make_bench(sensitivity_curves=str(one)).identity for one in (path, other))
    assert first == second
    other.write_text("[]")
    assert make_bench(sensitivity_curves=str(other)).identity != first


# --- plans


@pytest.mark.parametrize("name", ["macs", "params"])
@pytest.mark.parametrize("schedule", [None, CUTS], ids=["once", "in steps"])
def test_an_objective_is_planned_by_and_recorded(make_bench: MakeBench, name: str, schedule: CutSchedule) -> None:
    plain, weighed = (pruned(make_bench(schedule, objective=one), TAYLOR) for one in ("channels", name))
    assert "objective" not in plain
    assert weighed["objective"] == {
        "saves": name, "importance": "scores", "curves": None, "latency_table": None, "trials": []
    }  # fmt: skip
    assert weighed["options"]["objective"] == name and weighed["plan"]["search"]["threshold"] is None
    shares = {}
    for key, info in (("plain", plain), ("weighed", weighed)):
        predicted, before = info["plan"]["predicted"], info["plan"]["before"]
        assert predicted["macs"] == info["cost"]["after"]["macs"]
        assert predicted["parameters"] == info["cost"]["after"]["parameters"]
        shares[key] = predicted["parameters"] / before["parameters"]
        assert predicted["macs"] / before["macs"] == pytest.approx(0.5, abs=0.04)
    assert shares["plain"] != shares["weighed"]
    if schedule:
        assert [cut["objective"] for cut in weighed["iterations"]] == [weighed["objective"]] * 2


def test_pools_stay_where_scores_compare_only_in_them(make_bench: MakeBench) -> None:
    session = make_bench(objective="macs")
    assert session.target(make_pruner("sirfp"), HALF).pools == make_bench().target(make_pruner("sirfp"), HALF).pools
    assert session.target(TAYLOR, HALF).scope == "global"
    assert make_bench(objective="macs", sensitivity_curves="measure").target(L1, HALF).scope == "global"
    assert make_bench().target(L1, HALF).scope == "local"


# --- curves


def test_curves_are_measured_once(make_bench: MakeBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"objective": "macs", "sensitivity_curves": "measure"}
    info = pruned(make_bench(**options), L1)
    (path,) = (tmp_path / "scores").glob("sensitivity_l1_*.json")
    assert info["objective"]["importance"] == "sensitivity curves" and info["objective"]["curves"] == str(path)
    rows = json.loads(path.read_text())["rows"]
    groups = {group.name: group.channels for group in prunable(make_bench().groups)}
    assert {row["group"] for row in rows} == groups.keys() and len(rows) == 5 * len(groups)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("bench.engine.weighing.sensitivity.evaluate", never)
    again = pruned(make_bench(**options), L1)
    assert again["plan"] == info["plan"]
    # What they are used for has no influence on them.
    pruned(make_bench(objective="params", sensitivity_curves="measure"), L1)
    with pytest.raises(AssertionError, match="measured again"):
        pruned(make_bench(**options), L1, seed=1)


def test_curves_come_from_the_file_that_sensitivity_wrote(make_bench: MakeBench, tmp_path: Path) -> None:
    tried = SensitivityOptions(sensitivity_ratios=[0.25, 0.75], sensitivity_images=2)
    record = measure_sensitivity(make_bench(), L1, tried, 0, tmp_path / "sensitivity")
    path = str(tmp_path / "sensitivity" / "sensitivity.json")
    session = make_bench(objective="macs", sensitivity_curves=path)
    info = pruned(session, L1)
    assert info["objective"]["curves"] == path
    curves = curves_of(record["rows"])
    name, group = next((group.name, group) for group in prunable(session.groups))
    points = [
        (row["channels"] - row["channels_kept"], row["miou_drop_points"])
        for row in record["rows"]
        if row["group"] == name
    ]
    assert curves[name].tolist() == channel_losses(points, group.channels).tolist()
    # Channels of each group go by the method's ranks.
    scores, _ = session.scores(L1, 0)
    for group_name, kept in info["plan"]["kept"].items():
        worst = scores[group_name].argsort()[: len(scores[group_name]) - len(kept)].tolist()
        assert set(kept).isdisjoint(worst)
    in_steps = pruned(make_bench(CUTS, objective="macs", sensitivity_curves=path), L1)
    assert in_steps["cost"]["after"]["macs"] / in_steps["cost"]["before"]["macs"] == pytest.approx(0.5, abs=0.04)

    with pytest.raises(BenchError, match=r"sensitivity\.json has the curves of l1; measure those of l2$"):
        pruned(session, make_pruner("l2"))
    with pytest.raises(BenchError, match="has the curves of another network"):
        read_curves(path, "l1", "0" * 64)
    other = tmp_path / "other.json"
    other.write_text('{"format": "pruning-info/1"}')
    with pytest.raises(BenchError, match=r"other\.json holds no sensitivity curves; prune\.py --sensitivity writes"):
        read_curves(other, "l1")


# --- latency


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every layer takes as long as its widths' product says; notes each measurement."""
    measured: list[str] = []

    def measure(model: nn.Module, _norms: object, _size: object, **_: object) -> dict[str, LayerTimes]:
        measured.append("measured")
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
        return {name: _times(layer.in_channels, layer.out_channels) for name, layer in layers.items()}

    monkeypatch.setattr(latency_table, "measure_widths", measure)
    return measured


def _times(read: int, made: int) -> LayerTimes:
    inputs, outputs = (sorted({min(8, width), width}) for width in (read, made))
    return LayerTimes(inputs, outputs, [[0.001 * i * o for o in outputs] for i in inputs])


def test_a_latency_table_lies_beside_the_baseline_and_is_used_again(
    make_bench: MakeBench, tmp_path: Path, clock: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    info = pruned(make_bench(objective="latency"), TAYLOR)
    (path,) = (tmp_path / "baseline").glob("latency_table_*.json")
    assert info["objective"]["saves"] == "latency" and info["objective"]["latency_table"] == str(path)
    assert info["cost"]["after"]["macs"] / info["cost"]["before"]["macs"] == pytest.approx(0.5, abs=0.04)
    record = json.loads(path.read_text())
    assert record["format"] == "latency-table/1"
    assert record["identity"]["input_size"] == [48, 64] and record["identity"]["threads"] == torch.get_num_threads()
    # Which memory format is faster may come out otherwise another time.
    other = record["identity"]["mode"]["channels_last"] is False
    choice = SimpleNamespace(channels_last=other)
    with monkeypatch.context() as patched:
        patched.setattr("bench.measure.baseline.faster_format", lambda *_, **__: choice)
        assert pruned(make_bench(objective="latency"), TAYLOR)["plan"] == info["plan"]
    assert clock == ["measured"]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        pruned(make_bench(objective="latency"), TAYLOR)
    finally:
        torch.set_num_threads(threads)
    assert clock == ["measured"] * 2 and len(list(path.parent.glob("latency_table_*.json"))) == 2


def test_a_baseline_that_cannot_be_written_beside(
    make_bench: MakeBench, tmp_path: Path, clock: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    path = pruned(make_bench(objective="latency"), TAYLOR)["objective"]["latency_table"]
    assert Path(path).parent == tmp_path / "scores" and clock == ["measured"]


def test_a_latency_target_is_searched_in_an_objectives_order(
    make_bench: MakeBench, clock: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_latency.time_by_macs(monkeypatch)
    info = pruned(make_bench(objective="latency"), TAYLOR, Goal("latency", 0.6))
    assert not info["latency_search"]["missed"] and info["objective"]["saves"] == "latency"
    plain = pruned(make_bench(), TAYLOR, Goal("latency", 0.6))
    assert plain["plan"]["kept"] != info["plan"]["kept"]


# --- refine


def test_every_trial_is_in_the_record_and_the_best_is_what_is_left(make_bench: MakeBench) -> None:
    session = make_bench(objective="macs", refine=5)
    result = prune_network(session, TAYLOR, session.target(TAYLOR, HALF), 0)
    trials = result.info["objective"]["trials"]
    assert [trial["trial"] for trial in trials] == list(range(6))
    assert trials[0]["multipliers"] == {}
    best = [trial for trial in trials if trial["is_best"]][-1]
    assert best["loss"] == min(trial["loss"] for trial in trials if trial["is_allowed"])
    predicted = result.info["plan"]["predicted"]
    assert (predicted["macs"], predicted["parameters"]) == (best["macs"], best["parameters"])
    cost = measure_cost(result.saved.model, (48, 64))
    assert (cost.macs, cost.parameters) == (best["macs"], best["parameters"])
    dense = result.info["plan"]["before"]["macs"]
    assert all(trial["macs"] <= max(trials[0]["macs"], 0.505 * dense) for trial in trials if trial["is_allowed"])
    # The loss is that of the network as it is left, on the calibration images.
    batches = session.batches(2, 0)
    void = session.baseline.data.classes.ignore_index
    assert mean_loss(result.saved.model, batches, void, torch.device("cpu")) == pytest.approx(best["loss"], rel=1e-5)


def test_networks_are_made_as_they_will_be(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else is done with a cut network is done with each that is tried."""
    made: list[nn.Module] = []

    def noted(*values: Any) -> Any:
        result = smaller(*values)
        made.append(result[0])
        return result

    monkeypatch.setattr("bench.engine.one_cut.smaller", noted)
    pruned(make_bench(objective="params", refine=3, absorb_bias=True, recalibrate=False), TAYLOR)
    assert len(made) == 4 + 1


@pytest.mark.parametrize("schedule", [None, CUTS], ids=["once", "in steps"])
def test_a_search_that_was_interrupted_goes_on(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, schedule: CutSchedule
) -> None:
    options = {"objective": "macs", "refine": 4}
    wanted = pruned(make_bench(schedule, **options), TAYLOR)
    shutil.rmtree(tmp_path / "scores")
    real, calls = mean_loss, []

    def failing(*values: Any) -> float:
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*values)

    monkeypatch.setattr(refining, "mean_loss", failing)
    with pytest.raises(KeyboardInterrupt):
        pruned(make_bench(schedule, **options), TAYLOR)
    again = pruned(make_bench(schedule, **options), TAYLOR)
    assert again["objective"] == wanted["objective"] and again["plan"] == wanted["plan"]
    cuts = 2 if schedule else 1
    assert len(calls) == 5 * cuts + 1
    # All of it is known now, and a shorter search is a part of it.
    assert pruned(make_bench(schedule, **options), TAYLOR)["plan"] == wanted["plan"]
    if not schedule:
        shorter = pruned(make_bench(objective="macs", refine=2), TAYLOR)
        assert shorter["objective"]["trials"] == wanted["objective"]["trials"][:3]
        pruned(make_bench(**options), TAYLOR)
    assert len(calls) == 5 * cuts + 1


def test_the_loss_is_a_mean_over_the_pixels_that_count() -> None:
    class Constant(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            # At half the size: class 0 has probability 3 / 4.
            logits = torch.tensor([np.log(3.0), 0.0], dtype=torch.float32)
            return logits[None, :, None, None].expand(len(images), 2, 2, 2)

    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    labels[0, 0] = 1
    labels[1] = 9
    images = torch.zeros(1, 3, 4, 4)
    batches = [(images, labels[:1]), (images, labels[1:])]
    wanted = -(12 * np.log(0.75) + 4 * np.log(0.25)) / 16
    assert mean_loss(Constant(), batches, 9, torch.device("cpu")) == pytest.approx(wanted, rel=1e-5)


# --- comparisons


def test_a_comparison_by_an_objective(make_bench: MakeBench, tmp_path: Path, clock: list[str]) -> None:
    jobs = grid(["l1", "taylor"], [HALF], [0])
    pruners = {"l1": L1, "taylor": TAYLOR}
    names = set()
    for name in ("channels", "macs", "latency"):
        session = make_bench(objective=name, sensitivity_curves="measure", evaluate=True)
        rows = run_benchmark(session, pruners, jobs, None, tmp_path / "out")
        assert [row["status"] for row in rows] == ["done"] * 2
        assert all(abs(row["macs_kept"] - 0.5) < 0.04 for row in rows)
        names |= {row["folder"] for row in rows}
    assert len(names) == 6
