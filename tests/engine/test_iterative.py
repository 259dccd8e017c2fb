"""Pruning in several cuts: every cut counts from the baseline, is scored on what there is by then, and is recorded."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_networks as toys
from records import faults
from torch import nn
from toy_benchmarks import run_benchmark

from bench.channels.groups import find_groups, prunable
from bench.config.declare import identity_of
from bench.datasets.options import DataOptions
from bench.engine.cut_schedule import CutSchedule, check_schedule
from bench.engine.options import PruneOptions
from bench.engine.pruning import prune_network
from bench.engine.results import Pruned
from bench.engine.session import Session
from bench.errors import BenchError, UsageError
from bench.measure.baseline import Baseline
from bench.measure.cost import measure_cost
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models import MODELS, ModelEntry, ModelSpec, build_model
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration
from bench.recover.training_between_cuts import TrainingBetweenCuts
from bench.sweep.grid import grid
from bench.system.files import digest
from bench.training.options import DistillOptions, TrainOptions

OPTIONS = PruneOptions(calib_images=2, calib_batch_size=2, recalibration_images=2)
RECIPE = TrainOptions(batch_size=2, lr=0.01)
TRAINED, UNTRAINED = CutSchedule(2, "linear", 2, RECIPE), CutSchedule(2, "linear", 0, RECIPE)
RAW = {"recalibrate": False, "evaluate": False}
TAYLOR, L1 = make_pruner("taylor"), make_pruner("l1")
MakeBench = Callable[..., Session]


@pytest.fixture
def make_bench(tiny_camvid: Path, shallow_baseline: Path, tmp_path: Path) -> MakeBench:
    """A new session over the tiny data; scores go to a folder of the test's own."""

    def make(
        schedule: CutSchedule | None = TRAINED,
        *,
        checkpoint: Path = shallow_baseline,
        scores: str = "scores",
        **options: Any,
    ) -> Session:
        data = DataOptions(dataset="camvid", data_root=str(tiny_camvid), num_workers=0)
        timing = TimingOptions(latency=False)
        reference = Baseline(checkpoint, data, ScoringOptions(), timing, device=torch.device("cpu"))
        return Session(reference, replace(OPTIONS, **options), tmp_path / scores, schedule)

    return make


def tensors(pruned: Pruned) -> dict[str, torch.Tensor]:
    return pruned.saved.model.state_dict()


def without_times(info: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if key not in ("seconds", "provenance")}


def test_the_record_of_every_cut(make_bench: MakeBench) -> None:
    bench = make_bench(CutSchedule(3, "exponential", 2, RECIPE))
    pruned = prune_network(bench, TAYLOR, Target(Goal("macs", 0.343)), seed=1)
    info = pruned.info
    assert json.loads(json.dumps(info)) == info
    assert info["schedule"] == {**info["schedule"], "iterations": 3, "finetune_between": 2}
    assert info["schedule"]["recipe"]["lr"] == 0.01
    cuts = info["iterations"]
    assert [cut["goal"]["value"] for cut in cuts] == [pytest.approx(0.7), pytest.approx(0.49), 0.343]
    for cut in cuts:
        kept, of = cut["channels"]["kept"], cut["channels"]["of"]
        assert cut["predicted"]["macs"] / cut["before"]["macs"] == pytest.approx(cut["goal"]["value"], abs=0.02)
        assert cut["before"] == cuts[0]["before"]
        assert kept == sum(map(len, cut["kept"].values()))
        assert cut["channel_ratio"] == pytest.approx(1 - kept / of)
    for earlier, later in itertools.pairwise(cuts):
        assert all(set(later["kept"][name]) <= set(kept) for name, kept in earlier["kept"].items())
        assert later["channels"]["kept"] < earlier["channels"]["kept"]
    assert [cut["trained"] and cut["trained"]["steps"] for cut in cuts] == [2, 2, None]
    assert all(0 < cut["trained"]["loss"] < 10 for cut in cuts[:-1])
    assert len({cut["scores"] for cut in cuts}) == 3
    assert {"groups", "cost_table", "score", "plan", "cut", "train", "recalibrate"} == info["seconds"].keys()

    # What the last cut says is what there is.
    assert info["plan"]["kept"] == cuts[-1]["kept"] == pruned.saved.channels
    assert info["scores"] == cuts[-1]["scores"]
    cost = measure_cost(pruned.saved.model, (48, 64))
    assert info["plan"]["predicted"] == {
        "parameters": cost.parameters, "macs": cost.macs, "bytes": cost.state_bytes
    }  # fmt: skip
    assert list(info["quality"]) == ["split", "baseline", "cut", "recalibrated"]
    assert bench.baseline.evaluate(pruned.saved.model, "again").record() == info["quality"]["recalibrated"]
    assert pruned.saved.meta["pruning"][-1]["schedule"] == info["schedule"]
    assert not pruned.saved.model.training


