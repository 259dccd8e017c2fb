"""Every flag on data, scoring and the machine reaches every stage of every command, seen where images come and go."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from scripts import run_script

from bench.data import SegmentationData
from bench.datasets import loaders
from bench.datasets.options import DataOptions
from bench.measure import baseline, evaluation
from bench.measure.inference import PLAIN, Scoring
from bench.measure.options import ScoringOptions, TimingOptions
from bench.pruners.dmcp import sandwich
from bench.system.options import RunOptions
from bench.training.step import TrainingLoss

FLAGS = {
    "dataset": "camvid",
    "data_root": None,  # of the fixture
    "input_size": "40,56",
    "cache": True,
    "num_workers": "3",
    "data_check": "content",
    "split": "val",
    "eval_batch_size": "3",
    "sliding_window": "32,48",
    "stride": "32,48",
    "scales": "1.0,0.9",
    "flip": True,
    "boundary_width": "1",
    "device": "cpu",
    "seed": "5",
    "threads": "1",
    "deterministic": True,
}
TIMING = {
    "latency_batch": "2",
    "latency_amp": "bf16",
    "latency_channels_last": True,
    "latency_warmup": "1",
    "latency_runs": "2",
    "latency_seconds": "1",
}
# Of no stage: whether there is one, and what needs a compiler.
SWITCHES = {"latency", "latency_compile", "per_layer"}
# Of the data set `folder` alone; `test_own_images.py` sees what becomes of them.
OF_A_FOLDER = {"classes_file", "split_seed"}
TRAINING = ["--crop-size", "24,32", "--amp", "bf16", "--channels-last", "--batch-size", "4"]
PRUNING = ["--calib-batch-size", "2", "--calib-images", "5", "--recalibration-images", "5"]
PRUNING += ["--reconstruction-images", "3"]


def test_no_flag_of_these_groups_is_left_out():
    names = {spec.name for group in (DataOptions, ScoringOptions, RunOptions, TimingOptions) for spec in fields(group)}
    assert names == FLAGS.keys() | TIMING.keys() | SWITCHES | OF_A_FOLDER


def words(flags):
    return [
        word
        for name, value in flags.items()
        for word in (["--" + name.replace("_", "-")] + ([] if value is True else [value]))
    ]


class Seen(list):
    """What was done: a kind, what it is called, and how; checked at once against the flags."""

    def note(self, kind, name=""):
        assert torch.get_num_threads() == 1 and torch.are_deterministic_algorithms_enabled(), (kind, name)
        self.append((kind, name))


@pytest.fixture
def seen(monkeypatch):
    seen, scoring = Seen(), Scoring((32, 48), (32, 48), (1.0, 0.9), True, 1.0)

    def data_is_right(data):
        assert (data.name, data.input_size, data._workers, data._cache, data._seed) == ("camvid", (40, 56), 3, True, 5)
        assert data._check == "content"
        assert data.eval_batch_size == 3

    def wrapped(owner, name, before):
        original = getattr(owner, name)

        def spy(*args, **settings):
            before(*args, **settings)
            return original(*args, **settings)

        monkeypatch.setattr(owner, name, spy)

    def eval_loader(data, split, batch_size=None, **_):
        data_is_right(data)
        assert batch_size in (None, 3), split
        seen.note("loads", split)

    def train_loader(data, batch_size, *, crop_size=None, **_):
        data_is_right(data)
        assert crop_size == (24, 32)
        seen.note("loads", "crops")

    def calibration(data, images, batch_size, seed, split="train"):
        data_is_right(data)
        seen.note("calibrates", batch_size)

    def predictions(models, loader, *, device, amp="none", channels_last=False, label, scoring=PLAIN):
        is_validation = label == "validation"
        assert scoring == (PLAIN if is_validation else wanted), label
        assert device.type == "cpu"
        if is_validation:
            assert (amp, channels_last) == ("bf16", True)
        seen.note("scores", label)

    def crops_are_right(images, amp):
        assert images.shape[-2:] == (24, 32) and amp == "bf16"
        assert images.is_contiguous(memory_format=torch.channels_last)

    def loss(self, network, images, labels):
        crops_are_right(images, self._options.amp)
        seen.note("trains", "by the labels")

    def sandwich_step(self, gates, images, labels):
        crops_are_right(images, self._training.recipe.amp)
        seen.note("trains", "sandwich")

    def times(networks, input_size, *, device, mode, effort):
        assert input_size == (40, 56) and mode.amp == "bf16" and mode.channels_last, mode
        assert mode.throughput_batch == 2
        seen.note("times", ",".join(networks))

    wanted, loader = scoring, loaders.Loader.__init__

    def without_processes(self, samples, batches, workers):
        assert workers == 3
        loader(self, samples, batches, 0)

    monkeypatch.setattr(loaders.Loader, "__init__", without_processes)
    for name, spy in (("eval_loader", eval_loader), ("train_loader", train_loader), ("calibration", calibration)):
        wrapped(SegmentationData, name, spy)
    wrapped(evaluation, "_predictions", predictions)
    wrapped(baseline, "time_networks", times)
    wrapped(TrainingLoss, "__call__", loss)
    wrapped(sandwich._Trainer, "step", sandwich_step)
    threads = torch.get_num_threads()
    yield seen
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def ran(seen, script, folder, *flags):
    seen.clear()
    # Other than what the flag asks for.
    torch.set_num_threads(2)
    outcome = run_script(script, *flags, folder=folder)
    assert outcome.code == 0, outcome.err
    return Counter(seen)


@pytest.fixture
def common(tiny_camvid):
    return words({**FLAGS, "data_root": str(tiny_camvid)})


def test_train(seen, common, tmp_path):
    done = ran(seen, "train.py", tmp_path, *common, *TRAINING, "--model", "unet_small", "--epochs", 1, "--save", "t")
    assert {("scores", "validation"), ("scores", "scoring the best epoch on val"), ("loads", "crops")} <= done.keys()


def prune(seen, common, tmp_path, checkpoint: Path, *flags):
    where = ["--ckpt", checkpoint, "--save", "p", *common, *words(TIMING), *TRAINING, *PRUNING]
    return ran(seen, "prune.py", tmp_path, *where, *flags)


@pytest.mark.parametrize(
    ("method", "trains"),
    [
        (["slimming", "--opt", "sparse_epochs=1"], ("trains", "by the labels")),
        (["dmcp", "--opt", "recipe=full,sandwich_epochs=1"], ("trains", "sandwich")),
        (["taylor", "--iterations", "2", "--finetune-between", "1"], ("trains", "by the labels")),
        (["taylor"], None),
    ],
    ids=["slimming", "dmcp", "iterations", "taylor"],
)
def test_prune(seen, common, tmp_path, shallow_baseline, method, trains):
    target = ["--target-macs", 0.6] if method[0] == "dmcp" else ["--global-ratio", 0.3]
    done = prune(seen, common, tmp_path, shallow_baseline, "--method", *method, *target)
    assert {("scores", "scoring the cut network on val"), ("times", "baseline,candidate")} <= done.keys()
    assert trains is None or trains in done
    # Recalibration, reconstruction and scores; dmcp's own statistics come by its own batch.
    assert done["calibrates", 2] >= 2
    assert {name for kind, name in done if kind == "calibrates"} <= ({2, 8} if method[0] == "dmcp" else {2})


def test_sensitivity(seen, common, tmp_path, shallow_baseline):
    flags = ["--method", "l1", "--sensitivity", "--sensitivity-ratios", "0.5", "--sensitivity-images", "5"]
    done = prune(seen, common, tmp_path, shallow_baseline, *flags)
    assert {("scores", "scoring after the cut"), ("calibrates", 2)} <= done.keys()


def test_benchmark_and_finetune_batch(seen, common, tmp_path):
    shared = [*common, *words(TIMING), *TRAINING, "--baseline", "b/best.pt", "--model", "unet_small"]
    flags = [*shared, *PRUNING, "--train-baseline", "--epochs", 1, "--methods", "l1", "--ratios", 0.5, "--out-dir", "o"]
    oracle = ["--oracle", "--oracle-images", 3, "--oracle-units", 1, "--finetune-epochs", 1]
    done = ran(seen, "benchmark.py", tmp_path, *flags, *oracle)
    assert done["scores", "validation"] == 2 and done["scores", "scoring candidate on val"] == 1
    # Recalibration, reconstruction, oracle.
    assert done["calibrates", 2] == 3
    tuned = ran(seen, "finetune_batch.py", tmp_path, *shared, "--benchmark-dir", "o", "--finetune-epochs", 2)
    assert tuned["scores", "validation"] == 2 and ("scores", "scoring candidate on val") in tuned


def test_eval(seen, common, tmp_path, shallow_baseline):
    own = ["--baseline", shallow_baseline, "--candidate", shallow_baseline, "--report", "r.json"]
    done = ran(seen, "eval.py", tmp_path, *own, *common, *words(TIMING), "--predict", "maps", "--picture", "p.png")
    assert {("scores", "predictions on val"), ("scores", "scoring baseline and candidate on val")} <= done.keys()


def test_int8(seen, common, tmp_path, shallow_baseline):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    plain = {name: value for name, value in TIMING.items() if name not in ("latency_amp", "latency_channels_last")}
    own = ["--baseline", shallow_baseline, "--report", "r.json", "--int8", "--no-html"]
    done = ran(seen, "eval.py", tmp_path, *own, *common, *words(plain), "--no-latency", "--int8-images", 5)
    assert {("scores", "scoring baseline in int8 by onnxruntime on val"), ("calibrates", 3)} <= done.keys()
