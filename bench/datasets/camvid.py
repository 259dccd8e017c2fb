"""CamVid street scenes: 11 classes and void, in the SegNet layout or with the original colour labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.datasets.base import Classes, Dataset, Pair
from bench.datasets.image_files import IMAGE_ENDINGS, list_images, read_ids
from bench.datasets.label_tables import decode_colours
from bench.errors import BenchError

VOID = 11

NAMES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)

# The 32 colours of the original labels (Brostow et al. 2009) and the class each belongs to in the
# 11-class grouping of SegNet.
COLOURS: dict[tuple[int, int, int], tuple[str, int]] = {
    (64, 128, 64): ("Animal", 9),
    (192, 0, 128): ("Archway", 1),
    (0, 128, 192): ("Bicyclist", 10),
    (0, 128, 64): ("Bridge", 1),
    (128, 0, 0): ("Building", 1),
    (64, 0, 128): ("Car", 8),
    (64, 0, 192): ("CartLuggagePram", 9),
    (192, 128, 64): ("Child", 9),
    (192, 192, 128): ("Column_Pole", 2),
    (64, 64, 128): ("Fence", 7),
    (128, 0, 192): ("LaneMkgsDriv", 3),
    (192, 0, 64): ("LaneMkgsNonDriv", 3),
    (128, 128, 64): ("Misc_Text", 6),
    (192, 0, 192): ("MotorcycleScooter", 10),
    (128, 64, 64): ("OtherMoving", 8),
    (64, 192, 128): ("ParkingBlock", 4),
    (64, 64, 0): ("Pedestrian", 9),
    (128, 64, 128): ("Road", 3),
    (128, 128, 192): ("RoadShoulder", 4),
    (0, 0, 192): ("Sidewalk", 4),
    (192, 128, 128): ("SignSymbol", 6),
    (128, 128, 128): ("Sky", 0),
    (64, 128, 192): ("SUVPickupTruck", 8),
    (0, 0, 64): ("TrafficCone", 2),
    (0, 64, 64): ("TrafficLight", 6),
    (192, 64, 128): ("Train", 8),
    (128, 128, 0): ("Tree", 5),
    (192, 128, 192): ("Truck_Bus", 8),
    (64, 0, 64): ("Tunnel", 1),
    (192, 192, 0): ("VegetationMisc", 5),
    (0, 0, 0): ("Void", VOID),
    (64, 192, 0): ("Wall", 1),
}

_CLASS_OF = {colour: class_id for colour, (_, class_id) in COLOURS.items()}


class CamVid(Dataset):
    """CamVid: `train val test` images beside `trainannot valannot testannot` (ids) or `train_labels ...` (colours)."""

    name = "camvid"
    classes = Classes(
        names=NAMES,
        palette=(
            (128, 128, 128),
            (128, 0, 0),
            (192, 192, 128),
            (128, 64, 128),
            (0, 0, 192),
            (128, 128, 0),
            (192, 128, 128),
            (64, 64, 128),
            (64, 0, 128),
            (64, 64, 0),
            (0, 128, 192),
        ),
        outputs=12,
        ignore_index=VOID,
    )
    native_size = (360, 480)
    crop_size = (360, 480)

    def pairs(self, split: str) -> list[Pair]:
        images, annotations, colours = (self.root / f"{split}{ending}" for ending in ("", "annot", "_labels"))
        labels = annotations if annotations.is_dir() else colours
        for folder, wanted in ((images, "images"), (labels, "labels")):
            if not folder.is_dir():
                raise BenchError(
                    f"no {wanted} of {self.name}'s {split} split in {self.root.absolute()}: expected {split}/ "
                    f"beside {split}annot/ (class ids) or {split}_labels/ (colours); set `data_root`"
                )
        label_of = {path.stem: path for path in list_images(labels, endings=(".png",))}
        pairs = []
        for image in list_images(images):
            label = label_of.get(image.stem) or label_of.get(f"{image.stem}_L")
            if label is None:
                raise BenchError(f"image {image} has no label: expected {labels / image.stem}.png or ..._L.png")
            pairs.append(Pair(image, label))
        if not pairs:
            raise BenchError(f"no images in {images}: expected files ending in {', '.join(IMAGE_ENDINGS)}")
        return pairs

    def decode_label(self, path: Path) -> np.ndarray:
        if path.parent.name.endswith("_labels"):
            return decode_colours(path, _CLASS_OF, "not one of CamVid's 32")
        ids = read_ids(path, _CLASS_OF)
        if ids.max() > VOID:
            raise BenchError(f"label {path} holds id {ids.max()}; ids are 0 to {VOID} ({VOID} is void)")
        return ids
