"""Label maps by the file of a network: those that are scored, whatever images come from and how large they are."""

from __future__ import annotations

import csv
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import save
from PIL import Image
from scripts import Outcome, run_script
from toy_onnx import chain, facts_for, write_chain

import bench
from bench.commands import predict as command
from bench.datasets.base import IMAGENET, Classes
from bench.datasets.image_files import read_image
from bench.datasets.options import DataOptions
from bench.errors import BenchError, UsageError
from bench.jobs.evaluation import write_predictions
from bench.jobs.predicting.frames import ahead, sources_of
from bench.measure.baseline import Baseline
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, save_model
from bench.report.label_pictures import overlaid


def ids_of(path: Path) -> np.ndarray:
    image = Image.open(path)
    assert image.mode == "P"
    return np.array(image)


def predicted(*words: object) -> None:
    command.main([str(word) for word in words])


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder of three images, no two of one size, one of them grey."""
    rng = np.random.default_rng(0)
    for name, shape in (("b.png", (20, 36, 3)), ("a.JPG", (33, 17, 3)), ("c.png", (40, 40))):
        save(tmp_path / "scenes" / name, rng.integers(0, 255, shape, dtype=np.uint8))
    return tmp_path / "scenes"


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    """A file of a network with seven outputs that says nothing of its data."""
    spec = ModelSpec("unet_small", 7, {"width": 8, "depth": 1})
    save_model(tmp_path / "seven.pt", SavedModel(build_model(spec), spec))
    return tmp_path / "seven.pt"


def test_the_pixels_are_those_that_are_scored(tiny_camvid: Path, shallow_baseline: Path, tmp_path: Path) -> None:
    data = DataOptions("camvid", str(tiny_camvid), input_size=(24, 32), num_workers=0)
    scoring = ScoringOptions(flip=True, eval_batch_size=3)
    opened = Baseline(shallow_baseline, data, scoring, TimingOptions(latency=False), device=torch.device("cpu"))
    write_predictions(opened, None, tmp_path / "scored")
    flags = ["--input-size", "24,32", "--flip", "--eval-batch-size", 3, "--dataset", "camvid"]
    predicted("--ckpt", shallow_baseline, "--images", tiny_camvid / "test", "--save", tmp_path / "out", *flags)
    names = sorted(path.name for path in (tmp_path / "scored").iterdir())
    assert len(names) == 4
    for name in names:
        assert (tmp_path / "out" / "labels" / name).read_bytes() == (tmp_path / "scored" / name).read_bytes()
    # And the file says how often it chose which class, as the labels do.
    rows = list(csv.DictReader((tmp_path / "out" / "classes.csv").open()))
    found = np.bincount(np.concatenate([ids_of(tmp_path / "out" / "labels" / name).ravel() for name in names]))
    assert [int(row["pixels"]) for row in rows][: len(found)] == found.tolist() and len(rows) == 12
    assert (rows[3]["class"], rows[3]["red"], rows[11]["class"]) == ("road", "128", "not scored")


def test_images_of_any_size(scenes: Path, seven: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    predicted("--ckpt", seven, "--images", scenes, "--save", out)
    network = bench.load(seven)
    for name in ("a.JPG", "b.png", "c.png"):
        ids = ids_of((out / "labels" / name).with_suffix(".png"))
        image = read_image(scenes / name)
        assert ids.shape == image.shape[:2]
        assert np.array_equal(ids, bench.predict(network, image).numpy())
        assert Image.open((out / "overlays" / name).with_suffix(".jpg")).size == ids.shape[::-1]
    assert {path.name for path in out.iterdir()} == {"labels", "overlays", "contact_sheet.png", "classes.csv"}
    sheet = Image.open(out / "contact_sheet.png")
    # Two images a row, each beside its overlay, which is 300 pixels along its longer side.
    assert sheet.width == 12 + 4 * (300 + 12) and sheet.height > 2 * 300
    assert "3 images in" in capsys.readouterr().out


def test_an_overlay_is_half_of_each() -> None:
    two = Classes(("dark", "light"), ((0, 10, 20), (201, 250, 255)), outputs=3, ignore_index=2)
    image = np.array([[[100, 0, 255], [100, 0, 255], [7, 8, 9]]], np.uint8)
    # Halves are rounded up; what is no class stays as it is.
    expected = [[[50, 5, 138], [151, 125, 255], [7, 8, 9]]]
    assert overlaid(image, np.array([[0, 1, 2]]), two).tolist() == expected


@pytest.mark.parametrize(("ending", "mode"), [("gif", "P"), ("png", "RGB"), ("webp", "RGB")])
def test_the_pictures_of_an_animation(ending: str, mode: str, seven: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pictures = [Image.fromarray(rng.integers(0, 255, (16, 24, 3), dtype=np.uint8)) for _ in range(3)]
    clip = tmp_path / f"clip.{ending}"
    lossless = {"lossless": True} if ending == "webp" else {}
    pictures[0].save(clip, save_all=True, append_images=pictures[1:], duration=40, **lossless)
    assert Image.open(clip).mode == mode
    predicted("--ckpt", seven, "--images", clip, "--save", tmp_path / "out", "--eval-batch-size", 2)
    names = [f"clip_{number:06d}.png" for number in (1, 2, 3)]
    assert sorted(path.name for path in (tmp_path / "out" / "labels").iterdir()) == names
    network = bench.load(seven)
    for name, picture in zip(names, pictures, strict=True):
        found = ids_of(tmp_path / "out" / "labels" / name)
        # A GIF has 256 colours; the others keep every pixel.
        agreed = (found == bench.predict(network, np.array(picture)).numpy()).mean()
        assert agreed == 1 if ending != "gif" else agreed > 0.7


def test_what_cannot_be_read_is_told_and_left_out(scenes: Path, seven: Path, tmp_path: Path) -> None:
    (scenes / "b.png").write_bytes((scenes / "b.png").read_bytes()[:200])
    out = tmp_path / "out"
    ended = run_predict("--ckpt", seven, "--images", scenes, "--save", out)
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert "error: 1 of 3 files could not be read and are left out, the first: cannot read image" in line
    assert "b.png" in line and f"left out: cannot read image {scenes / 'b.png'}" in ended.out
    assert {path.name for path in (out / "labels").iterdir()} == {"a.png", "c.png"}
    assert (out / "contact_sheet.png").is_file()


def test_where_nothing_can_be_read_nothing_is_written(seven: Path, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no image")
    ended = run_predict("--ckpt", seven, "--images", tmp_path / "no.png", "--save", tmp_path / "out")
    assert ended.code == 1 and "it is no image of a known format" in ended.err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--images", "{scenes}/none.png"], 1, "there is no such folder or file, nor a file that fits it as a pattern"),
        (["--images", "{scenes}/empty"], 1, "expected files ending in .png"),
        (["--images", "{scenes}/clip.mp4"], 1, "make a folder of its frames (ffmpeg -i clip.mp4 frames/%06d.png)"),
        (["--images", "{scenes}/a.JPG", "{scenes}/a.png"], 1, "would both be called a; rename one"),
        (["--images", "{scenes}/c.png", "--save", "{scenes}/file"], 1, "choose another output folder"),
        (["--images", "{scenes}/labels/d.png", "--save", "{scenes}"], 1, "lies where results go"),
        (["--images", "{scenes}", "--classes-file", "{scenes}/eight.yaml"], 1, "7 outputs, fewer than the 8 classes"),
        (["--images", "{scenes}", "--dataset", "camvd"], 2, "unknown data set 'camvd'; did you mean camvid"),
        (["--images", "{scenes}", "--ckpt", "{scenes}/no.pt"], 1, "no.pt does not exist"),
        (["--save", "out"], 2, "--images is missing"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], code: int, says: str, scenes: Path, seven: Path, tmp_path: Path
) -> None:
    (scenes / "empty").mkdir()
    (scenes / "clip.mp4").write_bytes(b"film")
    (scenes / "file").write_text("")
    (scenes / "eight.yaml").write_text(f"classes: [{', '.join('abcdefgh')}]\n")
    Image.new("RGB", (8, 8)).save(scenes / "a.png")
    save(scenes / "labels" / "d.png", np.zeros((8, 8, 3), np.uint8))
    words = [word.format(scenes=scenes) for word in flags]
    if words[:2] == ["--images", f"{scenes}"]:
        (scenes / "a.png").unlink()
    ended = run_predict("--ckpt", seven, "--save", tmp_path / "out", *words)
    (line,) = ended.err.splitlines()
    assert (ended.code, says in line) == (code, True), line
    assert not (tmp_path / "out").exists()


def test_places_are_folders_files_and_patterns(scenes: Path) -> None:
    for inner in ("x", "y"):
        shutil.copytree(scenes, scenes / inner, ignore=shutil.ignore_patterns("x", "y"))
    assert [source.name for source in sources_of([str(scenes)])] == ["a", "b", "c"]
    # One of them named twice is predicted once; results lie as the images do.
    places = [str(scenes / "x" / "a.JPG"), str(scenes / "**" / "[ab].*")]
    assert [source.name for source in sources_of(places)] == ["x/a", "a", "b", "x/b", "y/a", "y/b"]


def test_names_and_colours_of_a_file(scenes: Path, seven: Path, tmp_path: Path) -> None:
    names = "".join(f"  - {{name: {letter}, colour: [{9 * number}, 1, 2]}}\n" for number, letter in enumerate("abcdef"))
    (tmp_path / "six.yaml").write_text(f"classes:\n{names}input-size: [16, 24]\n")
    predicted("--ckpt", seven, "--images", scenes, "--save", tmp_path / "out", "--classes-file", tmp_path / "six.yaml")
    rows = list(csv.DictReader((tmp_path / "out" / "classes.csv").open()))
    assert [row["class"] for row in rows] == [*"abcdef", "not scored"] and rows[2]["red"] == "18"
    image = Image.open(tmp_path / "out" / "labels" / "b.png")
    assert image.getpalette()[:6] == [0, 1, 2, 9, 1, 2]
    seen = bench.predict(bench.load(seven), scenes / "b.png", input_size=(16, 24))
    assert np.array_equal(np.array(image), seen.numpy())


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A folder with an ONNX file, and one of the same network that says nothing of it."""
    (tmp_path / "exported").mkdir()
    torch.manual_seed(0)
    layers = chain()
    write_chain(tmp_path / "exported" / "net.onnx", layers, facts_for())
    write_chain(tmp_path / "exported" / "foreign.onnx", layers)
    torch.save(layers.state_dict(), tmp_path / "exported" / "net.pt")
    return tmp_path / "exported"


