"""Training before the scoring: done once, kept, used again, and the baseline stays what is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from records import faults
from torch import Tensor
from toy_benchmarks import run_benchmark

from bench import train_eval
from bench.datasets.options import DataOptions
from bench.engine.options import PruneOptions
from bench.engine.pruning import prune_network
from bench.engine.session import Session
from bench.errors import BenchError
from bench.jobs.options import SensitivityOptions
from bench.jobs.sensitivity import measure_sensitivity
from bench.measure.baseline import Baseline
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models.checkpoint import load_model
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Pruner
from bench.pruners.slimming import pruner as slimming_pruner
from bench.sweep.grid import grid
from bench.system.files import file_digest, read_json
from bench.training.options import TrainOptions
from bench.training.state import TrainingState

OPTIONS = PruneOptions(calib_images=4, calib_batch_size=2, recalibration_images=4)
SPARSE = {"sparse_epochs": 2, "sparse_batch_size": 4, "sparsity_lambda": 0.05, "sparse_lr": 0.05}
HALF = Target(Goal("channels", 0.5))
MakeBench = Callable[..., Session]


@pytest.fixture
def make_bench(tiny_camvid: Path, shallow_baseline: Path, tmp_path: Path) -> MakeBench:
    """A new session over the tiny data; what is kept goes to the test's own folder."""

    def make(folder: str = "kept", **options: Any) -> Session:
        data = DataOptions(dataset="camvid", data_root=str(tiny_camvid), num_workers=0)
        timing = TimingOptions(latency=False)
        reference = Baseline(shallow_baseline, data, ScoringOptions(), timing, device=torch.device("cpu"))
        return Session(reference, replace(OPTIONS, **options), tmp_path / folder)

    return make


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every `fit` that slimming calls."""
    calls: list[dict[str, Any]] = []

    def counted(*arguments: Any, **named: Any) -> train_eval.FitResult:
        calls.append({"recipe": arguments[2], "seed": arguments[3], **named})
        return train_eval.fit(*arguments, **named)

    monkeypatch.setattr(slimming_pruner, "fit", counted)
    return calls


def slimming(**changes: Any) -> Pruner:
    return make_pruner("slimming", {**SPARSE, **changes})


def weights(bench: Session) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in bench.baseline.saved.model.state_dict().items()}


def test_the_network_is_trained_once_for_all_targets_and_commands(
    make_bench: MakeBench, trainings: list[dict[str, Any]], tmp_path: Path
) -> None:
    bench = make_bench()
    before = weights(bench)
    first = prune_network(bench, slimming(), HALF, seed=0)
    assert "prepare" in first.info["seconds"]
    second = prune_network(bench, slimming(), Target(Goal("macs", 0.5)), seed=0)
    third = prune_network(make_bench(), slimming(), HALF, seed=0)
    assert not {"prepare", "score"} & (second.info["seconds"].keys() | third.info["seconds"].keys())
    assert len(trainings) == 1
    assert trainings[0]["recipe"] == TrainOptions(
        epochs=2, batch_size=4, lr=0.05, sparsity_lambda=0.05, eval_every=2
    )  # fmt: skip
    assert third.info["plan"] == first.info["plan"]
    assert third.info["quality"] == first.info["quality"]
    # The baseline is untouched, and what is compared with.
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(bench).items())
    assert first.info["baseline"]["sha256"] == bench.baseline.digest
    assert first.info["quality"]["baseline"] == bench.baseline.quality
    (folder,) = (tmp_path / "kept").glob("prepared_slimming_*")
    assert {path.name for path in folder.iterdir()} == {"network.pt", "metrics.csv", "done"}


def test_what_is_scored_and_cut_is_the_trained_network(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench(recalibrate=False)
    pruned = prune_network(bench, slimming(), HALF, seed=0)
    (folder,) = (tmp_path / "kept").glob("prepared_slimming_*")
    sparse = load_model(folder / "network.pt")
    layers = dict(sparse.model.named_modules())
    scores, _ = bench.scores(slimming(), 0)
    for group in bench.groups:
        for norm in group.norms if group.name in scores else ():
            torch.testing.assert_close(scores[group.name], layers[norm.layer].weight.detach().abs())
    name = "downs.0.conv.0"
    kept = pruned.saved.channels[name]
    assert torch.equal(pruned.saved.model.get_submodule(name).weight, layers[name].weight[kept])

    record = pruned.info["preparation"]
    assert record["network"] == f"{folder.name}/network.pt"
    assert record["sha256"] == file_digest(folder / "network.pt")
    assert (record["method"], record["epochs"], record["steps"], record["images"]) == ("slimming", 2, 4, 16)
    assert record["recipe"]["sparsity_lambda"] == 0.05
    assert 0.05 < record["largest_scale_shift"] < 0.05 * 4 * 0.05 / 0.1
    quality = pruned.info["quality"]
    assert list(quality) == ["split", "baseline", "prepared", "cut"]
    assert quality["prepared"] == bench.baseline.evaluate(sparse.model, "again").record() != quality["baseline"]


def test_without_epochs_the_network_is_scored_as_it_is(make_bench: MakeBench, trainings: list) -> None:
    bench = make_bench()
    pruned = prune_network(bench, slimming(sparse_epochs=0), HALF, seed=0)
    assert trainings == []
    assert pruned.info["preparation"] is None
    assert "prepared" not in pruned.info["quality"]
    scores, _ = bench.scores(slimming(sparse_epochs=0), 0)
    norm = bench.baseline.saved.model.get_submodule("downs.0.conv.1")
    assert torch.equal(scores["downs.0.conv.0"], norm.weight.detach().abs())


def test_the_penalty_shrinks_scales(make_bench: MakeBench) -> None:
    bench = make_bench()
    means = [
        torch.cat(list(bench.scores(slimming(**penalty), 0)[0].values())).mean().item()
        for penalty in ({"sparsity_lambda": 0.0, "scale_shift": 0.0}, {"sparsity_lambda": 0.1})
    ]
    assert means[1] < means[0] - 0.01


def test_the_weight_of_the_penalty_follows_from_the_shift(make_bench: MakeBench) -> None:
    bench = make_bench()
    records = [
        bench.network_of(slimming(sparsity_lambda=0.0, scale_shift=0.2, sparse_epochs=epochs), 0).record
        for epochs in (1, 2)
    ]
    assert [record["largest_scale_shift"] for record in records] == pytest.approx([0.2, 0.2])
    # Twice as many steps by the same rates: half of the weight.
    weights = [record["recipe"]["sparsity_lambda"] for record in records]
    assert weights[0] == pytest.approx(2 * weights[1], rel=0.2)


def test_trainings_of_other_settings_are_not_mixed_up(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench()
    quick = {"sparse_epochs": 1}
    for pruner, seed in (
        (slimming(**quick), 0),
        (slimming(**quick), 1),
        (slimming(**quick, sparsity_lambda=0.1), 0),
        (slimming(**quick, sparse_lr=0.1), 0),
    ):
        bench.network_of(pruner, seed)
    # Calibration images are none of its business.
    make_bench(calib_images=2).network_of(slimming(**quick), 0)
    assert len(list((tmp_path / "kept").glob("prepared_*"))) == 4


def test_the_same_seed_trains_the_same_network(make_bench: MakeBench) -> None:
    networks = [make_bench(folder).network_of(slimming(), 3).model.state_dict() for folder in ("one", "two")]
    other = make_bench("one").network_of(slimming(), 4).model.state_dict()
    assert all(torch.equal(tensor, networks[1][name]) for name, tensor in networks[0].items())
    assert not torch.equal(networks[0]["final_conv.weight"], other["final_conv.weight"])


def test_an_interrupted_training_goes_on(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_bench("whole").network_of(slimming(), 0).model.state_dict()
    save, epochs = TrainingState.save_last, []

    def interrupted(state: TrainingState, *arguments: Any) -> None:
        save(state, *arguments)
        epochs.append(state.epoch)
        if epochs == [0, 1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingState, "save_last", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_bench("broken").network_of(slimming(), 0)
    resumed = make_bench("broken").network_of(slimming(), 0).model.state_dict()
    assert epochs == [0, 1, 2]
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())


def test_a_target_out_of_reach_is_found_before_the_training(make_bench: MakeBench, trainings: list) -> None:
    with pytest.raises(BenchError, match=r"at least .* stay"):
        prune_network(make_bench(), slimming(), Target(Goal("macs", 0.0001)), seed=0)
    assert trainings == []


def test_a_benchmark_trains_once_for_two_ratios(make_bench: MakeBench, trainings: list, tmp_path: Path) -> None:
    jobs = grid(["slimming"], [Goal("channels", 0.3), Goal("channels", 0.5)], [0])
    out = tmp_path / "out"
    rows = run_benchmark(make_bench("out/scores"), {"slimming": slimming()}, jobs, None, out)
    assert [row["status"] for row in rows] == ["done", "done"]
    assert len(trainings) == 1
    infos = [read_json(out / row["folder"] / "pruning_info.json") for row in rows]
    assert faults(infos[0]) == []
    assert infos[0]["preparation"] == infos[1]["preparation"]
    assert infos[0]["quality"]["prepared"] == infos[1]["quality"]["prepared"]
    # Another seed is another training.
    more = grid(["slimming"], [Goal("channels", 0.3)], [0, 1])
    run_benchmark(make_bench("out/scores"), {"slimming": slimming()}, more, None, out)
    assert [call["seed"] for call in trainings] == [0, 1]


def test_sensitivity_is_that_of_the_trained_network(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench(recalibrate=False)
    options = SensitivityOptions(sensitivity_ratios=[0.5], sensitivity_images=4)
    record = measure_sensitivity(bench, slimming(), options, 0, tmp_path / "out")
    sparse = bench.network_of(slimming(), 0).model
    images = bench.batches(4, 0)
    classes = bench.baseline.data.classes
    miou = train_eval.evaluate(sparse, images, classes, device=torch.device("cpu")).miou
    assert record["baseline"]["miou"] == pytest.approx(miou)