def test_the_same_command_gives_the_same_bytes(make_bench: MakeBench, tmp_path: Path) -> None:
    target = Target(Goal("channels", 0.4))
    first = prune_network(make_bench(evaluate=False), TAYLOR, target, seed=1)
    # Once with all scores computed again, once with all found.
    others = [prune_network(make_bench(scores="others", evaluate=False), TAYLOR, target, seed=1) for _ in range(2)]
    assert "score" in others[0].info["seconds"] and "score" not in others[1].info["seconds"]
    for number, pruned in enumerate((first, *others)):
        assert without_times(pruned.info) == without_times(first.info)
        save_model(tmp_path / f"{number}.pt", pruned.saved)
    assert len({(tmp_path / f"{number}.pt").read_bytes() for number in range(3)}) == 1


def test_the_baseline_stays_as_it_was(make_bench: MakeBench) -> None:
    bench = make_bench(evaluate=False)
    model = bench.baseline.saved.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = prune_network(bench, L1, Target(Goal("channels", 0.4)), seed=0)
    again = prune_network(bench, L1, Target(Goal("channels", 0.4)), seed=0)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert without_times(first.info) == without_times(again.info)
    assert all(torch.equal(tensors(again)[name], tensor) for name, tensor in tensors(first).items())


def test_the_baseline_teaches_between_the_cuts(make_bench: MakeBench) -> None:
    target, trained = Target(Goal("channels", 0.4)), []
    for weight in (0.0, 2.0):
        bench = make_bench(replace(TRAINED, distill=DistillOptions(weight)), **RAW)
        model = bench.baseline.saved.model
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        trained.append(prune_network(bench, L1, target, seed=0))
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    losses = [pruned.info["iterations"][0]["trained"]["loss"] for pruned in trained]
    assert losses[1] > losses[0]
    assert not torch.equal(*(tensors(pruned)["final_conv.weight"] for pruned in trained))


