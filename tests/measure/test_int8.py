"""Int8 networks: close to their float ones, the same from the file, smaller, and refused where they cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import toy_networks as toys
from records import faults
from torch import Tensor, nn

from bench.channels.groups import find_groups
from bench.errors import BenchError
from bench.measure.int8 import load_int8, quantized, save_int8
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, load_model, save_model

IMAGES = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(4))
BATCHES = [(IMAGES, torch.zeros(2, 48, 64, dtype=torch.int64))]


def network(name: str, *, narrowed: bool = False) -> SavedModel:
    torch.manual_seed(0)
    spec = ModelSpec(name, 12)
    model = toys.settled(build_model(spec))
    if not narrowed:
        return SavedModel(model, spec)
    groups = find_groups(model)
    plan = toys.random_plan(groups)
    return SavedModel(toys.cut_copy(model, groups, plan), spec, plan.kept)


@torch.inference_mode()
def logits_of(model: nn.Module, images: Tensor = IMAGES) -> Tensor:
    return model(images)


@pytest.mark.parametrize(
    ("name", "narrowed", "error"), [("unet_small", False, 0.06), ("unet_small", True, 0.1), ("resnet18_seg", True, 0.1)]
)
def test_an_int8_network_is_close_and_the_same_from_its_file(
    tmp_path: Path, name: str, narrowed: bool, error: float
) -> None:
    saved = network(name, narrowed=narrowed)
    before = {key: tensor.clone() for key, tensor in saved.model.state_dict().items()}
    int8 = quantized(saved.model, BATCHES)
    exact, rough = logits_of(saved.model), logits_of(int8)
    assert 0 < (rough - exact).abs().mean() < error * exact.abs().mean()
    assert all(torch.equal(tensor, before[key]) for key, tensor in saved.model.state_dict().items())
    kinds = [type(layer).__module__ for layer in int8.modules()]
    assert sum("quantized" in kind for kind in kinds) > 5

    save_model(tmp_path / "float.pt", saved)
    save_int8(tmp_path / "int8.pt", saved, int8)
    opened = load_int8(tmp_path / "int8.pt")
    assert torch.equal(logits_of(opened), rough)
    # Another size than it was observed at, and one that pooling does not divide.
    assert logits_of(opened, IMAGES[..., :45, :59]).shape == (2, 12, 45, 59)
    assert (tmp_path / "int8.pt").stat().st_size < 0.45 * (tmp_path / "float.pt").stat().st_size


def test_unpooling_networks_are_quantised() -> None:
    model = network("simple_segnet").model
    assert logits_of(quantized(model, BATCHES)).shape == (2, 12, 48, 64)


def test_a_network_that_cannot_be_followed_is_refused() -> None:
    class Branching(toys.Chain):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images if images.sum() > 0 else -images)

    with pytest.raises(BenchError, match=r"Branching cannot be quantised: torch.fx cannot follow it \(.*\)") as caught:
        quantized(Branching(), BATCHES)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path, tiny_baseline: Path) -> None:
    with pytest.raises(BenchError, match="no int8 network"):
        load_int8(tiny_baseline)
    saved = network("unet_small")
    save_int8(tmp_path / "int8.pt", saved, quantized(saved.model, BATCHES))
    with pytest.raises(BenchError, match="format 'segmentation-pruning-bench-int8/1'"):
        load_model(tmp_path / "int8.pt")
    content = torch.load(tmp_path / "int8.pt", weights_only=True)
    content["state_dict"].pop("final_conv.weight")
    torch.save(content, tmp_path / "int8.pt")
    with pytest.raises(BenchError, match="quantise it again"):
        load_int8(tmp_path / "int8.pt")


def test_eval_quantises_the_candidate(call, tiny_camvid: Path, tiny_baseline: Path, tmp_path: Path) -> None:
    ended = call(
        "eval.py", "--dataset", "camvid", "--data-root", tiny_camvid, "--num-workers", 0, "--threads", 1,
        "--baseline", tiny_baseline, "--candidate", tiny_baseline, "--report", tmp_path / "out" / "report.json",
        "--int8", "--int8-images", 4, "--latency-warmup", 0, "--latency-runs", 10, "--latency-batch", 2, "--per-layer",
    )  # fmt: skip
    assert ended.code == 0
    report, float_report = (
        json.loads((tmp_path / "out" / name).read_text()) for name in ("int8_report.json", "report.json")
    )
    assert faults(report) == []
    before, after = report["float32"], report["int8"]
    assert before == float_report["candidate"]
    assert report["change"]["miou_points"] == pytest.approx(
        100 * (after["quality"]["miou"] - before["quality"]["miou"])
    )
    assert after["bytes_on_disk"] == (tmp_path / "out" / "int8_model.pt").stat().st_size < before["bytes_on_disk"]
    assert report["calibration"] == {"images": 4, "seed": 0}
    for measured, batch in ((report["latency"], 1), (report["latency"]["throughput"], 2)):
        timed = measured["networks"]
        assert measured["batch"] == batch
        assert (timed["float32"]["precision"], timed["int8"]["precision"]) == ("float32", "int8")
        assert timed["int8"]["speedup"] > 0
    layers = float_report["layers"]
    assert sum(row["macs_before"] for row in layers) == float_report["baseline"]["cost"]["macs"]
    assert all(row["ms_after"] > 0 and row["weight_after"] == row["weight_before"] for row in layers)
    assert "all of them" in ended.out and "images/s, 2 at once" in ended.out and ", 1 CPU thread, " in ended.out
    assert f"int8: mIoU {before['quality']['miou']:.2%} -> {after['quality']['miou']:.2%}" in ended.out


def test_int8_has_one_mode(call, tiny_baseline: Path, tmp_path: Path) -> None:
    files = ["--baseline", tiny_baseline, "--candidate", tiny_baseline, "--report", tmp_path / "report.json"]
    ended = call("eval.py", *files, "--int8", "--latency-amp", "bf16")
    assert ended.code != 0
    assert "--int8 times networks in their own precision; leave --latency-amp out" in ended.err


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (nn.PReLU(8), "PReLU 1 cannot be quantised: torch misreads its slopes"),
        (nn.PReLU(), "PReLU 1 cannot be quantised"),
        (nn.InstanceNorm2d(8, track_running_stats=True), "InstanceNorm2d 1 cannot be quantised: .* running statistics"),
        (nn.InstanceNorm2d(8, affine=True), None),
        (nn.LeakyReLU(0.2), None),
    ],
)
def test_what_torch_would_make_something_else_of_is_refused_by_name(layer: nn.Module, says: str | None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), layer, nn.Conv2d(8, 4, 1)).eval()
    if says:
        with pytest.raises(BenchError, match=says):
            quantized(model, BATCHES)
        return
    exact, rough = logits_of(model), logits_of(quantized(model, BATCHES))
    assert (rough - exact).abs().mean() < 0.1 * exact.abs().mean()
