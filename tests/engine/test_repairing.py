"""Repair by least squares on every way to a pruned network, and what the record says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_networks as toys
from records import faults
from scripts import Outcome
from torch import nn
from toy_benchmarks import run_benchmark
from toy_latency import time_by_macs

import bench
from bench.config.declare import identity_of
from bench.datasets.options import DataOptions
from bench.engine.cut_schedule import CutSchedule
from bench.engine.options import PruneOptions
from bench.engine.pruning import prune_network
from bench.engine.repairing import repair_network
from bench.engine.session import Session
from bench.engine.weighing.refining import mean_loss
from bench.errors import UsageError
from bench.jobs.options import SensitivityOptions
from bench.jobs.pruning import prune_model
from bench.jobs.sensitivity import measure_sensitivity
from bench.measure.baseline import Baseline
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models.checkpoint import load_model
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.recover.options import RepairOptions
from bench.sweep.grid import grid
from bench.system.files import digest, plain, read_json
from bench.training.options import TrainOptions

OPTIONS = PruneOptions(calib_images=2, calib_batch_size=2, recalibration_images=4)
SOLVED = RepairOptions("least-squares", repair_images=4, repair_holdout=2)
L1, TAYLOR = make_pruner("l1"), make_pruner("taylor")
HALF = Target(Goal("channels", 0.5), "local")
MakeSession = Callable[..., Session]


@pytest.fixture
def make_session(tiny_camvid: Path, shallow_baseline: Path, tmp_path: Path) -> MakeSession:
    """A new session over the tiny data; scores go to a folder of the test's own."""

    def make(repair: RepairOptions | None = SOLVED, schedule: CutSchedule | None = None, **options: Any) -> Session:
        data = DataOptions(dataset="camvid", data_root=str(tiny_camvid), num_workers=0)
        timing = TimingOptions(latency=False)
        reference = Baseline(shallow_baseline, data, ScoringOptions(), timing, device=torch.device("cpu"))
        return Session(reference, replace(OPTIONS, **options), tmp_path / "scores", schedule, repair=repair)

    return make


def states(model: nn.Module) -> dict[str, torch.Tensor]:
    return model.state_dict()


def differing(one: nn.Module, other: nn.Module) -> list[str]:
    return [name for name, tensor in states(one).items() if not torch.equal(tensor, states(other)[name])]


# --- one cut


def test_three_networks_are_scored_and_the_repaired_one_is_kept(make_session: MakeSession, tmp_path: Path) -> None:
    session = make_session()
    info = prune_model(session, L1, Goal("channels", 0.5), 0, tmp_path / "job")
    assert faults(read_json(tmp_path / "job" / "pruning_info.json")) == []
    assert list(info["quality"]) == ["split", "baseline", "cut", "recalibrated", "repaired"]
    assert list(info["reconstruction"]) == ["cut", "recalibrated", "repaired"]
    # The first two are those of the same pruning without a repair.
    without = prune_network(make_session(None), L1, HALF, seed=0).info
    assert without["repair"] is None
    for stage in ("cut", "recalibrated"):
        assert info["quality"][stage] == without["quality"][stage]
        assert info["reconstruction"][stage] == without["reconstruction"][stage]
    assert info["plan"] == without["plan"]
    assert all(info["cost"]["after"][name] == without["cost"]["after"][name] for name in ("parameters", "macs"))
    assert info["reconstruction"]["repaired"]["mse"] < info["reconstruction"]["cut"]["mse"]
    # The file is the last of them.
    saved = load_model(tmp_path / "job" / "pruned_model.pt")
    assert session.baseline.evaluate(saved.model, "again").record() == info["quality"]["repaired"]
    report = read_json(tmp_path / "job" / "report.json")
    assert report["candidate"]["quality"] == info["quality"]["repaired"]


def test_the_record(make_session: MakeSession) -> None:
    info = prune_network(make_session(), L1, HALF, seed=0).info
    assert json.loads(json.dumps(info)) == info
    record = info["repair"]
    assert record["options"] == asdict(SOLVED)
    assert record["images"] == 4
    assert 0 < record["seconds"] <= info["seconds"]["repair"]
    assert list(record["layers"])[:: len(record["layers"]) - 1] == ["downs.0.conv.0", "final_conv"]
    assert record["layers"]["downs.0.conv.0"]["outcome"] == "unchanged"
    solved = [one for one in record["layers"].values() if one["outcome"] == "repaired"]
    assert solved and all(one["explained_repaired"] > one["explained_sliced"] and one["ridge"] for one in solved)
    assert record["left_alone"] == {}
    assert record["statistics"]["held_out"] == 2
    assert record["statistics"]["losses"].keys() >= {"none", "all"}


