"""What can be wrong with an export: one line, a status that is not zero, nothing half-written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.errors import BenchError, DamagedFile
from bench.export.facts import facts_of
from bench.export.onnx_file import OnnxNetwork, write_onnx
from bench.export.program import exported
from bench.models import ModelSpec
from bench.models.checkpoint import SavedModel, load_model, save_model

pytest.importorskip("safetensors", reason="pip install -r requirements-export.txt")

COMMAND = "bench.commands.export"


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--format", "tflite"], 2, "'tflite' is no format; write some of onnx"),
        (["--format", "onnx", "--opset", 9], 2, "from 18 to 23"),
        ([], 2, "--format is missing"),
        (["--format", "safetensors", "--ckpt", "nothing.pt"], 1, "nothing.pt does not exist"),
        (["--format", "safetensors", "--save", "file/there"], 1, "cannot write to"),
    ],
)
def test_a_wrong_request_is_one_line(shallow_baseline, tmp_path, monkeypatch, call, flags, code, says) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    found = call(COMMAND, "--ckpt", shallow_baseline, "--save", "out", *flags)
    assert (found.code, found.err.count("\n")) == (code, 1), found.err
    assert says in found.err and "Traceback" not in found.err
    assert not Path("out").exists()


def test_a_package_that_is_missing_is_named(shallow_baseline, tmp_path, monkeypatch, call) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    found = call(COMMAND, "--ckpt", shallow_baseline, "--save", tmp_path / "out", "--format", "onnx")
    assert found.code == 1 and found.err.count("\n") == 1
    assert "needs the package onnxscript" in found.err and "requirements-export.txt" in found.err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def whole(shallow_baseline: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "network.safetensors"
    save_model(path, load_model(shallow_baseline))
    return path.read_bytes()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda content: content[:-100], "is damaged or no .safetensors file"),
        (lambda content: content[:20], "is damaged or no .safetensors file"),
        (lambda content: b"no tensors", "is damaged or no .safetensors file"),
        (lambda content: content.replace(b"bench/1", b"bench/9", 1), "has format 'segmentation-pruning-bench/9'"),
        (lambda content: content.replace(b'"channels":"{}"', b'"channels":"{["'[:15], 1), "no JSON"),
        (lambda content: content.replace(b"unet_small", b"unet_grand", 1), "unet_grand"),
        (lambda content: content.replace(b"downs.0.conv.0", b"downs.0.conv.7", 1), "downs.0.conv.0.weight is missing"),
    ],
)
def test_a_damaged_foreign_or_newer_safetensors_file(whole, tmp_path, call, spoil, says) -> None:
    path = tmp_path / "network.safetensors"
    path.write_bytes(spoil(whole))
    found = call(COMMAND, "--ckpt", path, "--save", tmp_path / "out", "--format", "safetensors")
    assert found.code in (1, 2) and found.err.count("\n") == 1, found.err
    assert says in found.err
    assert not (tmp_path / "out").exists()


def test_what_is_no_onnx_file_of_a_segmentation_network(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    with pytest.raises(BenchError, match="does not exist"):
        OnnxNetwork(tmp_path / "nothing.onnx")
    path = tmp_path / "x.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(DamagedFile, match="cannot be opened by onnxruntime"):
        OnnxNetwork(path)

    def write(shape: list, opset: int, **told: str) -> None:
        given, made = (onnx.helper.make_tensor_value_info(name, 1, shape) for name in ("images", "logits"))
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["images"], ["logits"])], "g", [given], [made])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
        onnx.helper.set_model_props(model, told)
        path.write_bytes(model.SerializeToString())

    write(["n", 3], 18)
    with pytest.raises(DamagedFile, match="no segmentation network"):
        OnnxNetwork(path)
    write([1, 3, 4, 4], 999)
    with pytest.raises(DamagedFile, match="cannot be opened by onnxruntime"):
        OnnxNetwork(path)
    write([1, 3, 4, 4], 18, **{"segmentation-pruning-bench": '{"format": "segmentation-pruning-bench-export/7"}'})
    with pytest.raises(DamagedFile, match="export/7'; this version reads"):
        OnnxNetwork(path)
    # That of somebody else runs, and says nothing of classes.
    write([1, 3, 4, 4], 18)
    network = OnnxNetwork(path)
    assert network.facts is None and network.input_size == (4, 4)
    assert torch.equal(network(-torch.ones(1, 3, 4, 4)), torch.zeros(1, 3, 4, 4))


class _Unknown(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(images)


def test_an_operator_that_onnx_lacks_is_named(tmp_path) -> None:
    pytest.importorskip("onnxscript")
    saved = SavedModel(_Unknown(), ModelSpec("unet_small", 3), meta={"input_size": [24, 32]})
    facts = facts_of(saved, "x")
    with pytest.raises(BenchError, match=r"unet_small cannot be exported to ONNX: .*bessel_j0") as told:
        write_onnx(tmp_path / "x.onnx", exported(saved.model, facts.input_size, fixed=True), facts)
    assert "\n" not in str(told.value) and list(tmp_path.iterdir()) == []


class _Chooses(nn.Module):
    """Does something else where it sees something else, which no graph can hold."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * 2 if images.mean() > 0 else images


def test_a_network_that_cannot_be_followed_says_why() -> None:
    with pytest.raises(
        BenchError,
        match=r"_Chooses cannot be exported: .*data-dependent.* \(line \d+ of test_bad_export.py: return images",
    ) as told:
        exported(_Chooses(), (24, 32), fixed=True)
    assert "\n" not in str(told.value)