def test_later_scores_are_those_of_what_the_earlier_cuts_left(
    make_bench: MakeBench, shallow_baseline: Path, tmp_path: Path
) -> None:
    """Without training, what a cut leaves of the dense network is known, and so is its score."""
    bench = make_bench(UNTRAINED, **RAW)
    pruned = prune_network(bench, L1, Target(Goal("channels", 0.5), "local"), seed=0)
    first, second = pruned.info["iterations"]
    dense = load_model(shallow_baseline).model
    groups = find_groups(dense)
    kept = {**{group.name: list(range(group.channels)) for group in prunable(groups)}, **first["kept"]}
    small = toys.cut_copy(dense, groups, toys.plan_keeping(groups, kept))
    expected = L1.score(small.eval(), prunable(find_groups(small)), Calibration([], 11, 0))
    found = torch.load(tmp_path / "scores" / second["scores"], weights_only=True)["scores"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    # The filters read fewer channels now, so this is not what ranking the dense network once gives.
    one_cut = prune_network(make_bench(None, **RAW), L1, Target(Goal("channels", 0.5), "local"), seed=0)
    assert one_cut.info["plan"]["kept"] != second["kept"]
    assert one_cut.info["plan"]["channels"] == second["channels"]


def test_channels_are_those_of_the_dense_network(make_bench: MakeBench, tiny_baseline: Path, tmp_path: Path) -> None:
    once = prune_network(
        make_bench(None, checkpoint=tiny_baseline, **RAW), L1, Target(Goal("channels", 0.3), "local"), seed=0
    )
    save_model(tmp_path / "once.pt", once.saved)
    pruned = prune_network(
        make_bench(UNTRAINED, checkpoint=tmp_path / "once.pt", **RAW), TAYLOR, Target(Goal("channels", 0.3)), 0
    )
    dense, name = load_model(tiny_baseline).model, "downs.0.conv.0"
    channels = pruned.saved.channels[name]
    assert channels == pruned.info["iterations"][-1]["kept"][name]
    assert torch.equal(pruned.saved.model.get_submodule(name).weight, dense.get_submodule(name).weight[channels])
    assert all(set(kept) <= set(once.saved.channels[group]) for group, kept in pruned.saved.channels.items())
    # The shares count from the network that was given: 0.3 of what the first pruning left.
    assert pruned.info["plan"]["channel_ratio"] == pytest.approx(0.3, abs=0.01)
    assert [step["method"] for step in pruned.saved.meta["pruning"]] == ["l1", "taylor"]


def test_training_between_cuts_reaches_the_result(make_bench: MakeBench) -> None:
    target = Target(Goal("channels", 0.4), "local")
    plain = prune_network(make_bench(UNTRAINED, **RAW), L1, target, seed=0)
    assert [cut["trained"] for cut in plain.info["iterations"]] == [None] * 2
    assert "train" not in plain.info["seconds"]
    assert plain.info["schedule"]["recipe"] is None
    trained = prune_network(make_bench(**RAW), L1, target, seed=0)
    assert not torch.equal(tensors(plain)["final_conv.bias"], tensors(trained)["final_conv.bias"])


def test_an_average_is_scored_by_gradients_and_constants_are_absorbed(make_bench: MakeBench) -> None:
    schedule = replace(TRAINED, recipe=replace(RECIPE, ema=0.9))
    pruned = prune_network(
        make_bench(schedule, absorb_bias=True, evaluate=False), TAYLOR, Target(Goal("macs", 0.5)), seed=0
    )
    absorbed = [cut["bias_absorption"] for cut in pruned.info["iterations"]]
    assert all(record["absorbed"] for record in absorbed)
    assert pruned.info["bias_absorption"] == absorbed[-1]


def test_limits_hold_for_all_cuts_together(make_bench: MakeBench) -> None:
    target = Target(Goal("channels", 0.5), "local", max_ratio=0.5, round_to=4)
    pruned = prune_network(make_bench(UNTRAINED, **RAW), L1, target, seed=0)
    widths = {group.name: group.channels for group in make_bench(None).groups}
    assert {name: len(kept) for name, kept in pruned.info["plan"]["kept"].items()} == {
        name: widths[name] // 2 for name in pruned.info["plan"]["kept"]
    }


def test_a_target_out_of_reach_is_found_before_the_training(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("trained for nothing")

    monkeypatch.setattr(TrainingBetweenCuts, "train", never)
    with pytest.raises(BenchError, match=r"cannot keep only 0\.1% of the macs"):
        prune_network(make_bench(), L1, Target(Goal("macs", 0.001)), seed=0)


@pytest.mark.parametrize(
    ("method", "settings", "goal", "says"),
    [
        ("magnitude", {}, Goal("sparsity", 0.5), "magnitude zeroes single weights and cuts nothing"),
        ("slimming", {}, Goal("macs", 0.5), "slimming trains the network before it scores it"),
        ("dmcp", {"fresh": True}, Goal("macs", 0.5), "dmcp draws all weights anew after the cut"),
        ("dmcp", {}, Goal("macs", 0.5), "dmcp learns the widths of one cut to the target"),
        ("l1", {}, Goal("latency", 0.5), "`iterations` needs a target that is predicted, not measured"),
        ("l1", {}, Goal("milliseconds", 5.0), "`iterations` needs a target that is predicted, not measured"),
    ],
)
def test_what_several_cuts_do_not_fit(
    make_bench: MakeBench, method: str, settings: dict[str, Any], goal: Goal, says: str
) -> None:
    pruner, bench = make_pruner(method, settings), make_bench(UNTRAINED)
    with pytest.raises(UsageError, match=says):
        prune_network(bench, pruner, bench.target(pruner, goal), seed=0)
    check_schedule(None, pruner, goal)


def test_a_search_for_a_threshold_is_that_of_the_last_cut(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench(UNTRAINED, **RAW)
    pruner = make_pruner("l1_global")
    pruned = prune_network(bench, pruner, bench.target(pruner, Goal("params", 0.5, within=0.01)), seed=0)
    first, last = pruned.info["iterations"]
    assert (first["goal"]["within"], last["goal"]["within"]) == (None, 0.01)
    assert pruned.info["cost"]["after"]["parameters"] / pruned.info["cost"]["before"]["parameters"] == pytest.approx(
        0.5, abs=0.01
    )
    assert pruned.info["plan"]["search"] == last["search"]
    scores = torch.load(tmp_path / "scores" / last["scores"], weights_only=True)["scores"]
    assert any((score == last["search"]["threshold"]).any() for score in scores.values())


def test_pools_hold_for_every_cut(make_bench: MakeBench) -> None:
    bench = make_bench(UNTRAINED, **RAW)
    target = replace(bench.target(L1, Goal("channels", 0.5)), scope="global")
    names = [group.name for group in prunable(bench.groups)]
    target = replace(target, pools={name: name for name in names})
    pruned = prune_network(bench, L1, target, seed=0)
    widths = {group.name: group.channels for group in bench.groups}
    for cut, share in zip(pruned.info["iterations"], (0.25, 0.5), strict=True):
        # A pool for each group: all lose the same share.
        assert all(
            abs(len(kept) / widths[name] - (1 - share)) <= 1 / widths[name] for name, kept in cut["kept"].items()
        )


class Depthwise(nn.Module):
    """A depthwise convolution of eight channels in the middle."""

    def __init__(self, outputs: int):
        super().__init__()
        self.first, self.middle = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.second, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, outputs, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.middle(self.first(images)).relu()).relu())


def test_a_depthwise_layer_left_with_one_channel_is_in_no_way(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is an ordinary convolution then, whose output is a group the baseline does not have."""
    monkeypatch.setitem(MODELS, "toy", ModelEntry("test_iterative:Depthwise", "for tests"))
    spec = ModelSpec("toy", 12)
    save_model(tmp_path / "toy.pt", SavedModel(build_model(spec), spec, meta={"input_size": [48, 64]}))
    bench = make_bench(replace(TRAINED, shape="exponential", iterations=3), checkpoint=tmp_path / "toy.pt", **RAW)
    pruned = prune_network(bench, L1, Target(Goal("channels", 0.875), "local", ratio_of={"first": 0.95}), seed=0)
    widths = [{name: len(kept) for name, kept in cut["kept"].items()} for cut in pruned.info["iterations"]]
    assert widths == [{"first": 3, "second": 4}, {"first": 1, "second": 2}, {"first": 1, "second": 1}]


def test_a_schedule_is_part_of_a_jobs_name(make_bench: MakeBench, tmp_path: Path) -> None:
    jobs = grid(["l1"], [Goal("channels", 0.3)], [0])
    schedules = [None, UNTRAINED, TRAINED, replace(TRAINED, shape="exponential"), replace(TRAINED, iterations=3)]
    schedules.append(replace(TRAINED, recipe=replace(RECIPE, lr=0.02)))
    schedules.append(replace(TRAINED, distill=DistillOptions(0.5)))
    assert len({digest(make_bench(schedule).identity) for schedule in schedules}) == 7
    plain = make_bench(None)
    assert plain.schedule is None
    assert plain.identity == {"pruning": identity_of(plain.options)}

    out = tmp_path / "out"
    for schedule in (None, UNTRAINED, UNTRAINED):
        rows = run_benchmark(make_bench(schedule, **RAW), {"l1": L1}, jobs, None, out)
        assert [row["status"] for row in rows] == ["done"]
    assert len(list(out.glob("l1_r0.3_s0_*"))) == 2


def test_the_commands(call: Callable[..., Any], tiny_camvid: Path, shallow_baseline: Path, tmp_path: Path) -> None:
    data = ["--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0, "--model", "unet_small"]
    data += ["--calib-images", 2, "--recalibration-images", 2, "--no-latency", "--batch-size", 2]
    data += ["--iterations", 2, "--finetune-between", 2, "--ratio-schedule", "exponential", "--finetune-lr", 0.02]
    data += ["--distill-weight", 0.5, "--distill-temperature", 2]
    files = ["--ckpt", shallow_baseline, "--save", tmp_path / "one"]
    outcome = call("prune.py", *data, *files, "--method", "l1", "--target-size", "1MB")
    assert outcome.code == 0, outcome.err
    assert "cut 1 of 2: " in outcome.out and "cut 2 of 2: " in outcome.out
    info = json.loads((tmp_path / "one" / "pruning_info.json").read_text())
    assert faults(info) == []
    assert [cut["goal"]["kind"] for cut in info["iterations"]] == ["size", "size"]
    assert info["iterations"][-1]["goal"]["value"] == 10**6 >= info["cost"]["after"]["state_bytes"]
    recipe = info["schedule"]["recipe"]
    assert (recipe["lr"], recipe["batch_size"], info["schedule"]["ratio_schedule"]) == (0.02, 2, "exponential")
    assert (recipe["distill_weight"], recipe["distill_temperature"]) == (0.5, 2.0)

    files = ["--baseline", shallow_baseline, "--out-dir", tmp_path / "many"]
    outcome = call("benchmark.py", *data, *files, "--methods", "l1", "--target-macs", "0.5", "--no-evaluate")
    assert outcome.code == 0, outcome.err
    (folder,) = (tmp_path / "many").glob("l1_macs0.5_s0_*")
    assert json.loads((folder / "pruning_info.json").read_text())["schedule"] == info["schedule"]

    flags = ["--ckpt", shallow_baseline, "--save", tmp_path / "no", "--method", "l1", "--sensitivity"]
    outcome = call("prune.py", *data, *flags)
    assert outcome.code == 2
    assert "--sensitivity cuts each network once; leave --iterations out" in outcome.err