def test_what_decides_about_statistics_is_seen_by_nothing_else(make_session: MakeSession) -> None:
    session, drawn = make_session(), []

    def draw(images: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        drawn.append(images)
        return session.batches(images, 0)

    model, groups = session.baseline.saved.model, session.groups
    plan = toys.plan_keeping(groups, {"downs.0.conv.0": [0, 1, 2]})
    network = toys.cut_copy(model, groups, plan)
    settings = {"recalibration_images": 4, "batch_size": 2, "ignore_index": 11, "seed": 0}
    record = repair_network(model, network, groups, plan, SOLVED, draw, **settings)
    # Four to estimate statistics on, of which four are looked at, and two behind them.
    assert drawn == [6] and record["images"] == 4 and record["statistics"]["held_out"] == 2
    # Where there are not enough images, some are kept back from the repair.
    many = replace(SOLVED, repair_images=100, repair_holdout=100)
    record = repair_network(model, network, groups, plan, many, draw, **settings)
    assert record["images"] == 6 and record["statistics"]["held_out"] == 2


def test_without_recalibration_statistics_stay(make_session: MakeSession) -> None:
    info = prune_network(make_session(recalibrate=False), L1, HALF, seed=0).info
    assert list(info["quality"]) == ["split", "baseline", "cut", "repaired"]
    assert info["repair"]["statistics"] == {"rule": "none", "chosen": "none", "losses": {}, "held_out": 0}


def test_repeating_gives_the_same_bytes_and_another_seed_others(make_session: MakeSession) -> None:
    one, again, other = (prune_network(make_session(), L1, HALF, seed).saved.model for seed in (1, 1, 2))
    assert differing(one, again) == []
    assert differing(one, other)


def test_nothing_removed_is_nothing_repaired(make_session: MakeSession) -> None:
    session = make_session()
    pruned = prune_network(session, L1, Target(Goal("channels", 0.0), "local"), seed=0)
    assert pruned.info["repair"] is None
    assert differing(pruned.saved.model, session.baseline.saved.model) == []


def test_a_latency_is_searched_and_the_network_found_is_repaired(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(evaluate=False, reconstruction_images=0)
    time_by_macs(monkeypatch)
    pruned = prune_network(session, L1, Target(Goal("latency", 0.7), "local"), seed=0)
    assert pruned.info["latency_search"]["measured"]
    assert any(one["outcome"] == "repaired" for one in pruned.info["repair"]["layers"].values())


# --- several cuts


@pytest.mark.parametrize(("steps", "ema"), [(0, 0.0), (2, 0.5)])
def test_every_cut_is_repaired(make_session: MakeSession, steps: int, ema: float) -> None:
    schedule = CutSchedule(2, "linear", steps, TrainOptions(batch_size=2, lr=0.01, ema=ema))
    session = make_session(schedule=schedule)
    before = {name: tensor.clone() for name, tensor in states(session.baseline.saved.model).items()}
    pruned = prune_network(session, TAYLOR, Target(Goal("macs", 0.5)), seed=0)
    first, last = pruned.info["iterations"]
    assert any(one["outcome"] == "repaired" for one in first["repair"]["layers"].values())
    assert "repair" not in last
    assert any(one["outcome"] == "repaired" for one in pruned.info["repair"]["layers"].values())
    assert list(pruned.info["quality"]) == ["split", "baseline", "cut", "recalibrated", "repaired"]
    assert faults({**pruned.info, "saved_model": "x"}) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in states(session.baseline.saved.model).items())


# --- what belongs together, and what does not


def test_the_old_spelling_of_bias(make_session: MakeSession) -> None:
    old, new = make_session(None, absorb_bias=True), make_session(RepairOptions("bias"))
    assert plain(old.identity) == plain(new.identity)
    one, other = (prune_network(session, L1, HALF, seed=0) for session in (old, new))
    assert differing(one.saved.model, other.saved.model) == []
    assert one.info["bias_absorption"] == other.info["bias_absorption"] is not None
    assert one.info["repair"] is None and "repaired" not in one.info["quality"]
    with pytest.raises(UsageError, match="`absorb_bias` is the old spelling of `repair=bias`"):
        make_session(SOLVED, absorb_bias=True)


def test_folders_of_the_time_before_keep_their_names(make_session: MakeSession) -> None:
    """What names a folder is unchanged by the new options until one of them has a say."""
    plain_session = make_session(None)
    assert plain(plain_session.identity) == {"pruning": plain(identity_of(OPTIONS))}
    assert "objective" not in plain_session.identity["pruning"]
    assert digest(plain(make_session(RepairOptions(repair_images=99)).identity)) == digest(plain_session.identity)
    names = {digest(plain(make_session(replace(SOLVED, repair_positions=n)).identity)) for n in (5, 6)}
    assert len(names) == 2 and digest(plain_session.identity) not in names


def test_fresh_weights_cannot_be_repaired(make_session: MakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(L1), "starts_anew", True)
    with pytest.raises(UsageError, match="draws all weights anew after the cut; leave `repair` and `absorb_bias` out"):
        prune_network(make_session(), L1, HALF, seed=0)


def test_zeroed_weights_are_not_repaired(make_session: MakeSession) -> None:
    pruned = prune_network(make_session(), make_pruner("magnitude"), Target(Goal("sparsity", 0.5)), seed=0)
    assert pruned.info["repair"] is None
    assert list(pruned.info["quality"]) == ["split", "baseline", "cut", "recalibrated"]


def test_a_comparison_has_the_three_stages(make_session: MakeSession, tmp_path: Path) -> None:
    session = make_session()
    pruners = {name: make_pruner(name) for name in ("l1", "magnitude")}
    jobs = grid(list(pruners), [Goal("channels", 0.5)], [0])
    rows = run_benchmark(session, pruners, jobs, None, tmp_path / "out")
    assert [row["status"] for row in rows] == ["done", "done"], rows
    assert {"miou_cut", "miou_recalibrated", "miou_repaired", "logits_mse_repaired"} <= rows[0].keys()
    assert "miou_repaired" not in rows[1]
    assert faults(read_json(tmp_path / "out" / "benchmark_summary.json")) == []
    text = (tmp_path / "out" / "benchmark_summary.md").read_text(encoding="utf-8")
    assert "| mIoU cut | mIoU recal. | mIoU repaired |" in text
    assert "Repaired: by least squares" in text
    assert "miou_repaired" in (tmp_path / "out" / "benchmark_summary.csv").read_text(encoding="utf-8")


def test_sensitivity_is_that_of_repaired_networks(make_session: MakeSession, tmp_path: Path) -> None:
    choice = SensitivityOptions(sensitivity_ratios=[0.5], sensitivity_images=2)
    ignored = {"ignore": ["ups*", "bottleneck*", "downs.0.conv.3"]}
    found = {}
    for name, repair in (("repaired", SOLVED), ("recalibrated", None)):
        session = make_session(repair, **ignored)
        found[name] = measure_sensitivity(session, L1, choice, 0, tmp_path / name, split="train")
    assert found["repaired"]["identity"] != found["recalibrated"]["identity"]
    assert [row["group"] for row in found["repaired"]["rows"]] == ["downs.0.conv.0"]
    assert found["repaired"]["rows"] != found["recalibrated"]["rows"]


CUTS = CutSchedule(2, "linear", 0, TrainOptions(batch_size=2, lr=0.01))


@pytest.mark.parametrize("schedule", [None, CUTS], ids=["once", "in steps"])
def test_plans_are_tried_on_repaired_networks(make_session: MakeSession, schedule: CutSchedule | None) -> None:
    results = []
    for repair in (SOLVED, None):
        session = make_session(repair, schedule, objective="macs", refine=1, evaluate=False)
        results.append(prune_network(session, TAYLOR, session.target(TAYLOR, Goal("macs", 0.5)), seed=0))
    repaired, recalibrated = ([trial["loss"] for trial in done.info["objective"]["trials"]] for done in results)
    assert all(one != other for one, other in zip(repaired, recalibrated, strict=True))
    # The network that is left is the one that was judged.
    batches, void = session.batches(2, 0), session.baseline.data.classes.ignore_index
    best = min(trial["loss"] for trial in results[0].info["objective"]["trials"] if trial["is_best"])
    assert mean_loss(results[0].saved.model, batches, void, torch.device("cpu")) == pytest.approx(best, rel=1e-4)


def test_curves_are_those_of_repaired_networks(make_session: MakeSession, tmp_path: Path) -> None:
    ignored = {"ignore": ["ups*", "bottleneck*", "downs.0.conv.3"], "evaluate": False}
    target = Target(Goal("channels", 0.3), "global")
    rows = []
    for repair in (SOLVED, None):
        session = make_session(repair, objective="params", sensitivity_curves="measure", **ignored)
        info = prune_network(session, L1, target, seed=0).info
        rows.append(read_json(Path(info["objective"]["curves"]))["rows"])
    assert len(list((tmp_path / "scores").glob("sensitivity_l1_*.json"))) == 2
    assert rows[0] != rows[1]
    # Whoever prunes without recalibration looks at images all the same.
    session = make_session(SOLVED, recalibrate=False, reconstruction_images=0)
    assert "train" in session.files_for(L1).record()


# --- any network, and the command line


def test_plans_for_any_network_are_tried_on_repaired_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    network, done = toys.settled(toys.Residual()), []

    def noted(*values: Any, **named: Any) -> Any:
        done.append(values[1])
        return repair_network(*values, **named)

    monkeypatch.setattr("bench.engine.any_network.repair_network", noted)
    batches = [(torch.rand(2, 3, 24, 32), torch.randint(0, 4, (2, 24, 32))) for _ in range(4)]
    how = {"method": "taylor", "objective": "macs", "refine": 2, "repair": "least-squares"}
    pruned = bench.prune(network, batches, target={"macs": 0.7}, **how)
    assert len(done) == 3 + 1 and done[-1] is pruned.model


def test_any_network_in_one_call() -> None:
    network = toys.settled(toys.Residual())
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(8, 3, 6, 8, generator=generator)
    images = nn.functional.interpolate(coarse, size=(24, 32), mode="bilinear")
    batches = [(part, torch.randint(0, 4, (2, 24, 32), generator=generator)) for part in images.split(2)]
    before = {name: tensor.clone() for name, tensor in states(network).items()}
    sliced, mended, again = (
        bench.prune(network, batches, target={"channels": 0.3}, repair=repair, recalibrate=False)
        for repair in ("none", "least-squares", RepairOptions("least-squares"))
    )
    with torch.no_grad():
        wanted = network(images)
        off, sliced_off = ((one.model(images) - wanted).square().mean() for one in (mended, sliced))
    assert off < 0.5 * sliced_off
    assert mended.after == sliced.after and mended.plan == sliced.plan
    assert differing(mended.model, again.model) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in states(network).items())
    old, new = (
        bench.prune(network, batches, target={"channels": 0.3}, recalibrate=False, **how)
        for how in ({"absorb_bias": True}, {"repair": "bias"})
    )
    assert differing(old.model, new.model) == [] and differing(old.model, sliced.model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"repair": "least-square"}, "unknown repair 'least-square'; did you mean least-squares"),
        ({"repair": "least-squares", "absorb_bias": True}, "leave it out with `repair=least-squares`"),
        ({"repair": "bias", "method": "magnitude"}, "magnitude removes no channels; leave `repair` out"),
        ({"repair": "least-squares", "data": None, "input_size": (16, 24), "recalibrate": False}, "looks at images"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Any], message: str) -> None:
    batches = [(toys.IMAGES, torch.zeros(2, 16, 24, dtype=torch.long))]
    arguments = {"data": batches, "target": {"channels": 0.3}, **settings}
    if arguments.get("method") == "magnitude":
        arguments["target"] = {"sparsity": 0.3}
    with pytest.raises(UsageError, match=message):
        bench.prune(toys.settled(toys.Chain()), **arguments)


