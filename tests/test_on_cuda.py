"""What only a GPU shows: kernels, precisions, nccl. `python -m tests.device_day` runs these where one is there briefly.

    CUDA_TESTS_ON=cpu python -m pytest -m cuda -n 0 tests/test_on_cuda.py

tries the tests themselves out where there is none.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from toy_networks import settled
from toy_training import CLASSES, TOY, ToyData, new_network

import bench
from bench.channels.groups import find_groups, prunable
from bench.measure.evaluation import evaluate
from bench.measure.latency import Effort, time_networks
from bench.measure.latency_mode import LatencyMode
from bench.models import MODELS, ModelSpec, build_model
from bench.oracle.ablation import Ablation
from bench.pruners import methods
from bench.system import processes
from bench.system.devices import set_up
from bench.system.options import RunOptions
from bench.train_eval import fit
from bench.training.options import TrainOptions

pytestmark = pytest.mark.cuda
DEVICE, CPU = torch.device(os.environ.get("CUDA_TESTS_ON", "cuda")), torch.device("cpu")
SIZE, VOID = (32, 48), 11
# Methods that train first, so briefly that it takes no time.
BRIEF = {"slimming": {"sparse_epochs": 0}, "dmcp": {"steps": 2}}
OF_WEIGHTS = ("l1", "l2", "l1_global", "fpgm")


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "toy", TOY)
    set_up(RunOptions(device=str(DEVICE)))
    yield
    torch.use_deterministic_algorithms(False)


def small(device: torch.device = DEVICE) -> torch.nn.Module:
    torch.manual_seed(0)
    return settled(build_model(ModelSpec("unet_small", 12, {"width": 8, "depth": 1}))).to(device)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, *SIZE, generator=generator)
    return list(zip(images.split(2), torch.randint(0, VOID, (4, *SIZE), generator=generator).split(2), strict=True))


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
def test_training_learns_in_each_precision(amp: str, tmp_path: Path) -> None:
    if amp == "fp16" and DEVICE.type == "cpu":
        pytest.skip("fp16 needs a GPU")
    recipe = TrainOptions(epochs=4, batch_size=4, lr=0.1, amp=amp, channels_last=amp != "none")
    result = fit(new_network(), ToyData(24), recipe, 0, tmp_path, device=DEVICE)
    losses = [row["train_loss"] for row in result.history]
    assert losses[-1] < 0.9 * losses[0]
    assert {tensor.dtype for tensor in bench.load_model(result.best).model.parameters()} == {torch.float32}


def test_deterministic_kernels_give_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = set_up(RunOptions(device=str(DEVICE), deterministic=True))
    found = []
    for name in ("one", "other"):
        recipe = TrainOptions(epochs=2, batch_size=4, lr=0.1)
        result = fit(new_network(), ToyData(24), recipe, 0, tmp_path / name, device=device)
        found.append(bench.load_model(result.best).model.state_dict())
    one, other = found
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_scores_of_a_network_are_those_on_a_cpu() -> None:
    loader = [(images, labels % len(CLASSES.names)) for images, labels in batches()]
    torch.manual_seed(0)
    model = settled(build_model(ModelSpec("unet_small", CLASSES.outputs, {"width": 8, "depth": 1})))
    expected = evaluate(model, loader, CLASSES, device=CPU).miou
    assert evaluate(model.to(DEVICE), loader, CLASSES, device=DEVICE).miou == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("method", sorted(set(methods()) - {"magnitude"}))
def test_pruning_by_each_method(method: str) -> None:
    settings = {"method": method, "target": {"macs": 0.5}, "options": BRIEF.get(method), "ignore_index": VOID}
    pruned = bench.prune(small(), batches(), **settings)
    assert pruned.after.macs <= 0.52 * pruned.before.macs
    with torch.inference_mode():
        logits = pruned.model(batches()[0][0].to(DEVICE))
    assert logits.device.type == DEVICE.type and torch.isfinite(logits).all()
    if method in OF_WEIGHTS:
        assert bench.prune(small(CPU), batches(), **settings).plan.kept == pruned.plan.kept


def test_repair_comes_closer_to_the_dense_network() -> None:
    images, errors = batches()[1][0].to(DEVICE), {}
    for repair in ("none", "least-squares"):
        pruned = bench.prune(small(), batches(), target={"macs": 0.6}, repair=repair, ignore_index=VOID)
        with torch.inference_mode():
            errors[repair] = float((pruned.model(images) - small()(images)).square().mean())
    assert errors["least-squares"] < errors["none"]


def test_losses_of_the_oracle_are_those_on_a_cpu(tmp_path: Path) -> None:
    found = []
    for device in (CPU, DEVICE):
        model = small(device)
        ablation = Ablation(model, batches(), ignore_index=VOID, device=device, path=tmp_path / f"{len(found)}.json",
                            identity="a test")  # fmt: skip
        removals = [(group, (channel,)) for group in prunable(find_groups(model)) for channel in (0, 1)]
        found.append(ablation.losses(removals))
    assert torch.allclose(*found, rtol=1e-4)


def test_a_compiled_network_is_timed() -> None:
    networks = {"one": small(), "other": small()}
    mode = LatencyMode(compiled=True, channels_last=True)
    report = time_networks(networks, SIZE, device=DEVICE, mode=mode, effort=Effort(3, 10, 5.0))
    assert report.mode.compiled and report.networks["other"].speedup > 0
    images = batches()[0][0].to(DEVICE)
    with torch.inference_mode():
        eager, compiled = networks["one"](images), torch.compile(networks["one"], dynamic=False)(images)
    assert torch.allclose(eager, compiled, rtol=1e-2, atol=1e-2 * float(eager.abs().max()))


def test_gradients_pass_through_the_group_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """nccl, shared batch statistics and DistributedDataParallel, in a group of one, change no gradient."""
    images, labels = (part.to(DEVICE) for part in batches()[0])

    def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        return {name.removeprefix("module."): weight.grad for name, weight in model.named_parameters()}

    alone = gradients(small().train())
    backend = "nccl" if DEVICE.type == "cuda" else "gloo"
    if DEVICE.type == "cuda":
        torch.cuda.set_device(0)
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        monkeypatch.setattr(processes, "world", lambda: processes.World(0, 2))
        own = torch.device("cuda", 0) if DEVICE.type == "cuda" else DEVICE
        wrapped = processes.wrapped(small().train(), own)
        assert isinstance(wrapped, torch.nn.parallel.DistributedDataParallel)
        together = gradients(wrapped)
        assert processes.sum_over_processes(torch.ones(2, device=DEVICE)).tolist() == [1, 1]
    finally:
        dist.destroy_process_group()
    assert alone.keys() == together.keys()
    for name, gradient in alone.items():
        assert torch.allclose(gradient, together[name], rtol=1e-2, atol=1e-3 * float(gradient.abs().max())), name


def test_train_py_under_torchrun(tiny_camvid: Path, tmp_path: Path, project_root: Path) -> None:
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", "train.py", "--dataset=camvid"]
    words += [f"--data-root={tiny_camvid}", "--model=unet_small", "--input-size=32,48", "--epochs=1", "--batch-size=4"]
    words += ["--num-workers=0", f"--device={DEVICE}", "--amp=bf16", f"--save={tmp_path / 'run'}"]
    done = subprocess.run([sys.executable, *words], cwd=project_root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-1000:]
    assert (tmp_path / "run" / "best.pt").is_file()
