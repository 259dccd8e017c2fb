"""Two processes on CPU, started by torchrun as a user would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import asdict
from datetime import timedelta

import pytest
import torch
from toy_training import TOY, ToyData, new_network, toy_distillation

from bench.errors import BenchError, UsageError
from bench.measure.evaluation import evaluate, evaluate_images
from bench.measure.inference import Scoring
from bench.models import MODELS
from bench.models.checkpoint import load_model
from bench.system import processes
from bench.train_eval import fit
from bench.training.optimizer import learning_rate
from bench.training.options import TrainOptions

CPU = torch.device("cpu")
# What each process of the toy program writes itself.
OWN = ("rank", "evaluation")


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setitem(MODELS, "toy", TOY)


def torchrun(project_root, *words):
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *map(str, words)],
        cwd=project_root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, project_root):
    """A run with BatchNorm, dropout, an auxiliary head, an average and accumulation over an odd validation set."""
    folder = tmp_path_factory.mktemp("run")
    done = torchrun(project_root, "tests/toy_training.py", folder, "--ema", "0.5", "--accumulate", "2")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_processes_end_with_the_same_weights(two_processes):
    folder, _ = two_processes
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert not any(name.startswith("module.") for name in first)


@pytest.mark.slow
def test_first_process_alone_writes_and_speaks(two_processes):
    folder, out = two_processes
    expected = {"best.pt", "last.pt", "metrics.csv", *(f"{name}{rank}.pt" for name in OWN for rank in range(2))}
    assert {path.name for path in folder.iterdir()} == expected
    assert len((folder / "metrics.csv").read_text().splitlines()) == 5
    # Twelve images in batches of two for each process are three batches, and with two a step two steps an epoch.
    options = TrainOptions(epochs=4, batch_size=2, lr=0.1, ema=0.5, accumulate=2)
    assert load_model(folder / "last.pt").state["history"][-1]["lr"] == learning_rate(options, 7, 8)
    assert out.count("train 4/4") == 1


@pytest.mark.slow
def test_no_image_is_counted_twice(two_processes):
    folder, _ = two_processes
    data = ToyData()
    assert len(data.val[0]) % 2 == 1
    last = load_model(folder / "last.pt")
    quality = evaluate(last.model, data.eval_loader("val", 2), data.classes, device=CPU)
    row = last.state["history"][-1]
    assert (row["val_miou"], row["val_pixel_accuracy"]) == (quality.miou, quality.pixel_accuracy)


@pytest.mark.slow
def test_counts_of_each_image_come_together_in_the_order_of_the_data_set(two_processes):
    folder, _ = two_processes
    data, last = ToyData(), load_model(folder / "last.pt")
    whole = evaluate_images(last.model, data.eval_loader("val", 2), data.classes, device=CPU)
    scoring = Scoring(boundary_width=1)
    outlines = evaluate(last.model, data.eval_loader("val", 2), data.classes, device=CPU, scoring=scoring).boundary
    assert len(whole.per_image) == len(data.val[0])
    for rank in range(2):
        found = torch.load(folder / f"evaluation{rank}.pt", weights_only=True)
        assert torch.equal(found["per_image"], whole.per_image)
        assert tuple(found["miou_interval"]) == whole.quality.miou_interval
        assert found["boundary"] == asdict(outlines)
        # Of one image the second process has none.
        assert torch.equal(found["first_image"], whole.per_image[:1])


@pytest.mark.slow
def test_a_process_that_leads_and_one_that_helps_equal_one_alone(tmp_path, project_root):
    # Void pixels are not equally many in both shares; norms go by the whole batch.
    done = torchrun(project_root, "tests/toy_training.py", tmp_path, "--led", "--no-dropout", "--batch-size", "4")
    one = new_network(dropout=0.0, aux=True)
    options = TrainOptions(epochs=4, batch_size=4, lr=0.1)
    taught = {"distillation": toy_distillation()}
    result = fit(one, ToyData(), options, 0, tmp_path / "one", device=CPU, **taught)
    two = load_model(tmp_path / "two" / "last.pt")
    # It can be gone on with in any number of processes.
    assert two.state["identity"] == load_model(tmp_path / "one" / "last.pt").state["identity"]
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)
    assert two.state["history"][-1]["train_loss"] == pytest.approx(result.history[-1]["train_loss"], rel=1e-4)
    # After a training that diverged in both the other goes on helping, and not after an error of its own.
    assert "the loss is nan" not in done.stdout and len((tmp_path / "diverged" / "metrics.csv").read_text()) < 100
    lines = done.stdout.splitlines()
    assert lines[lines.index("one of the images is damaged") + 1].endswith(
        "gone after an error; this one goes on alone"
    )
    assert len((tmp_path / "broken" / "metrics.csv").read_text().splitlines()) == 10
    assert done.returncode == 1 and not list(tmp_path.rglob("helpers.pt"))


@pytest.mark.slow
def test_death_of_one_process_ends_both_and_the_run_can_be_resumed(two_processes, tmp_path, project_root):
    recipe = ["--ema", "0.5", "--accumulate", "2"]
    assert torchrun(project_root, "tests/toy_training.py", tmp_path, *recipe, "--kill", "2,1").returncode != 0
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3
    done = torchrun(project_root, "tests/toy_training.py", tmp_path, *recipe, "--resume")
    assert done.returncode == 0, done.stderr
    whole, resumed = (torch.load(folder / "rank1.pt", weights_only=True) for folder in (two_processes[0], tmp_path))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_another_number_of_processes_is_refused(two_processes):
    options = TrainOptions(epochs=4, batch_size=2, lr=0.1, ema=0.5, accumulate=2)
    saved = new_network(dropout=0.3, aux=True)
    with pytest.raises(BenchError, match="torchrun --nproc_per_node is 1, the run was started with 2"):
        fit(saved, ToyData(), options, 0, two_processes[0], resume=True, device=CPU)


def test_one_process_needs_no_group():
    tensor = torch.tensor([1, 2])
    with processes.joined(CPU) as device:
        assert device == CPU
        assert processes.world() == processes.World(0, 1)
        assert processes.sum_over_processes(tensor) is tensor
        model = torch.nn.BatchNorm2d(2)
        assert processes.wrapped(model, CPU) is model
    assert tensor.tolist() == [1, 2]


def test_one_gpu_for_several_processes_is_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UsageError, match="use `device=cuda` under torchrun"),
        processes.joined(torch.device("cuda:0")),
    ):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="lower --nproc_per_node"), processes.joined(torch.device("cuda")):
        pass


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE of processes that train together is 'two', no number"),
        ({"WORLD_SIZE": "2"}, "RANK of processes that train together is not set"),
        ({"WORLD_SIZE": "2", "RANK": "first"}, "RANK of processes that train together is 'first'"),
        ({"WORLD_SIZE": "2", "RANK": "5"}, "RANK=5 is not below WORLD_SIZE=2"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK=-1 is not below"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_PORT of processes that train together is not set"),
    ],
)
def test_variables_that_are_none_of_torchruns_are_told(monkeypatch, variables, said):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{said}.*torchrun.*unset WORLD_SIZE"), processes.joined(CPU):
        pass


@pytest.mark.parametrize("rank", ["0", "1"])
def test_processes_whose_partners_do_not_come_stop_waiting(monkeypatch, rank):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"WORLD_SIZE": "2", "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "_PATIENCE", timedelta(seconds=1))
    told = pytest.raises(BenchError, match=f"process {rank} of 2 does not find the others in 1 seconds")
    with told as said, processes.joined(CPU):
        pass
    assert "\n" not in str(said.value)
