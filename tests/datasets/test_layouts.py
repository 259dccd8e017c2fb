"""Where images and masks are found, and where it is refused to guess."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from own_images import save, voc_set

from bench.datasets.description import Places
from bench.datasets.layouts import UNDIVIDED, Layout, find_layout
from bench.errors import BenchError

IMAGE, MASK = np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.uint8)


def files(root: Path, *names: str) -> Path:
    for name in names:
        save(root / name, MASK if "mask" in name.lower() or name.endswith((".PNG", ".TIF")) else IMAGE)
    return root


def shown(root: Path, layout: Layout) -> dict[str, list[tuple[str, ...]]]:
    return {
        split: [tuple(path.relative_to(root).as_posix() for path in pair) for pair in listing.pairs]
        for split, listing in layout.splits.items()
    }


def found(root: Path, **places: str) -> dict[str, list[tuple[str, ...]]]:
    return shown(root, find_layout(root, Places(**places)))


def said(root: Path) -> str:
    return find_layout(root, Places()).said


def refused(root: Path, **places: str) -> str:
    with pytest.raises(BenchError) as caught:
        find_layout(root, Places(**places))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("images", "masks", "words"),
    [
        ("images", "masks", "images/{train,val}/ with masks/{train,val}/"),
        ("Images", "Labels", "Images/{train,val}/ with Labels/{train,val}/"),
        ("img_dir", "ann_dir", "img_dir/{train,val}/ with ann_dir/{train,val}/"),
    ],
)
def test_two_folders_with_splits(images: str, masks: str, words: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        files(tmp_path, f"{images}/{split}/a.jpg", f"{masks}/{split}/a.PNG", f"{images}/{split}/sub/b.JPEG")
        files(tmp_path, f"{masks}/{split}/sub/b.PNG")
    pairs = found(tmp_path)
    assert pairs["val"] == [
        (f"{images}/val/a.jpg", f"{masks}/val/a.PNG"),
        (f"{images}/val/sub/b.JPEG", f"{masks}/val/sub/b.PNG"),
    ]
    assert said(tmp_path) == words


def test_ade20k(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        files(tmp_path, f"images/{split}/x.jpg", f"annotations/{split}/x.PNG")
    assert list(found(tmp_path)) == ["train", "val"]
    assert said(tmp_path) == "images/{training,validation}/ with annotations/{training,validation}/"


def test_the_number_of_a_year(tmp_path: Path) -> None:
    for split in ("train2017", "val2017"):
        files(tmp_path, f"images/{split}/x.jpg", f"annotations/{split}/x.PNG")
    assert list(found(tmp_path)) == ["train", "val"]
    files(tmp_path, "images/train2014/x.jpg")
    assert "may be the train split; remove or rename one" in refused(tmp_path)


def test_splits_with_two_folders_each(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        files(tmp_path, f"{split}/images/x.png", f"{split}/masks/x_mask.png")
    assert found(tmp_path)["val"] == [("valid/images/x.png", "valid/masks/x_mask.png")]
    assert said(tmp_path) == "{train,valid}/images/ with {train,valid}/masks/"


def test_camvid(tmp_path: Path) -> None:
    files(tmp_path, "train/a.png", "trainannot/a.PNG", "test/b.png", "testannot/b.PNG")
    assert found(tmp_path)["test"] == [("test/b.png", "testannot/b.PNG")]
    assert said(tmp_path) == "{train,test}/ with {train,test}annot/"


def test_cityscapes_by_its_label_ids(tmp_path: Path) -> None:
    files(tmp_path, "leftImg8bit/val/bonn/bonn_1_leftImg8bit.png")
    for kind in ("labelIds", "labelTrainIds", "instanceIds"):
        files(tmp_path, f"gtFine/val/bonn/bonn_1_gtFine_{kind}.PNG")
    (pair,) = found(tmp_path)["val"]
    assert pair[1] == "gtFine/val/bonn/bonn_1_gtFine_labelIds.PNG"
    assert find_layout(tmp_path, Places()).splits["val"].without_image == []


def test_pascal_voc_by_its_lists(tmp_path: Path) -> None:
    voc_set(tmp_path, train=2, val=1)
    pairs = found(tmp_path)
    assert pairs["train"][1] == ("JPEGImages/photo 1.JPG", "SegmentationClass/photo 1.png")
    assert {split: len(of_split) for split, of_split in pairs.items()} == {"train": 2, "val": 1}
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("photo 2\nphoto 9\n")
    assert "val.txt names photo 9, of which there is no image in" in refused(tmp_path)


def test_two_folders_without_splits(tmp_path: Path) -> None:
    files(tmp_path, "images/a.png", "images/b.png", "images/.hidden.png", "masks/a.PNG", "masks/c_mask.png")
    layout = find_layout(tmp_path, Places())
    assert shown(tmp_path, layout) == {UNDIVIDED: [("images/a.png", "masks/a.PNG")]}
    listing = layout.splits[UNDIVIDED]
    assert [path.name for path in listing.without_mask] == ["b.png"]
    assert [path.name for path in listing.without_image] == ["c_mask.png"]


@pytest.mark.parametrize(
    "text",
    ["image,mask,split\na 1.jpg,a.PNG,train\nb.jpg,b.PNG,validation\n", "a 1.jpg\ta.PNG\tTrain\nb.jpg\tb.PNG\tval\n"],
)
def test_a_list_of_pairs(text: str, tmp_path: Path) -> None:
    files(tmp_path, "a 1.jpg", "a.PNG", "b.jpg", "b.PNG")
    (tmp_path / "pairs.csv").write_text(text)
    assert found(tmp_path) == {"train": [("a 1.jpg", "a.PNG")], "val": [("b.jpg", "b.PNG")]}


def test_a_list_of_pairs_a_split(tmp_path: Path) -> None:
    files(tmp_path, "x/a.jpg", "y/a.PNG", "x/b.jpg", "y/b.PNG", "x/c.jpg")
    (tmp_path / "train.txt").write_text("x/a.jpg y/a.PNG\n\nx/c.jpg y/c.PNG\n")
    (tmp_path / "val.txt").write_text("x/b.jpg y/b.PNG\nx/d.jpg y/d.PNG\n")
    layout = find_layout(tmp_path, Places())
    assert shown(tmp_path, layout) == {"train": [("x/a.jpg", "y/a.PNG")], "val": [("x/b.jpg", "y/b.PNG")]}
    assert [path.name for path in layout.splits["train"].without_mask] == ["c.jpg"]
    assert [path.name for path in layout.splits["val"].lost] == ["d.jpg"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.jpg,a.PNG\nb.jpg\n", "line 2 of pairs.csv is not an image and its mask"),
        ("a.jpg,a.PNG,train\nb.jpg,b.PNG,\n", "names the split of some pairs only"),
        ("a.jpg,a.PNG,holdout\n", "line 1 of pairs.csv names the split 'holdout'; write train, val or test"),
    ],
)
def test_a_list_that_is_none(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    assert says in refused(tmp_path)


def test_folders_of_other_names(tmp_path: Path) -> None:
    files(tmp_path, "photos/train/a.jpg", "truth/train/a-gt.PNG", "flat/a.jpg")
    assert found(tmp_path, images="photos", masks="truth", mask_suffix="-gt")["train"]
    assert found(tmp_path, images="photos/{split}", masks="truth/{split}", mask_suffix="-gt")["train"]
    files(tmp_path, "both/a.jpg", "both/a_mask.png")
    assert found(tmp_path, images="both", masks="both", mask_suffix="_mask") == {
        UNDIVIDED: [("both/a.jpg", "both/a_mask.png")]
    }
    assert "there is no folder nowhere" in refused(tmp_path, images="nowhere", masks="truth")


def test_nothing_is_guessed(tmp_path: Path) -> None:
    assert "no images with masks found in" in refused(tmp_path)
    files(tmp_path, "images/a.jpg", "masks/a.PNG", "masks/a_mask.png")
    assert "has two masks, a.PNG and a_mask.png; write mask-suffix: in classes.yaml" in refused(tmp_path)
    files(tmp_path, "labels/a.PNG")
    assert "labels and masks may each hold the masks; write images: NAME and masks: NAME" in refused(tmp_path)
    # Lists of boxes are no masks.
    (tmp_path / "labels" / "a.PNG").rename(tmp_path / "labels" / "a.txt")
    (tmp_path / "masks" / "a_mask.png").unlink()
    assert said(tmp_path) == "images/ with masks/"
    files(tmp_path, "images/val/a.jpg", "images/validation/a.jpg")
    assert "may be the val split; remove or rename one" in refused(tmp_path)


def test_a_split_without_masks_is_left_out_and_said(tmp_path: Path) -> None:
    files(tmp_path, "images/train/a.jpg", "masks/train/a.PNG", "images/test/b.jpg")
    assert list(found(tmp_path)) == ["train"]
    assert said(tmp_path) == "images/train/ with masks/train/; test without masks, left out"


def test_folders_that_are_links_are_followed_once(tmp_path: Path) -> None:
    files(tmp_path / "far", "a.jpg", "b.jpg")
    files(tmp_path / "here", "masks/bonn/a_mask.gif", "masks/bonn/b.TIF")
    (tmp_path / "here" / "images").mkdir()
    (tmp_path / "here" / "images" / "bonn").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "again").symlink_to(tmp_path / "far")
    assert found(tmp_path / "here") == {
        UNDIVIDED: [("images/bonn/a.jpg", "masks/bonn/a_mask.gif"), ("images/bonn/b.jpg", "masks/bonn/b.TIF")]
    }


def test_no_folder(tmp_path: Path) -> None:
    assert "there is no folder" in refused(tmp_path / "none") and "`data_root`" in refused(tmp_path / "none")