def test_the_command_line(
    call: Callable[..., Outcome], tiny_camvid: Path, shallow_baseline: Path, tmp_path: Path
) -> None:
    flags = ["--ckpt", shallow_baseline, "--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0,
             "--calib-batch-size", 2, "--recalibration-images", 2, "--no-latency", "--save", tmp_path / "out",
             "--global-ratio", 0.5, "--repair", "least-squares"]  # fmt: skip
    settings = ["--repair-images", 2, "--repair-lambda", 0.01, "--repair-statistics", "none", "--no-repair-trunk"]
    done = call("prune.py", *flags, "--method", "l1", *settings)
    assert (done.code, done.err) == (0, "")
    assert ", repaired " in done.out
    options = read_json(tmp_path / "out" / "pruning_info.json")["repair"]["options"]
    assert options["repair_lambda"] == 0.01 and options["repair_trunk"] is False
    refused = call("prune.py", *flags, "--method", "magnitude")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "magnitude removes no channels; leave --repair out" in refused.err
    both = call(
        "prune.py", *flags, "--method", "l1", "--global-ratio", 0.5, "--repair", "least-squares", "--absorb-bias"
    )
    assert (both.code, both.err.count("\n")) == (2, 1)
    assert "--absorb-bias is the old spelling of --repair bias" in both.err
