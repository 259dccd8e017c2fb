from __future__ import annotations

import csv
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from toy_training import CLASSES, TOY, ToyData, new_network

from bench.errors import BenchError, UsageError
from bench.measure.evaluation import evaluate_both, evaluate_images
from bench.models import MODELS
from bench.models.checkpoint import load_model
from bench.train_eval import evaluate, fit, recalibrate
from bench.training.losses import segmentation_loss
from bench.training.options import TrainOptions

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setitem(MODELS, "toy", TOY)


def train(folder, saved, data, **options):
    recipe = TrainOptions(**{"epochs": 2, "batch_size": 4, "lr": 0.1, **options})
    return fit(saved, data, recipe, 0, folder, device=CPU)


class Strongest(nn.Module):
    """Its logits are the colours: perfect on the toy data."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return torch.cat((self.scale * images, images[:, :1] - 100.0), 1)


# ---- evaluate -----------------------------------------------------------------------------------------


def test_perfect_network_scores_one():
    quality = evaluate(Strongest(), ToyData().eval_loader("val", 2), CLASSES, device=CPU)
    assert quality.miou == 1.0
    assert quality.pixel_accuracy == 1.0


def test_scores_are_counted_by_hand():
    colours = torch.eye(3)
    images = colours[torch.tensor([[0, 1], [1, 2]])].permute(2, 0, 1)[None]
    labels = torch.tensor([[[0, 1], [2, CLASSES.ignore_index]]])
    quality = evaluate(Strongest(), [(images, labels)], CLASSES, device=CPU)
    # Truth 0, 1, 2 against prediction 0, 1, 1; the void pixel counts nowhere.
    assert quality.iou == {"red": 1.0, "green": 0.5, "blue": 0.0}
    assert quality.pixel_accuracy == pytest.approx(2 / 3)


def test_logits_are_scaled_up_to_the_labels():
    images = torch.eye(3)[torch.tensor([[0, 2]])].permute(2, 0, 1)[None]
    labels = torch.tensor([[[0, 0, 2, 2], [0, 0, 2, 2]]])
    quality = evaluate(Strongest(), [(images, labels)], CLASSES, device=CPU)
    assert quality.pixel_accuracy == 1.0
    assert quality.classes_present == 2


class Mirrored(Strongest):
    """Takes red for blue and blue for red."""

    def forward(self, images):
        return super().forward(images.flip(1))


def test_two_networks_are_scored_in_one_pass():
    data, before, after = ToyData(), Strongest(), Mirrored().train()
    loader = data.eval_loader("val", 2)
    first, second, differing = evaluate_both(before, after, loader, CLASSES, device=CPU, label="both")
    for model, found in ((before, first), (after, second)):
        alone = evaluate_images(model, loader, CLASSES, device=CPU)
        assert found.quality == alone.quality and torch.equal(found.per_image, alone.per_image)
    labels = data.val[1]
    # Void has a prediction too, and those of the two differ, but nobody can be right there.
    apart = ((labels == 0) | (labels == 2)).flatten(1).sum(1)
    assert differing.tolist() == second.wrong.tolist() == apart.tolist() and apart.min() > 0
    assert first.wrong.tolist() == [0] * 5
    assert after.training


def test_evaluation_leaves_a_network_that_can_train():
    model = new_network(dropout=0.5, aux=True).model.train()
    model.body[1].eval()
    flags = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = ToyData()
    first = evaluate(model, data.eval_loader("val", 2), CLASSES, device=CPU, channels_last=True)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert evaluate(model, data.eval_loader("val", 3), CLASSES, device=CPU) == first
    images, labels = data.train
    segmentation_loss(model(images), labels, CLASSES.ignore_index).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# ---- recalibrate --------------------------------------------------------------------------------------


def test_recalibration_averages_the_batches():
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.9)).train()
    model[0](torch.full((2, 3, 2, 2), 50.0))
    weights = [parameter.clone() for parameter in model.parameters()]
    images, labels = ToyData(images=6).train
    parts = [images[:2], images[2:]]
    recalibrate(model, [(part, labels) for part in parts], CPU)
    mean = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    variance = torch.stack([part.var((0, 2, 3), unbiased=True) for part in parts]).mean(0)
    torch.testing.assert_close(model[0].running_mean, mean)
    torch.testing.assert_close(model[0].running_var, variance)
    assert model[0].momentum == 0.3
    assert model[0].training and model[1].training
    assert all(torch.equal(now, old) for now, old in zip(model.parameters(), weights, strict=True))


def test_recalibration_keeps_statistics_it_cannot_see():
    model = new_network(aux=True).model.eval()
    model.aux[0].running_mean.fill_(7.0)
    recalibrate(model, [ToyData().train], CPU)
    assert torch.equal(model.aux[0].running_mean, torch.full((8,), 7.0))
    assert model.body[1].running_mean.abs().sum() > 0
    assert not any(module.training for module in model.modules())


def test_recalibration_without_batchnorm_changes_nothing():
    model = new_network(norm=False).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recalibrate(model, [ToyData().train], CPU)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# ---- fit ----------------------------------------------------------------------------------------------


def test_training_learns_and_writes_its_files(tmp_path):
    data, saved = ToyData(images=24), new_network(aux=True)
    result = train(tmp_path, saved, data, epochs=15)
    losses = [row["train_loss"] for row in result.history]
    assert losses[-1] < 0.5 * losses[0]
    assert result.best_miou > 0.8
    best = load_model(result.best)
    quality = evaluate(best.model, data.eval_loader("val", 4), CLASSES, device=CPU)
    assert quality.miou == result.best_miou == best.meta["val_miou"] == max(row["val_miou"] for row in result.history)
    assert best.meta["epoch"] == result.best_epoch
    assert best.meta["classes"] == list(CLASSES.names) and best.meta["input_size"] == [8, 8]
    assert best.state == {}
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 16))
    assert [float(row["train_loss"]) for row in rows] == losses
    assert not list(tmp_path.glob(".*"))


def test_same_seed_gives_the_same_weights(tmp_path):
    states = []
    for name in ("a", "b"):
        saved = new_network(dropout=0.5)
        train(tmp_path / name, saved, ToyData())
        states.append(saved.model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_accumulation_equals_the_larger_batch(tmp_path):
    # Without norm and void pixels, the mean over two halves is the mean over the whole.
    small, large = new_network(norm=False), new_network(norm=False)
    train(tmp_path / "small", small, ToyData(void=False), batch_size=2, accumulate=2)
    train(tmp_path / "large", large, ToyData(void=False), batch_size=4)
    for a, b in zip(small.model.parameters(), large.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_incomplete_last_group_counts_its_own_batches(tmp_path):
    # Three batches of two, two a step: the second step is the third batch alone, at full strength.
    data, saved, by_hand = ToyData(images=6), new_network(norm=False), new_network(norm=False).model
    options = {"epochs": 1, "batch_size": 2, "accumulate": 2, "momentum": 0.0, "weight_decay": 0.0}
    train(tmp_path, saved, data, **options)
    loader = data.train_loader(2)
    batches = list(loader)
    for rate, group in ((0.1, batches[:2]), (0.1 * 0.5**0.9, batches[2:])):
        by_hand.zero_grad()
        losses = [segmentation_loss(by_hand(images), labels, CLASSES.ignore_index) for images, labels in group]
        torch.stack(losses).mean().backward()
        with torch.no_grad():
            for parameter in by_hand.parameters():
                parameter -= rate * parameter.grad
    for a, b in zip(saved.model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_gradient_clipping_bounds_the_step(tmp_path):
    data, options = ToyData(), {"epochs": 1, "batch_size": 12, "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    lengths = []
    for clip in (0.0, 0.01):
        saved = new_network(norm=False)
        before = [parameter.detach().clone() for parameter in saved.model.parameters()]
        train(tmp_path / str(clip), saved, data, grad_clip=clip, **options)
        moved = [a - b for a, b in zip(saved.model.parameters(), before, strict=True)]
        lengths.append(torch.cat([part.flatten() for part in moved]).norm().item())
    assert lengths[0] > 0.02
    assert lengths[1] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("clip", [0.0, 1e-9])
def test_one_sparse_step_without_a_task_moves_scales_by_the_penalty_alone(tmp_path, clip):
    # All pixels void: the task has no gradient. The penalty comes behind the clipping, once for a step of two batches.
    data, saved = ToyData(images=4), new_network(aux=True)
    data.train[1].fill_(CLASSES.ignore_index)
    scales = [saved.model.body[1].weight, saved.model.aux[0].weight]
    for scale in scales:
        scale.data = torch.tensor([1.0, -2.0, 0.0, 0.5, -0.5, 3.0, 0.25, -0.125])
    before = {name: parameter.detach().clone() for name, parameter in saved.model.named_parameters()}
    options = {"batch_size": 2, "accumulate": 2, "lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "grad_clip": clip}
    train(tmp_path, saved, data, epochs=1, sparsity_lambda=0.1, **options)
    for name, parameter in saved.model.named_parameters():
        wanted = before[name]
        if name in ("body.1.weight", "aux.0.weight"):
            wanted = wanted - 0.5 * 0.1 * wanted.sign()
        torch.testing.assert_close(parameter.detach(), wanted, msg=name)


def test_the_penalty_is_added_to_gradients_that_are_not_scaled(tmp_path, monkeypatch):
    # Scaled losses as with fp16, in float32: unscaled before the penalty, the steps are those of the plain loss.
    plain, scaled = new_network(), new_network()
    options = {"epochs": 1, "sparsity_lambda": 0.1, "weight_decay": 0.0}
    train(tmp_path / "plain", plain, ToyData(), **options)
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler(device, init_scale=1024.0))
    train(tmp_path / "scaled", scaled, ToyData(), **options)
    for a, b in zip(plain.model.parameters(), scaled.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "change", [{"compute_class_weights": True}, {"warmup_epochs": 1}, {"aux_weight": 0.0}, {"optimizer": "adamw"}]
)
def test_options_reach_the_weights(tmp_path, change):
    plain, changed = new_network(aux=True), new_network(aux=True)
    train(tmp_path / "plain", plain, ToyData(), epochs=1)
    train(tmp_path / "changed", changed, ToyData(), epochs=1, **change)
    assert not torch.equal(plain.model.body[0].weight, changed.model.body[0].weight)


def test_the_last_epochs_weigh_no_class(tmp_path, monkeypatch):
    trained = {}
    for last in (0, 1, 2):
        saved = new_network()
        train(tmp_path / str(last), saved, ToyData(), compute_class_weights=True, unweighted_epochs=last)
        trained[last] = saved.model.head.weight
    plain = new_network()
    train(tmp_path / "plain", plain, ToyData())
    assert torch.equal(trained[2], plain.model.head.weight)
    assert not torch.equal(trained[1], trained[0]) and not torch.equal(trained[1], trained[2])

    def stop(*_):
        raise KeyboardInterrupt

    resumed = new_network()
    options = TrainOptions(epochs=2, batch_size=4, lr=0.1, compute_class_weights=True, unweighted_epochs=1)
    with monkeypatch.context() as patched:
        patched.setattr("bench.train_eval._Trainer._report", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(new_network(), ToyData(), options, 0, tmp_path / "resumed", device=CPU)
    fit(resumed, ToyData(), options, 0, tmp_path / "resumed", device=CPU, resume=True)
    assert torch.equal(resumed.model.head.weight, trained[1])


def test_gradients_from_before_do_not_count(tmp_path):
    fresh, scored = new_network(), new_network()
    for parameter in scored.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for name, saved in (("fresh", fresh), ("scored", scored)):
        train(tmp_path / name, saved, ToyData(), epochs=1)
    assert torch.equal(fresh.model.head.weight, scored.model.head.weight)


def test_average_is_scored_and_saved(tmp_path):
    saved, data = new_network(), ToyData()
    result = train(tmp_path, saved, data, ema=0.9, epochs=3)
    last = load_model(tmp_path / "last.pt")
    live = saved.model.state_dict()
    assert not torch.equal(last.model.head.weight, live["head.weight"])
    assert torch.equal(last.model.body[1].running_mean, live["body.1.running_mean"])
    assert all(torch.equal(last.state["live"][name], tensor) for name, tensor in live.items())
    quality = evaluate(last.model, data.eval_loader("val", 4), CLASSES, device=CPU)
    assert quality.miou == result.history[-1]["val_miou"]


def test_validation_every_other_epoch_and_at_the_end(tmp_path):
    result = train(tmp_path, new_network(), ToyData(), epochs=5, eval_every=2)
    assert [row["epoch"] for row in result.history if "val_miou" in row] == [2, 4, 5]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(lines) == 6
    assert lines[1].split(",")[3] == "" and lines[2].split(",")[3] != ""


@pytest.mark.parametrize(("patience", "epochs"), [(None, 5), (9, 5), (2, 4), (1, 3)])
def test_patience_ends_a_training_that_gets_no_better(tmp_path, monkeypatch, patience, epochs):
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.3])
    monkeypatch.setattr(
        "bench.train_eval.evaluate", lambda *_, **__: SimpleNamespace(miou=next(scores), pixel_accuracy=0.5)
    )
    options = TrainOptions(epochs=5, batch_size=12)
    result = fit(new_network(), ToyData(), options, 0, tmp_path, device=CPU, patience=patience)
    assert (result.epochs, result.best_epoch) == (epochs, 2)


class Behind(nn.Module):
    """A network that sees the images through a frozen convolution."""

    def __init__(self, frozen, network):
        super().__init__()
        self.frozen, self.network = frozen.requires_grad_(False), network

    def forward(self, images):
        return self.network(self.frozen(images))


def test_a_network_learns_behind_one_that_stays_as_it_is(tmp_path):
    frozen, saved, whole = nn.Conv2d(3, 3, 1), new_network(), new_network()
    before = frozen.weight.clone()
    options = TrainOptions(epochs=2, batch_size=4, lr=0.1, ema=0.5)
    best = fit(saved, ToyData(), options, 0, tmp_path, device=CPU, around=lambda network: Behind(frozen, network)).best
    seen = ToyData()
    seen.train, seen.val = ((frozen(images).detach(), labels) for images, labels in (seen.train, seen.val))
    alone = fit(whole, seen, options, 0, tmp_path / "alone", device=CPU).best
    assert torch.equal(frozen.weight, before)
    one, other = (load_model(path).model.state_dict() for path in (best, alone))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name])


def test_knowledge_of_the_network_is_kept(tmp_path):
    saved = new_network()
    saved.meta = {"method": "l1", "epoch": 99}
    train(tmp_path, saved, ToyData())
    meta = load_model(tmp_path / "last.pt").meta
    assert meta["method"] == "l1" and meta["epoch"] == 2


def test_bfloat16_trains_on_cpu(tmp_path):
    saved = new_network()
    result = train(tmp_path, saved, ToyData(), amp="bf16", channels_last=True, ema=0.5)
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert saved.model.head.weight.dtype == torch.float32
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    strides = {name: tensor.stride() for name, tensor in new_network().model.state_dict().items()}
    for tensors in (best["state_dict"], last["state_dict"], last["state"]["live"]):
        assert {name: tensor.stride() for name, tensor in tensors.items()} == strides


def test_networks_of_any_format_are_scored_in_one():
    """Strides of the network, and those of images that are stored channels last, change nothing."""
    data, seen = ToyData(), []
    images, labels = data.val
    loader = [(images.to(memory_format=torch.channels_last), labels)]
    for channels_last in (False, True):
        model = new_network().model
        model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        model.register_forward_pre_hook(
            lambda network, inputs: seen.append([inputs[0].stride(), *(w.stride() for w in network.parameters())])
        )
        evaluate(model, loader, CLASSES, device=CPU)
    assert seen[0] == seen[1] and seen[0][0] == torch.empty(images.shape).stride()


def test_float16_needs_a_gpu(tmp_path):
    with pytest.raises(UsageError, match="`amp=bf16`"):
        train(tmp_path, new_network(), ToyData(), amp="fp16")
    assert not list(tmp_path.iterdir())


def test_nan_stops_before_anything_is_saved(tmp_path):
    data = ToyData()
    images = data.train[0]
    before = {}

    def poison(epoch, batch):
        if (epoch, batch) == (1, 2):
            before.update({path.name: path.read_bytes() for path in tmp_path.iterdir()})
            images.fill_(float("nan"))

    data.watch = poison
    with pytest.raises(BenchError, match=r"^the loss is nan in epoch 2 by iteration 3 \(learning rate .*`lr`") as error:
        train(tmp_path, new_network(), data, epochs=3)
    assert "\n" not in str(error.value)
    assert set(before) == {"best.pt", "last.pt", "metrics.csv"}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_weights_that_overflow_in_the_last_step_are_not_saved(tmp_path):
    data = ToyData()
    with pytest.raises(BenchError, match="a weight is not finite after epoch 1"):
        train(tmp_path, new_network(norm=False), data, batch_size=12, lr=3e38, weight_decay=1e3, epochs=1)
    assert load_model(tmp_path / "last.pt").state["epoch"] == 0


def test_batch_of_one_under_global_pooling_says_what_to_do(tmp_path):
    saved = new_network()
    saved.model.body.append(nn.AdaptiveAvgPool2d(1))
    saved.model.body.append(nn.BatchNorm2d(8))
    with pytest.raises(BenchError, match="raise `batch_size` to at least 2"):
        train(tmp_path, saved, ToyData(), batch_size=1)


def test_missing_tensorboard_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(BenchError, match="pip install tensorboard"):
        train(tmp_path, new_network(), ToyData(), tensorboard=True)


def test_tensorboard_logs(tmp_path):
    pytest.importorskip("tensorboard")
    train(tmp_path, new_network(), ToyData(), tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events.*"))


# ---- memory -------------------------------------------------------------------------------------------


class LittleMemory(ToyData):
    """Toy images of which a few fit into memory at once, from some moment on."""

    def __init__(self, most, since, images=10):
        # The same pixels count in each image, so that means over batches of any size are the same.
        super().__init__(images, void=False, watch=self.look)
        self.most, self.since, self.sizes = most, since, []

    def train_loader(self, batch_size, **shard):
        self.sizes.append(batch_size)
        return super().train_loader(batch_size, **shard)

    def look(self, epoch, batch):
        if (epoch, batch) >= self.since and self.sizes[-1] > self.most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1073741824 bytes")


@pytest.mark.parametrize("images", [12, 10])
def test_where_memory_runs_out_smaller_batches_make_the_same_steps(tmp_path, capsys, images):
    whole, small = ToyData(images, void=False), LittleMemory(1, (1, 1), images)
    kwargs = {"epochs": 3, "batch_size": 4}
    saved = [new_network(norm=False) for _ in range(2)]
    results = [train(tmp_path / str(i), saved[i], data, **kwargs) for i, data in enumerate((whole, small))]
    assert small.sizes == [4, 2, 1]
    out = capsys.readouterr().out
    assert "out of memory in training (1.00 GiB more wanted): going on after epoch 1 with batches of 2, 2 a step" in out
    assert "going on after epoch 1 with batches of 1, 4 a step" in out
    for one, other in zip(saved[0].model.parameters(), saved[1].model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert [row.get("batch_size") for row in results[1].history] == [None, 1, 1]
    assert [row["lr"] for row in results[0].history] == [row["lr"] for row in results[1].history]


def test_where_one_image_is_too_large_training_ends(tmp_path):
    with pytest.raises(BenchError, match=r"^out of memory in training .*use a smaller"):
        train(tmp_path, new_network(norm=False), LittleMemory(0, (0, 0)))