def test_an_onnx_file_predicts_what_its_network_does(
    exported: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predicted("--onnx", exported / "net.onnx", "--images", scenes, "--save", tmp_path / "onnx")
    foreign = ["--dataset", "camvid", "--input-size", "24,32"]
    predicted("--onnx", exported / "foreign.onnx", "--images", scenes, "--save", tmp_path / "foreign", *foreign)
    assert "foreign.onnx does not say how images are normalised" in capsys.readouterr().out
    network = chain()
    network.load_state_dict(torch.load(exported / "net.pt"))
    network.input_size = (24, 32)
    for folder, normalization in (("onnx", facts_for().normalization), ("foreign", IMAGENET)):
        network.normalization = normalization
        for name in ("a.JPG", "b.png", "c.png"):
            expected = bench.predict(network, scenes / name).numpy()
            # Logits differ in the sixth digit, so that pixels between two classes may.
            found = ids_of((tmp_path / folder / "labels" / name).with_suffix(".png"))
            assert (found == expected).mean() > 0.995
        assert (tmp_path / folder / "classes.csv").read_text().splitlines()[4].startswith("3,road,128,64,128,")


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--onnx", "{folder}/net.onnx", "--device", "cuda"], 2, "--onnx computes on the CPU; leave --device out"),
        (["--onnx", "{folder}/net.onnx", "--ckpt", "a.pt"], 2, "leave --ckpt out"),
        (["--onnx", "{folder}/net.pt"], 1, "net.pt cannot be opened by onnxruntime"),
        (["--onnx", "{folder}/no.onnx"], 1, "no.onnx does not exist"),
    ],
)
def test_onnx_files_that_are_none(
    flags: list[str], code: int, says: str, exported: Path, scenes: Path, tmp_path: Path
) -> None:
    words = [word.format(folder=exported) for word in flags]
    ended = run_predict(*words, "--images", scenes, "--save", tmp_path / "out")
    (line,) = ended.err.splitlines()
    assert (ended.code, says in line) == (code, True), line
    assert not (tmp_path / "out").exists()


