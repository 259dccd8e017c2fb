"""Images of the user's own through all five commands, from a draft on; and what is read from the network's file."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from own_images import colour_set, deep_set, voc_set
from PIL import Image
from records import faults
from scripts import Outcome, run_script

import bench
from bench.commands import scan
from bench.models.checkpoint import load_model
from bench.system.files import read_json

pytestmark = pytest.mark.slow
HOW = ("--num-workers", 0, "--threads", 1, "--device", "cpu")
SETS = {"voc": (voc_set, [], 5), "deep": (deep_set, [], 3), "rgb": (colour_set, ["--ignore", "0,0,0"], 3)}
FINETUNE = ("finetune_batch.py", "--benchmark-dir", "bench", "--finetune-epochs", 1, "--batch-size", 2)


def typed(folder: Path, script: str, *flags: object) -> Outcome:
    untimed = [] if script == "train.py" else ["--no-latency"]
    return run_script(script, *flags, *untimed, *HOW, folder=folder)


def done(folder: Path, script: str, *flags: object) -> str:
    outcome = typed(folder, script, *flags)
    assert (outcome.code, outcome.err) == (0, ""), outcome.out + outcome.err
    return outcome.out


def refused(folder: Path, script: str, *flags: object) -> str:
    outcome = typed(folder, script, *flags)
    assert outcome.code in (1, 2) and len(outcome.err.strip().splitlines()) == 1, outcome
    return outcome.err


def trained(folder: Path, checkpoint: Path, *flags: object, save: str = "run") -> tuple[object, ...]:
    words = ("--dataset", "folder", "--data-root", "data", "--ckpt", checkpoint, "--reset-head", "--batch-size", 2)
    return ("train.py", *words, "--save", save, "--epochs", 1, *flags)


def made(name: str, folder: Path, checkpoint: Path) -> Path:
    """A folder with a set of images, `data`, its description as drafted, and a network trained on it, `run`."""
    make, flags, _ = SETS[name]
    make(folder / "data")
    scan.main([str(folder / "data"), *flags])
    done(folder, *trained(folder, checkpoint, "--lr", 0.05))
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, shallow_baseline: Path) -> dict[str, Path]:
    return {name: made(name, tmp_path_factory.mktemp(name), shallow_baseline) for name in SETS}


@pytest.mark.parametrize("name", SETS)
def test_five_commands(name: str, places: dict[str, Path]) -> None:
    folder, classes = places[name], SETS[name][2]
    baseline = ("--baseline", "run/best.pt")
    method = ("--method", "taylor", "--global-ratio", 0.3, "--save", "pruned")
    assert "as run/best.pt says: --dataset folder" in done(folder, "prune.py", "--ckpt", "run/best.pt", *method)
    done(folder, "benchmark.py", *baseline, "--methods", "l1", "--ratios", 0.3, "--out-dir", "bench")
    done(folder, *FINETUNE, *baseline)
    files = ("--report", "eval/report.json", "--picture", "eval/picture.png", "--predict", "eval/maps")
    done(folder, "eval.py", *baseline, "--candidate", "pruned/pruned_model.pt", *files)

    description = yaml.safe_load((folder / "data" / "classes.yaml").read_text(encoding="utf-8"))
    names = [entry["name"] for entry in description["classes"]]
    assert len(names) == classes
    report = read_json(folder / "eval" / "report.json")
    assert faults(report) == []
    assert (report["dataset"], report["split"]) == ("folder", "val" if name == "voc" else "test")
    assert list(report["candidate"]["quality"]["iou"]) == names
    (tuned,) = (folder / "bench").glob("*/finetuned_report.json")
    assert list(read_json(tuned)["candidate"]["quality"]["iou"]) == names
    summary = read_json(folder / "bench" / "finetuned_summary.json")
    assert summary["baseline"]["dataset"] == "folder" and faults(summary) == []
    # The colours of the description, and the sizes of the masks.
    maps = sorted((folder / "eval" / "maps").glob("*.png"))
    colours = [entry["colour"] for entry in description["classes"]]
    for path in maps:
        with Image.open(path) as image:
            assert np.reshape(image.getpalette("RGB"), (-1, 3))[:classes].tolist() == colours
    sizes = {Image.open(path).size for path in maps}
    assert len(sizes) == (3 if name == "voc" else 1)
    # What a program that has the file alone knows.
    network = bench.load(folder / "pruned" / "pruned_model.pt")
    assert list(network.classes) == names
    image = next(path for path in sorted((folder / "data").rglob("*")) if path.suffix in (".JPG", ".png"))
    with Image.open(image) as opened:
        assert bench.predict(network, image).shape == opened.size[::-1]


def test_ids_of_the_masks_are_written_back(places: dict[str, Path]) -> None:
    folder = places["deep"]
    done(folder, "eval.py", "--baseline", "run/best.pt", "--predict", "ids", "--predict-ids", "label")
    found = set()
    for path in (folder / "ids").glob("*.png"):
        with Image.open(path) as image:
            assert image.mode.startswith("I;16")
            found |= set(np.unique(np.array(image)).tolist())
    assert found <= {1000, 2000, 3000} and found


@pytest.fixture
def copy(places: dict[str, Path], tmp_path: Path) -> Path:
    """The 16-bit set, whose split is drawn, to be changed."""
    return Path(shutil.copytree(places["deep"], tmp_path / "copy"))


def rewritten(folder: Path, change) -> None:
    path = folder / "data" / "classes.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def evaluated(folder: Path, *flags: object) -> tuple[object, ...]:
    return ("eval.py", "--baseline", folder / "run" / "best.pt", "--data-root", "data", "--report", "r.json", *flags)


def test_a_network_is_scored_where_the_description_has_gone(copy: Path) -> None:
    with_it = done(copy, *evaluated(copy))
    (copy / "data" / "classes.yaml").unlink()
    assert done(copy, *evaluated(copy)) == with_it
    assert "has no classes.yaml" in refused(copy, *trained(copy, copy / "run" / "x.pt")[:5], "--save", "new")


def test_other_classes_and_other_images_are_refused_with_both(copy: Path) -> None:
    rewritten(copy, lambda content: content["classes"][1].update(name="lamp"))
    says = refused(copy, *evaluated(copy))
    assert "was trained on the classes class_1000, class_2000, class_3000; folder has class_1000, lamp" in says
    rewritten(copy, lambda content: content["classes"][1].update(name="class_2000"))
    rewritten(copy, lambda content: content.update(normalize={"mean": [0, 0, 0], "std": [1, 1, 1]}))
    says = refused(copy, *evaluated(copy))
    assert "was trained on images normalised by mean [0.485, 0.456, 0.406] and std" in says
    assert "folder has mean [0.0, 0.0, 0.0] and std [1.0, 1.0, 1.0]" in says


def test_a_drawn_split_is_written_down_and_stays(copy: Path, shallow_baseline: Path) -> None:
    with (copy / "run" / "split.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    assert rows[0]["image"].startswith("images/") and rows[0]["mask"].endswith("_mask.png")
    assert load_model(copy / "run" / "best.pt").meta["description"]["drawn"] == ["val", "test"]
    # Whatever is written there later, the network is scored on what it has not seen.
    rewritten(copy, lambda content: content.update(split={"val": 0.4, "test": 0.3, "seed": 7}))
    assert "train 6, val 2, test 2, val and test drawn with seed 0" in done(copy, *evaluated(copy))
    assert "drawn with seed 0; one of another seed would score it on" in refused(
        copy, *evaluated(copy, "--split-seed", 1)
    )
    # A run goes on with its own split alone.
    rewritten(copy, lambda content: content.pop("split"))
    words = trained(copy, shallow_baseline, "--lr", 0.05, "--resume", "--split-seed", 1)
    assert "cannot resume run: --split-seed is 1, the run was started with 0" in refused(copy, *words)
    # Nor with another description.
    rewritten(copy, lambda content: content.update(augment={"flip": False}))
    says = refused(copy, *trained(copy, shallow_baseline, "--lr", 0.05, "--resume"))
    assert "cannot resume run: --classes-file is a description with digest" in says
    # As a list of pairs it is a layout.
    shutil.copy(copy / "run" / "split.csv", copy / "data" / "pairs.csv")
    assert "pairs.csv; train 6, val 2, test 2; 3 classes" in done(copy, *evaluated(copy))


def test_a_description_may_lie_elsewhere(copy: Path, shallow_baseline: Path) -> None:
    (copy / "data" / "classes.yaml").rename(copy / "mine.yaml")
    words = trained(copy, shallow_baseline, "--classes-file", "mine.yaml", "--split-seed", 3, save="other")
    assert "drawn with seed 3" in done(copy, *words)
    meta = load_model(copy / "other" / "best.pt").meta
    assert meta["description"]["split"]["seed"] == 3 and meta["classes"][0] == "class_1000"
    says = refused(copy, "train.py", "--dataset", "camvid", "--classes-file", "mine.yaml", "--save", "x")
    assert "camvid has classes and splits of its own; leave --classes-file out, or pass --dataset folder" in says
