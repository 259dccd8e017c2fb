"""Cityscapes: 19 classes, label ids mapped to train ids here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.datasets.base import Classes, Dataset, Pair
from bench.datasets.image_files import list_images
from bench.datasets.label_tables import decode_ids
from bench.errors import BenchError

IGNORED = 255

# Train id -> label id.
TRAIN_ID_TO_ID = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

_IMAGE, _IDS, _TRAIN_IDS = "_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds"


# The licence plate's id and train id are -1, which eight bits store as 255.
_FROM_TRAIN_IDS = {**{number: number for number in range(len(TRAIN_ID_TO_ID))}, 255: IGNORED}
_FROM_IDS = {
    **dict.fromkeys((*range(34), 255), IGNORED),
    **{label_id: number for number, label_id in enumerate(TRAIN_ID_TO_ID)},
}


class Cityscapes(Dataset):
    """Cityscapes: `leftImg8bit/SPLIT/CITY/` images and `gtFine/SPLIT/CITY/` labels."""

    name = "cityscapes"
    classes = Classes(
        names=(
            "road",
            "sidewalk",
            "building",
            "wall",
            "fence",
            "pole",
            "traffic light",
            "traffic sign",
            "vegetation",
            "terrain",
            "sky",
            "person",
            "rider",
            "car",
            "truck",
            "bus",
            "train",
            "motorcycle",
            "bicycle",
        ),
        palette=(
            (128, 64, 128),
            (244, 35, 232),
            (70, 70, 70),
            (102, 102, 156),
            (190, 153, 153),
            (153, 153, 153),
            (250, 170, 30),
            (220, 220, 0),
            (107, 142, 35),
            (152, 251, 152),
            (70, 130, 180),
            (220, 20, 60),
            (255, 0, 0),
            (0, 0, 142),
            (0, 0, 70),
            (0, 60, 100),
            (0, 80, 100),
            (0, 0, 230),
            (119, 11, 32),
        ),
        outputs=19,
        ignore_index=IGNORED,
    )
    native_size = (1024, 2048)
    crop_size = (512, 1024)
    # The test split's labels are not public.
    headline_split = "val"
    label_ids = TRAIN_ID_TO_ID

    def pairs(self, split: str) -> list[Pair]:
        images, labels = self.root / "leftImg8bit" / split, self.root / "gtFine" / split
        for folder in (images, labels):
            if not folder.is_dir():
                raise BenchError(
                    f"no {folder.relative_to(self.root)}/ in {self.root.absolute()}: expected "
                    f"leftImg8bit/{split}/CITY/*{_IMAGE}.png and gtFine/{split}/CITY/*{_IDS}.png; set `data_root`"
                )
        pairs = []
        for image in list_images(images, f"*/*{_IMAGE}"):
            frame = labels / image.parent.name / image.stem.removesuffix(_IMAGE)
            names = [Path(f"{frame}{kind}{ending}") for kind in (_IDS, _TRAIN_IDS) for ending in (".png", ".PNG")]
            label = next((path for path in names if path.is_file()), None)
            if label is None:
                raise BenchError(f"image {image} has no label: expected {names[0]}")
            pairs.append(Pair(image, label))
        if not pairs:
            raise BenchError(f"no images in {images}: expected CITY/*{_IMAGE}.png")
        return pairs

    def decode_label(self, path: Path) -> np.ndarray:
        meanings = _FROM_TRAIN_IDS if path.stem.endswith(_TRAIN_IDS) else _FROM_IDS
        return decode_ids(path, meanings, {}, "which is not in the Cityscapes table")