def test_reading_goes_ahead_by_so_many_and_passes_errors_on() -> None:
    made = []

    def numbers():
        for number in range(6):
            made.append(number)
            yield number
        raise BenchError("no more")

    items = ahead(numbers(), 2)
    assert next(items) == 0 and len(made) <= 3
    with pytest.raises(BenchError, match="no more"):
        list(items)


def test_the_function_and_the_command_share_a_name(
    scenes: Path, seven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As `python -m bench.predict` would have it; that imports the package, which takes the function's place.
    words = ["predict", "--ckpt", seven, "--images", scenes / "b.png", "--save", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    monkeypatch.delitem(sys.modules, "bench.predict.__main__", raising=False)
    runpy.run_module("bench.predict", run_name="__main__")
    expected = ids_of(tmp_path / "out" / "labels" / "b.png")

    from bench import predict

    network = bench.load(seven)
    for function in (predict, bench.predict, sys.modules["bench.predict"]):
        assert np.array_equal(function(network, scenes / "b.png").numpy(), expected)
    with pytest.raises(UsageError, match="an image is uint8"):
        bench.predict(network, np.zeros((4, 4)))


def test_a_fresh_python_finds_both(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [sys.executable, "-m", "bench.predict", "--help"]
    assert "contact_sheet.png" in subprocess.run(words, capture_output=True, text=True, check=True).stdout
    # As before anything has imported the package.
    monkeypatch.delitem(sys.modules, "bench.predict", raising=False)
    monkeypatch.delattr(bench, "predict", raising=False)
    from bench import predict

    assert predict is bench.predict is bench.measure.loaded.predict


def run_predict(*words: object) -> Outcome:
    return run_script("bench.commands.predict", *words)
