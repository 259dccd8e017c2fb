from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy
import pytest
import torch
from PIL import Image
from records import faults
from toy_training import TOY, ToyData, new_network
from toy_training import main as run_toy

from bench.errors import BenchError, UsageError
from bench.models import MODELS
from bench.models.checkpoint import load_model
from bench.system.files import read_json
from bench.train_eval import fit
from bench.training.options import TrainOptions
from train import main as run_script

# Everything that carries something from one step or epoch to the next.
RECIPE = ["--ema", "0.9", "--accumulate", "2", "--compute-class-weights", "--schedule", "multistep"]


def launch(project_root, *words, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=project_root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finished(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def epochs_in(folder):
    with (folder / "metrics.csv").open() as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def assert_same_tensors(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same_tensors(a[key], b[key])
    elif isinstance(a, list):
        for left, right in zip(a, b, strict=True):
            assert_same_tensors(left, right)
    else:
        assert a == b


def assert_same_run(one, other):
    """Equal weights, averages, optimizer state and scores; only the times differ."""
    for name in ("best.pt", "last.pt"):
        a, b = (torch.load(folder / name, weights_only=True) for folder in (one, other))
        assert_same_tensors(a["state_dict"], b["state_dict"])
        for content in (a, b):
            for row in content.get("state", {}).get("history", []):
                del row["seconds"], row["images_per_second"]
        assert_same_tensors(a.get("state"), b.get("state"))


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed_equals_uninterrupted(tmp_path, project_root, toy):
    program = "tests/toy_training.py"
    killed = launch(project_root, program, tmp_path / "killed", *RECIPE, "--kill", "2,3")
    run_toy([str(tmp_path / "whole"), *RECIPE])
    assert finished(killed)[0] == -signal.SIGKILL
    assert epochs_in(tmp_path / "killed") == [1, 2]
    assert finished(launch(project_root, program, tmp_path / "killed", *RECIPE, "--resume"))[0] == 0
    assert epochs_in(tmp_path / "killed") == [1, 2, 3, 4]
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_exits_130_and_can_be_resumed(tmp_path, project_root, toy, number):
    process = launch(project_root, "tests/toy_training.py", tmp_path, "--slow", "0.1")
    wait_for(lambda: (tmp_path / "metrics.csv").is_file() and len(epochs_in(tmp_path)) >= 1, process)
    process.send_signal(number)
    code, _, err = finished(process)
    assert code == 130
    assert err.splitlines() == ["toy_training.py: interrupted"]
    assert not list(tmp_path.glob(".*"))
    assert 1 <= len(epochs_in(tmp_path)) < 4
    network = new_network(dropout=0.3, aux=True)
    train(tmp_path, resume=True, network=network, epochs=4, batch_size=2)
    assert epochs_in(tmp_path) == [1, 2, 3, 4]


@pytest.fixture
def toy(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setitem(MODELS, "toy", TOY)


def train(folder, resume=False, seed=0, network=None, data=None, **options):
    recipe = TrainOptions(**{"epochs": 2, "batch_size": 4, "lr": 0.1, **options})
    saved, data = network or new_network(dropout=0.5), data or ToyData()
    return fit(saved, data, recipe, seed, folder, resume=resume, device=torch.device("cpu"))


@pytest.mark.parametrize("stops", [[(0, 2)], [(1, 0)], [(1, 2), (1, 1), (3, 2)]])
def test_stopped_anywhere_and_resumed_equals_uninterrupted(tmp_path, toy, stops):
    options = {"epochs": 4, "optimizer": "adamw", "lr": 0.01, "eval_every": 2}
    train(tmp_path / "whole", **options)
    for attempt, stop in enumerate(stops):

        def interrupt(epoch, batch, stop=stop):
            if (epoch, batch) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped", resume=attempt > 0, data=ToyData(watch=interrupt), **options)
        assert epochs_in(tmp_path / "stopped") == list(range(1, stop[0] + 1))
    torch.rand(7)
    train(tmp_path / "stopped", resume=True, **options)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


# ---- what resuming refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lr": 0.2}, r"`lr` is 0\.2, the run was started with 0\.1"),
        ({"epochs": 1}, "`epochs` is 1, the run was started with 2; it can only be more, it has finished 2: repeat"),
        ({"crop_size": (4, 4)}, "`crop_size` is 4,4, the run was started with 8,8"),
        ({"ema": 0.5}, "`ema` is 0.5"),
        ({"seed": 1}, "`seed` is 1"),
    ],
)
def test_other_options_are_refused(tmp_path, toy, change, named):
    train(tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(BenchError, match=named) as error:
        train(tmp_path, resume=True, **change)
    assert "\n" not in str(error.value)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_another_network_is_refused(tmp_path, toy):
    train(tmp_path)
    with pytest.raises(BenchError, match=r"`model` is toy \{'norm': False\}, .* toy \{'dropout': 0\.5\}"):
        train(tmp_path, resume=True, network=new_network(norm=False))
    pruned = new_network(dropout=0.5)
    pruned.channels = {"body.0": [0, 1]}
    with pytest.raises(BenchError, match="pruned differently"):
        train(tmp_path, resume=True, network=pruned)


def test_network_without_training_state_is_refused(tmp_path, toy):
    train(tmp_path)
    (tmp_path / "last.pt").write_bytes((tmp_path / "best.pt").read_bytes())
    with pytest.raises(BenchError, match=r"no training state.*`ckpt="):
        train(tmp_path, resume=True)


def test_nothing_to_resume_is_said(tmp_path, toy):
    with pytest.raises(BenchError, match=r"last\.pt does not exist"):
        train(tmp_path, resume=True)


def test_lost_table_is_written_again_when_a_finished_run_is_resumed(tmp_path, toy):
    first = train(tmp_path)
    (tmp_path / "metrics.csv").unlink()
    again = train(tmp_path, resume=True, tensorboard=True)
    assert epochs_in(tmp_path) == [1, 2]
    assert again == first


def test_new_run_removes_the_best_of_the_old_one(tmp_path, toy):
    train(tmp_path)

    def interrupt(epoch, batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, data=ToyData(watch=interrupt))
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "metrics.csv"}
    assert epochs_in(tmp_path) == []


# ---- more epochs ---------------------------------------------------------------------------------------


def test_a_finished_run_is_extended(tmp_path, toy):
    """The epochs that follow have the learning rates of the longer run, and are the same whenever it is stopped."""
    recipe = {"ema": 0.9, "lr": 0.1}
    first = train(tmp_path / "whole", epochs=3, **recipe)
    extended = train(tmp_path / "whole", resume=True, epochs=5, **recipe)
    straight = train(tmp_path / "straight", epochs=5, **recipe)
    assert epochs_in(tmp_path / "whole") == [1, 2, 3, 4, 5]
    assert (extended.epochs, extended.extended, straight.extended) == (5, [3], [])
    rates = [[row["lr"] for row in result.history] for result in (first, extended, straight)]
    assert rates[1] == rates[0] + rates[2][3:]
    assert load_model(tmp_path / "whole" / "last.pt").meta["extended"] == [3]

    def interrupt(epoch, batch):
        if (epoch, batch) == (4, 1):
            raise KeyboardInterrupt

    train(tmp_path / "stopped", epochs=3, **recipe)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", resume=True, data=ToyData(watch=interrupt), epochs=5, **recipe)
    train(tmp_path / "stopped", resume=True, epochs=5, **recipe)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_an_unfinished_run_is_not_extended(tmp_path, toy):
    def interrupt(epoch, batch):
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, data=ToyData(watch=interrupt), epochs=3)
    says = r"a finished run can be extended, this one has finished 1: repeat `epochs=3`, or .* with `ckpt=.*last\.pt`"
    with pytest.raises(BenchError, match=says):
        train(tmp_path, resume=True, epochs=5)


def test_the_script_says_that_it_extends(tmp_path, small_camvid, capsys):
    run_script(script(small_camvid, tmp_path, "--epochs", "1"))
    run_script(script(small_camvid, tmp_path, "--epochs", "2", "--resume"))
    assert f"{tmp_path} is extended from 1 to 2 epochs: from epoch 2 on the learning rate" in capsys.readouterr().out
    report = read_json(tmp_path / "report.json")
    assert (report["epochs"], report["extended"]) == (2, [1])
    assert faults(report) == []
    assert read_json(tmp_path / "config.json")["epochs"] == 2
    assert (tmp_path / "done").is_file()
    run_script(script(small_camvid, tmp_path, "--epochs", "2", "--resume"))
    assert "finished already; nothing to do" in capsys.readouterr().out


# ---- a run that died at its start ----------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--resume"]])
def test_a_run_that_died_at_its_start_does_not_block_the_next(tmp_path, small_camvid, flags, capsys):
    root, folder = shutil.copytree(small_camvid, tmp_path / "data"), tmp_path / "run"
    label = root / "trainannot" / "4.png"
    good = label.read_bytes()
    Image.fromarray(numpy.full((32, 48), 99, numpy.uint8)).save(label)
    with pytest.raises(BenchError, match="holds id 99"):
        run_script(script(root, folder, "--epochs", "1"))
    assert (folder / "last.pt").is_file() and (folder / "failed").is_file()
    # The next error is the next thing that is wrong.
    with pytest.raises(BenchError, match="holds id 99"):
        run_script(script(root, folder, "--epochs", "1", *flags))
    label.write_bytes(good)
    # The mended command may differ in what the dead run had fixed.
    run_script(script(root, folder, "--epochs", "1", "--lr", "0.05", *flags))
    assert (folder / "done").is_file() and not (folder / "failed").exists()
    assert ("holds no finished epoch to resume; starting one" in capsys.readouterr().out) == bool(flags)


def test_a_run_with_a_finished_epoch_is_kept(tmp_path, small_camvid):
    run_script(script(small_camvid, tmp_path, "--epochs", "1"))
    (tmp_path / "done").unlink()
    with pytest.raises(BenchError, match="holds an unfinished run; pass --resume to go on or --overwrite"):
        run_script(script(small_camvid, tmp_path, "--epochs", "1"))
    (tmp_path / "last.pt").write_bytes(b"damaged")
    run_script(script(small_camvid, tmp_path, "--epochs", "1", "--overwrite"))


# ---- the script ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_camvid(tmp_path_factory):
    """Nine training and three validation and test images in CamVid's layout."""
    root = tmp_path_factory.mktemp("camvid")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 9), ("val", 3), ("test", 3)):
        (root / split).mkdir()
        (root / f"{split}annot").mkdir()
        for number in range(count):
            label = torch.randint(0, 12, (4, 6), generator=generator).repeat_interleave(8, 0).repeat_interleave(8, 1)
            image = torch.stack((label * 20, 255 - label * 20, label * 7 % 255), 2)
            Image.fromarray(image.byte().numpy()).save(root / split / f"{number}.png")
            Image.fromarray(label.byte().numpy()).save(root / f"{split}annot" / f"{number}.png")
    return root


