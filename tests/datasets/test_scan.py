"""What a scan counts, on masks made by hand and on the real sets; and the draft it writes, which a training reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from own_images import colour_set, deep_set, numbers, save, voc_palette, voc_set
from PIL import Image

from bench.commands import scan as command
from bench.datasets.base import Pair
from bench.datasets.camvid import CamVid
from bench.datasets.cityscapes import Cityscapes
from bench.datasets.classes_file import read_description
from bench.datasets.description import Places, usual_colour
from bench.datasets.folder import Folder
from bench.datasets.scan.counting import scan_folder
from bench.datasets.scan.draft import drafted
from bench.datasets.scan.report import report
from bench.errors import BenchError, UsageError

CAMVID = (19155369, 29187991, 1195743, 35520717, 8098693, 13548782, 1306195, 1728599, 5623717, 774148, 648197, 4344649)
"""Pixels of each id over all splits, as counted when the labels were put there."""


def typed(*words: object) -> None:
    command.main([str(word) for word in words])


def lines_of(root: Path, *ignore: int) -> list[str]:
    scan = scan_folder(root, Places())
    return report(scan, drafted(scan, ignore), is_draft=True)


def test_counts_by_hand(tmp_path: Path) -> None:
    for name, row in (("a", [0, 0, 1, 255]), ("b", [0, 3, 3, 3])):
        save(tmp_path / "images" / f"{name}.png", np.zeros((1, 4, 3), np.uint8))
        save(tmp_path / "masks" / f"{name}.png", np.array([row], np.uint8))
    save(tmp_path / "images" / "c.png", np.zeros((1, 4, 3), np.uint8))
    save(tmp_path / "masks" / "d.png", np.zeros((1, 4), np.uint8))
    # Half of the labelled pixels of each image: 3 of 7, 1 of 3 and 3 of 4, whose median is 3 of 7.
    assert lines_of(tmp_path) == [
        f"{tmp_path}: images/ with masks/",
        "all: 2 images with masks, 1 without (first c.png), 1 masks without image (first d.png)",
        "sizes (height x width: masks): 1x4: 2",
        " id  class      pixels   share  images  weight",
        "  0  class_0         3  37.50%       2       1",
        "  1  class_1         1  12.50%       1   1.286",
        "  3  class_3         3  37.50%       1  0.5714",
        "255  (ignored)       1  12.50%       1       -",
        "void: 1 of 8 pixels, 12.50%",
    ]


def test_sizes_that_are_not_those_of_the_masks_are_told(tmp_path: Path) -> None:
    voc_set(tmp_path)
    save(tmp_path / "JPEGImages" / "photo 1.JPG", np.zeros((8, 9, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    # Turned upright it is as large as its mask.
    Image.fromarray(np.zeros((32, 24, 3), np.uint8)).save(tmp_path / "JPEGImages" / "photo 0.JPG", exif=exif)
    lines = lines_of(tmp_path)
    assert "sizes (height x width: masks): 24x32: 3, 32x24: 3, 40x40: 3" in lines
    (line,) = [line for line in lines if "of another size" in line]
    assert line.startswith("of another size than their mask: 1 images, first") and "photo 1.JPG is 8x9, its" in line


def test_a_draft_is_what_a_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed(voc_set(tmp_path / "voc"))
    voc = read_description(tmp_path / "voc" / "classes.yaml")
    assert voc.names == tuple(f"class_{number}" for number in range(5)) and voc.ignore == (255,)
    # The colours are the palette's.
    assert voc.classes.palette == tuple(usual_colour(number) for number in range(5))
    assert voc.input_size == (32, 32)
    typed(deep_set(tmp_path / "deep"))
    deep = read_description(tmp_path / "deep" / "classes.yaml")
    assert deep.values == ((1000,), (2000,), (3000,)) and deep.ignore == (65535,)
    assert (deep.shares.val, deep.shares.test, deep.input_size) == (0.15, 0.15, (24, 32))
    typed(colour_set(tmp_path / "rgb"), "--ignore", "0,0,0")
    rgb = read_description(tmp_path / "rgb" / "classes.yaml")
    assert (rgb.labels, rgb.ignore) == ("colours", ((0, 0, 0),))
    assert rgb.classes.palette == ((0, 200, 0), (10, 20, 30), (200, 0, 0))
    for name, description in (("voc", voc), ("deep", deep), ("rgb", rgb)):
        found = Folder(tmp_path / name, description)
        for pair in found.pairs("train"):
            assert set(np.unique(found.decode_label(pair.label))) <= {*range(len(description.names)), 255}
    assert "give the classes their names there" in capsys.readouterr().out


def test_a_description_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = voc_set(tmp_path) / "classes.yaml"
    path.write_text("classes: [sky, wall, road, car, lamp, boat]\n")
    typed(tmp_path)
    out = capsys.readouterr().out
    assert path.read_text() == "classes: [sky, wall, road, car, lamp, boat]\n"
    assert f"{path} is there and stays; --force writes a draft in its place" in out
    assert " sky " in out and "in no mask: boat" in out
    # Nothing says what 255 is.
    assert f"255 is not in {path}: 288 pixels, first in" in out and "(unknown)" in out
    typed(tmp_path, "--force")
    assert read_description(path).names[0] == "class_0"


def test_zero_and_the_largest_id_alone_are_two_classes(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", np.zeros((2, 2, 3), np.uint8))
    save(tmp_path / "masks" / "a.png", np.array([[0, 255], [0, 0]], np.uint8))
    assert drafted(scan_folder(tmp_path, Places()), []).values == ((0,), (255,))


def test_what_is_no_set_of_masks_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", np.zeros((16, 20, 3), np.uint8))
    save(tmp_path / "masks" / "a.png", np.arange(320, dtype=np.uint16).reshape(16, 20))
    with pytest.raises(BenchError, match="hold 320 different ids, too many for classes"):
        scan_folder(tmp_path, Places())
    save(tmp_path / "images" / "b.png", np.zeros((16, 20, 3), np.uint8))
    save(tmp_path / "masks" / "b.png", np.zeros((16, 20, 3), np.uint8))
    with pytest.raises(BenchError, match=r"b\.png holds colours, .*a\.png ids; turn all masks into one kind"):
        scan_folder(tmp_path, Places())
    for words, says in ((["--ignore", "road"], "is no list of ids"), (["--ignore", "0,0"], "is no colour")):
        with pytest.raises(UsageError, match=says):
            typed(colour_set(tmp_path / "_".join(words)), *words)


def test_a_folder_that_cannot_be_written_is_counted_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, text: str) -> None:
        raise BenchError(f"cannot write {path}: Read-only file system")

    monkeypatch.setattr("bench.system.files.write_text", refuse)
    typed(colour_set(tmp_path))
    out = capsys.readouterr().out
    assert "void: 0 of 9216 pixels" in out and "no draft was written (cannot write" in out and "--out FILE" in out


@pytest.mark.slow
def test_the_module_is_a_command(tmp_path: Path, project_root: Path) -> None:
    words = [sys.executable, "-m", "bench.datasets.scan", tmp_path / "none"]
    done = subprocess.run(words, cwd=project_root, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("python -m bench.datasets.scan: error: there is no folder")
    assert len(done.stderr.splitlines()) == 1


# --- the real sets


@pytest.mark.slow
def test_camvid_holds_what_it_is_said_to_hold(camvid_root: Path, tmp_path: Path) -> None:
    scan = scan_folder(camvid_root, Places())
    assert scan.pixels == dict(enumerate(CAMVID))
    assert {split: len(listing.pairs) for split, listing in scan.layout.splits.items()} == {
        "train": 367,
        "val": 101,
        "test": 233,
    }
    assert scan.sizes == {(360, 480): 701} and not scan.unequal
    draft = drafted(scan, [11])
    # What it means as a folder is what it means as CamVid.
    folder, camvid = Folder(camvid_root, draft), CamVid(camvid_root)
    assert folder.pairs("val") == camvid.pairs("val")
    for pair in camvid.pairs("val")[::20]:
        expected = camvid.decode_label(pair.label)
        assert np.array_equal(folder.decode_label(pair.label), np.where(expected == 11, 255, expected))
    assert draft.input_size == (360, 480) and len(draft.names) == 11
    assert f"void: {CAMVID[11]} of {sum(CAMVID)} pixels, 3.59%" in report(scan, draft, is_draft=True)


def test_cityscapes_is_read_by_its_label_ids(cityscapes_root: Path) -> None:
    scan = scan_folder(cityscapes_root, Places())
    (pair,) = scan.layout.splits["val"].pairs
    assert pair.label.name == "frankfurt_000000_000294_gtFine_labelIds.png" and scan.sizes == {(128, 256): 1}
    official = Cityscapes(cityscapes_root)
    assert isinstance(pair, Pair) and pair == official.pairs("val")[0]
    ids = np.array(Image.open(pair.label))
    assert scan.pixels == {int(value): int((ids == value).sum()) for value in np.unique(ids)}
    # The train ids that came along differ from the mapped ones at 77 pixels.
    shipped = pair.label.with_name(pair.label.name.replace("labelIds", "labelTrainIds"))
    assert (official.decode_label(pair.label) != official.decode_label(shipped)).sum() == 77


def test_indices_are_counted_and_not_colours(tmp_path: Path) -> None:
    found = numbers(0, (24, 32))
    save(tmp_path / "images" / "a.png", np.zeros((24, 32, 3), np.uint8))
    save(tmp_path / "masks" / "a.png", found, voc_palette())
    values, counts = np.unique(found, return_counts=True)
    assert scan_folder(tmp_path, Places()).contradictions == []
    assert scan_folder(tmp_path, Places()).pixels == dict(zip(values.tolist(), counts.tolist(), strict=True))
    # A program that packs palettes gives each file an order of its own.
    save(tmp_path / "images" / "b.png", np.zeros((1, 2, 3), np.uint8))
    save(tmp_path / "masks" / "b.png", np.array([[0, 1]], np.uint8), [0, 0, 0, 9, 8, 7])
    (line,) = [line for line in lines_of(tmp_path) if line.startswith("palettes differ")]
    assert "index 1 is (128, 0, 0) in" in line and "and (9, 8, 7) in" in line
    typed(tmp_path, "--colours", "--ignore", "224,224,192")
    assert (9, 8, 7) in read_description(tmp_path / "classes.yaml").classes.palette
    # What is described so is counted so from then on.
    typed(tmp_path)
    assert scan_folder(tmp_path, Places(), "colours").pixels[(9, 8, 7)] == 1
