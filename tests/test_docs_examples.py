"""The examples of docs/ that are programs: they are run as they are written."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from option_groups import SCRIPTS
from own_images import colour_set
from PIL import Image
from scripts import ROOT, run_script

import bench
from bench import datasets, models
from bench.commands import scan
from bench.datasets.classes_file import read_description
from bench.datasets.description import Description
from bench.models.checkpoint import SavedModel, save_model

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
FILE = re.compile(r"`(bench/\S+\.py)`\n\n```python\n(.*?)```", re.DOTALL)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def followed(name: str, package: ModuleType, registry: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Adds the module and the entry of a page to a package, for the time of a test."""
    ((path, text),) = FILE.findall(page(name))
    module = path.removesuffix(".py").replace("/", ".")
    (folder / Path(path).name).write_text(text, encoding="utf-8")
    patch.setattr(package, "__path__", [*package.__path__, str(folder)])
    # So that it is forgotten when the test ends.
    patch.setitem(sys.modules, module, package)
    del sys.modules[module]
    importlib.import_module(module)
    (entry,) = [block for block in BLOCK.findall(page(name)) if re.match('"[^"]', block)]
    assert f"`{registry}`" in page(name)
    for key, value in eval("{" + entry + "}", vars(package)).items():
        patch.setitem(getattr(package, registry), key, value)


def test_a_network_of_ones_own_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    followed("network.md", models, "MODELS", tmp_path, monkeypatch)
    spec = models.ModelSpec("tiny", 12)
    save_model(tmp_path / "dense.pt", SavedModel(models.build_model(spec), spec, meta={"input_size": [24, 32]}))
    listed = run_script("prune.py", "--list-models")
    assert "two convolutions and a head" in listed.out
    shown = run_script("prune.py", "--list-groups", "--ckpt", tmp_path / "dense.pt", "--dataset", "camvid")
    assert (shown.code, shown.err) == (0, "") and "48 channels of 2 may be pruned" in shown.out
    batches = [(torch.randn(2, 3, 24, 32), torch.randint(12, (2, 24, 32)))]
    pruned = bench.prune(bench.load(tmp_path / "dense.pt"), batches, method="taylor", target={"channels": 0.5})
    save_model(tmp_path / "pruned.pt", SavedModel(pruned.model, spec, pruned.plan.kept))
    assert bench.load(tmp_path / "pruned.pt")(batches[0][0]).shape == (2, 12, 24, 32)


def test_a_data_set_of_ones_own_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    followed("data.md", datasets, "DATASETS", tmp_path, monkeypatch)
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("images", "labels"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
        for number in range(2):
            label = (rng.random((24, 32)) < 0.5).astype(np.uint8)
            label[0] = 255
            image = np.stack([label * 200] * 3, axis=2)
            Image.fromarray(image).save(tmp_path / "pets" / split / "images" / f"{number}.jpg")
            Image.fromarray(label).save(tmp_path / "pets" / split / "labels" / f"{number}.png")
    data = ["--dataset", "pets", "--data-root", tmp_path / "pets", "--num-workers", 0, "--input-size", "24,32"]
    words = ["--model", "unet_small", "--epochs", 1, "--batch-size", 2, "--save", tmp_path / "run"]
    done = run_script("train.py", *data, *words)
    assert (done.code, done.err) == (0, "")
    assert bench.load(tmp_path / "run" / "best.pt").classes == ("background", "pet")
    # What is wrong is named.
    Image.fromarray(np.full((24, 32), 7, np.uint8)).save(tmp_path / "pets" / "test" / "labels" / "1.png")
    done = run_script("eval.py", *data, "--baseline", tmp_path / "run" / "best.pt", "--report", tmp_path / "r.json")
    assert done.code == 1 and "1.png holds id 7; ids are 0, 1 and 255" in done.err


def test_images_of_ones_own_in_five_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    colour_set(tmp_path / "datasets" / "mine")
    text = section(page("data.md"), "Your images in five minutes")
    lines = re.search(r"```\n(.*?)```", text, re.DOTALL)[1].replace("\\\n", " ").splitlines()
    first, *commands = [shlex.split(line)[1:] for line in lines]
    assert first[:2] == ["-m", "bench.datasets.scan"]
    scan.main(first[2:])
    # Shorter, and without what the clock says; of flags that come twice the last counts.
    short = {"train.py": ["--epochs", 1, "--batch-size", 2], "finetune_batch.py": ["--finetune-epochs", 1]}
    for script, *words in commands:
        untimed = [] if script == "train.py" else ["--no-latency"]
        done = run_script(script, *words, *short.get(script, []), *untimed, "--num-workers", 0)
        assert (done.code, done.err) == (0, ""), done.out
    assert {command[0] for command in commands} == set(SCRIPTS)
    assert (tmp_path / "runs" / "mine_eval" / "report.json").is_file()


def test_the_description_that_is_shown_can_be_read(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", page("data.md"), re.DOTALL)[1]
    (tmp_path / "classes.yaml").write_text(block, encoding="utf-8")
    found = read_description(tmp_path / "classes.yaml")
    assert found.meanings == {0: 255, 255: 255, 7: 0, 26: 1, 27: 1}
    # What is called a default is one.
    usual = Description("", (), ())
    assert (found.shares, found.normalization, found.augmentation) == (
        usual.shares,
        usual.normalization,
        usual.augmentation,
    )


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shallow_baseline: Path) -> Path:
    """The folder the examples are run in, with the files they name."""
    saved = bench.load_model(shallow_baseline)
    saved.meta["classes"] = datasets.dataset_class("camvid").classes.names
    (tmp_path / "runs" / "taylor_pruned").mkdir(parents=True)
    save_model(tmp_path / "runs" / "taylor_pruned" / "pruned_model.pt", saved)
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "street.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_first_lines_of_python(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = section((ROOT / "README.md").read_text(encoding="utf-8"), "In five lines of Python")
    block = BLOCK.search(first)[1]
    assert block == BLOCK.search(section(page("python.md"), "Load a result and use it"))[1]
    assert len([line for line in block.splitlines() if line]) <= 5
    exec(block, {})
    assert capsys.readouterr().out.startswith("tensor(")


def test_a_result_is_exported(result: Path) -> None:
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="pip install -r requirements-export.txt")
    names: dict[str, object] = {}
    exec(BLOCK.search(section(page("python.md"), "Export it"))[1], names)
    images = torch.randn(1, 3, 50, 70)
    with torch.inference_mode():
        expected = names["saved"].model(images)
    assert torch.allclose(names["network"](images), expected, atol=1e-5)
    assert names["network"].facts.classes[3] == "road"


def test_pruning_step_by_step(shallow_baseline: Path) -> None:
    # The page counts costs at a size that would take long here.
    block = BLOCK.search(section(page("python.md"), "Step by step"))[1].replace("(360, 480)", "(48, 64)")
    model = bench.load(shallow_baseline)
    before = bench.measure_cost(model, (48, 64)).macs
    batches = [(torch.randn(2, 3, 48, 64), torch.randint(12, (2, 48, 64)))]
    exec(block, {"model": model, "batches": batches, "device": torch.device("cpu")})
    assert bench.measure_cost(model, (48, 64)).macs == pytest.approx(before / 2, rel=0.05)