def script(root, folder, *words):
    fixed = ["--dataset", "camvid", "--data-root", root, "--model", "unet_small", "--batch-size", "2", "--threads", "1"]
    size = ["--device", "cpu", "--input-size", "32,48", "--epochs", "5", "--num-workers", "0"]
    return [str(word) for word in (*fixed, *size, "--save", folder, *words)]


@pytest.mark.slow
def test_script_killed_and_resumed_equals_uninterrupted(tmp_path, project_root, small_camvid, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = launch(project_root, "train.py", *script(small_camvid, killed, "--num-workers", "2"))
    wait_for(lambda: (killed / "metrics.csv").is_file() and len(epochs_in(killed)) >= 2, process)
    process.kill()
    assert finished(process)[0] == -signal.SIGKILL
    assert 2 <= len(epochs_in(killed)) < 5
    assert not (killed / "done").exists()

    with pytest.raises(BenchError, match="unfinished run; pass --resume"):
        run_script(script(small_camvid, killed))
    # The number of workers is no part of the run; a run that does not exist yet is begun.
    run_script(script(small_camvid, killed, "--resume"))
    run_script(script(small_camvid, whole, "--resume"))
    assert_same_run(whole, killed)
    names = {"best.pt", "last.pt", "config.json", "metrics.csv", "report.json", "done"}
    assert {path.name for path in killed.iterdir()} == names
    assert (killed / "report.json").read_bytes() == (whole / "report.json").read_bytes()

    capsys.readouterr()
    run_script(script(small_camvid, killed, "--resume"))
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(BenchError, match="already holds a finished run"):
        run_script(script(small_camvid, killed))
    with pytest.raises(BenchError, match=r"`lr` is 0\.5, the run was started with 0\.01"):
        run_script(script(small_camvid, killed, "--resume", "--epochs", "9", "--lr", "0.5"))
    assert (killed / "done").exists()

    # New training from the finished weights replaces the run and is told so.
    run_script(script(small_camvid, whole, "--overwrite", "--ckpt", killed / "best.pt", "--epochs", "1"))
    report = read_json(whole / "report.json")
    assert report["epochs"] == 1 and set(report["test"]["iou"]) == set(report["val"]["iou"])
    assert read_json(whole / "config.json")["ckpt"] == str(killed / "best.pt")


def test_failed_run_is_marked(tmp_path, small_camvid):
    with pytest.raises(BenchError, match="`lr`"):
        run_script(script(small_camvid, tmp_path, "--lr", "1e30"))
    assert "not finite" in (tmp_path / "failed").read_text() or "the loss is" in (tmp_path / "failed").read_text()
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--save DIR is missing"),
        (["--save", "{}/run", "--resume", "--overwrite"], "contradict"),
        (["--save", "{}/run", "--ckpt", "a", "--pretrained-backbone", "b"], "pass one"),
        (["--save", "{}/run", "--epochs", "0"], "too small"),
        (["--save", "{}/run", "--model", "unet_smal"], "did you mean unet_small"),
        (["--save", "{}/run", "--lr=-1"], "too small"),
    ],
)
def test_contradictions_are_usage_errors(tmp_path, small_camvid, words, message):
    words = [word.format(tmp_path) for word in words]
    with pytest.raises(UsageError, match=message):
        run_script(["--dataset", "camvid", "--data-root", str(small_camvid), *words])
    assert not (tmp_path / "run" / "last.pt").exists()


def test_help_is_fast(project_root):
    began = time.monotonic()
    code, out, _ = finished(launch(project_root, "train.py", "--help"))
    assert code == 0 and "--resume" in out
    assert time.monotonic() - began < 1.0
