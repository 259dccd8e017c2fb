"""Exported files: the numbers of their networks, in programs that know nothing of this project."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from records import faults
from scripts import ROOT, Outcome

import bench
from bench.errors import BenchError
from bench.export.facts import facts_of
from bench.export.folder import export
from bench.export.formats import FORMATS, Source
from bench.export.mirrored import mirror_padded
from bench.export.onnx_file import OnnxNetwork
from bench.export.parity import check_parity
from bench.export.program import exported
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.models.segnet import SegNet

onnx, *_ = (
    pytest.importorskip(package, reason="pip install -r requirements-export.txt")
    for package in ("onnx", "onnxscript", "onnxruntime", "safetensors")
)

NAMES = ("onnx", "torch-export", "torchscript", "safetensors")
META = {"dataset": "camvid", "input_size": [24, 32], "classes": ["sky", "building", "pole", "road"]}


class Exported(NamedTuple):
    """A pruned network, and the folder it was exported to."""

    checkpoint: Path
    folder: Path
    out: Outcome


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory, runner: Callable[..., Outcome]) -> Exported:
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    spec = ModelSpec("unet_small", 5, {"width": 8, "depth": 1})
    batches = [(torch.randn(2, 3, 24, 32), torch.zeros(2, 24, 32, dtype=torch.int64))]
    cut = bench.prune(build_model(spec), batches, method="l1", target={"channels": 0.5})
    # Of a network that says something: what it begins with lets every class be alike.
    torch.nn.init.normal_(cut.model.final_conv.weight)
    save_model(folder / "pruned.pt", SavedModel(cut.model, spec, cut.plan.kept, META))
    flags = ("--ckpt", folder / "pruned.pt", "--format", ",".join(NAMES), "--save", folder / "out", "--latency")
    out = runner("bench.commands.export", *flags, "--latency-runs", 1, "--latency-warmup", 1)
    assert (out.code, out.err) == (0, "")
    return Exported(folder / "pruned.pt", folder / "out", out)


@pytest.fixture(scope="module")
def runner() -> Callable[..., Outcome]:
    from scripts import run_script

    return run_script


def test_the_record_says_how_near_each_file_is(pruned: Exported) -> None:
    record = json.loads((pruned.folder / "export.json").read_text())
    assert faults(record) == []
    assert list(record["files"]) == list(NAMES) and record["opset"] == 20
    for name, found in record["files"].items():
        assert found["largest_difference"] < 1e-4 < found["largest_logit"]
        assert found["sizes"] == [[24, 32]] + [[41, 41]] * (name != "torchscript")
        assert found["bytes_on_disk"] == (pruned.folder / found["files"][0]).stat().st_size
    assert record["latency"]["rounds"] == 10
    assert list(record["latency"]["networks"]) == ["pytorch", *NAMES]
    assert "network.onnx, opset 20" in pruned.out.out and "by turns" in pruned.out.out


# Told in a process whose path has no `bench`: the snippets of the README, then raw files at another size.
_ALONE = """
import importlib.util, re, sys
import numpy as np
for text in re.findall(r"```python\\n(.*?)```", open("README.md").read(), re.DOTALL):
    names = {}
    exec(text, names)
    if "ids" in names:
        np.save(re.search(r"import (\\w+)\\nfrom PIL", text)[1] + "_ids.npy", names["ids"])
    else:
        assert names["tensors"] and '"unet_small"' in names["header"]["model"]
import onnxruntime, torch
images = np.load("images.npy")
np.save("onnx.npy", onnxruntime.InferenceSession("network.onnx").run(None, {"images": images})[0])
np.save("pt2.npy", torch.export.load("network.pt2").module()(torch.from_numpy(images)).detach().numpy())
assert importlib.util.find_spec("bench") is None and not any(name.startswith("bench") for name in sys.modules)
"""


def test_files_run_where_this_project_is_not(pruned: Exported) -> None:
    rng = np.random.default_rng(0)
    folder = pruned.folder
    Image.fromarray(rng.integers(256, size=(24, 32, 3), dtype=np.uint8)).save(folder / "street.png")
    images = rng.standard_normal((3, 3, 37, 50), dtype=np.float32)
    np.save(folder / "images.npy", images)
    # -P leaves the working folder out; what the tests import packages from may be needed.
    path = [entry for entry in sys.path if entry and not (Path(entry) / "bench").exists()]
    subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path[:] = {path}\n{_ALONE}"],
        cwd=folder,
        env={"PATH": "", "OMP_NUM_THREADS": "1"},
        check=True,
    )
    network = bench.load(pruned.checkpoint)
    expected = bench.predict(network, folder / "street.png").numpy()
    assert len(np.unique(expected)) > 1
    for library in ("onnxruntime", "torch"):
        assert np.array_equal(np.load(folder / f"{library}_ids.npy"), expected), library
    colours = np.array(Image.open(folder / "segmented.png"))
    assert tuple(colours[0, 0]) == facts_of(load_model(pruned.checkpoint), "x").colours[expected[0, 0]]
    with torch.inference_mode():
        logits = network(torch.from_numpy(images)).numpy()
    for name in ("onnx", "pt2"):
        assert np.abs(np.load(folder / f"{name}.npy") - logits).max() < 1e-5, name


def test_files_hold_no_pickle_and_nothing_of_this_machine(pruned: Exported) -> None:
    with zipfile.ZipFile(pruned.folder / "network.pt2") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    # What torch.export.load would unpickle.
    assert [name for name, content in contents.items() if b'"use_pickle": true' in content] == []
    assert [len(content) for name, content in contents.items() if name.endswith(".pt")] == [0]
    here = str(ROOT).encode()
    for name in ("network.pt2", "network.onnx", "network.safetensors"):
        assert here not in (pruned.folder / name).read_bytes(), name


def test_an_onnx_file_says_what_it_is_about(pruned: Exported) -> None:
    network = OnnxNetwork(pruned.folder / "network.onnx")
    assert network.facts == facts_of(load_model(pruned.checkpoint), pruned.checkpoint)
    assert network.facts.classes == tuple(META["classes"]) and len(network.facts.colours) == 5
    (images,), (logits,) = network.session.get_inputs(), network.session.get_outputs()
    assert images.shape == ["batch", 3, "height", "width"]
    assert logits.name == "logits" and logits.shape[:2] == ["batch", 5]
    assert network.input_size is None


def test_safetensors_are_opened_like_any_checkpoint(pruned: Exported, tmp_path: Path, call) -> None:
    path = pruned.folder / "network.safetensors"
    before, after = load_model(pruned.checkpoint), load_model(path)
    assert (after.spec, after.channels, after.meta) == (before.spec, before.channels, before.meta)
    assert after.channels
    state = after.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in before.model.state_dict().items())
    # By what is in it, whatever it is called; and without what this project adds, with the name of the network.
    (tmp_path / "network.bin").write_bytes(path.read_bytes())
    assert load_model(tmp_path / "network.bin").channels == before.channels
    from safetensors.torch import save_file

    dense = build_model(before.spec)
    save_file(dense.state_dict(), tmp_path / "foreign.safetensors")
    opened = load_model(tmp_path / "foreign.safetensors", name="unet_small", kwargs=before.spec.kwargs).model
    assert torch.equal(opened.final_conv.weight, dense.final_conv.weight)
    with pytest.raises(BenchError, match="state of training"):
        save_model(tmp_path / "last.safetensors", SavedModel(dense, before.spec, state={"epoch": 1}))
    # And by commands.
    found = call("prune.py", "--list-groups", "--ckpt", path, "--dataset", "camvid")
    assert (found.code, found.err) == (0, "") and "downs.0" in found.out


@pytest.mark.parametrize("fixed", [False, True])
def test_unpooling_is_exported_with_equal_numbers(tmp_path: Path, fixed: bool) -> None:
    network = SegNet(4, [(4, 6), (8,)], [(4,), (6,)], classifier_kernel=1).eval()
    saved = SavedModel(network, ModelSpec("segnet", 4), meta={"input_size": [23, 32]})
    source = Source(saved, facts_of(saved, "x"), fixed, opset=18 if fixed else 20)
    for name in ("onnx", "torchscript" if fixed else "torch-export"):
        path = tmp_path / FORMATS[name].file
        FORMATS[name].write(path, source)
        opened = FORMATS[name].open(path, source)
        found = check_parity(opened, network, source.facts, fixed=fixed, what=name)
        assert found["largest_difference"] < 1e-6 < found["largest_logit"]
    assert onnx.load(tmp_path / "network.onnx").opset_import[0].version == source.opset
    if fixed:
        assert OnnxNetwork(tmp_path / "network.onnx").input_size == (23, 32)
        with pytest.raises(BenchError, match="does not run on images"):
            OnnxNetwork(tmp_path / "network.onnx")(torch.zeros(1, 3, 24, 32))


def test_padding_for_open_sizes_gives_the_numbers_of_the_network() -> None:
    spec = ModelSpec("efficientnet_lite0_seg", 3)
    model, mirrored = (build_model(spec).eval() for _ in range(2))
    mirrored.load_state_dict(model.state_dict())
    mirror_padded(mirrored)
    for size in ((33, 50), (64, 47)):
        images = torch.randn(1, 3, *size)
        with torch.inference_mode():
            assert torch.allclose(mirrored(images), model(images), atol=1e-5)


class _Cancels(torch.nn.Module):
    """Loses the last digits of its input in single precision: up to a thousandth."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + 3e4 - 3e4


@pytest.mark.parametrize(
    ("file", "is_near"),
    [
        (lambda images: images, True),
        (lambda images: images * 1.1, False),
        (lambda images: images * torch.nan, False),
        (lambda images: images / 0, False),
        (lambda images: images[:, :1], False),
    ],
)
def test_no_file_is_held_to_digits_that_the_network_itself_loses(file: Callable, is_near: bool) -> None:
    network = _Cancels()
    facts = facts_of(SavedModel(network, ModelSpec("unet_small", 3), meta={"input_size": [23, 32]}), "x")
    if is_near:
        found = check_parity(file, network, facts, fixed=True, what="file")
        assert 5e-4 < found["largest_difference"] < 1e-2
    else:
        with pytest.raises(BenchError, match=r"file is not the network: .* a logit differs by"):
            check_parity(file, network, facts, fixed=True, what="file")


class _Means(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        from bench.torch_utils.open_sizes import means_of_parts

        return means_of_parts(images, 3)


def test_means_of_parts_of_a_size_left_open() -> None:
    program = exported(_Means(), (7, 11), fixed=False).module()
    for size in ((7, 11), (3, 4), (10, 29)):
        images = torch.randn(2, 3, *size)
        assert torch.allclose(program(images), torch.nn.functional.adaptive_avg_pool2d(images, 3), atol=1e-6), size


def test_a_file_that_is_not_the_network_is_not_written(pruned: Exported, tmp_path: Path, monkeypatch) -> None:
    saved = load_model(pruned.checkpoint)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "network.safetensors").write_text("of before")
    other = FORMATS["safetensors"]._replace(open=lambda path, source: lambda images: saved.model(images) + 2e-3)
    monkeypatch.setitem(FORMATS, "safetensors", other)
    with pytest.raises(BenchError, match=r"network\.safetensors is not the network: on 1 x 24x32 a logit differs"):
        export(pruned.checkpoint, saved, tmp_path / "out", ["safetensors"])
    # What was there stays.
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["of before"]
