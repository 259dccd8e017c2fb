"""Images, labels and descriptions that are wrong."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.own_images import colour_set
from tests.reliability.place import (
    SIZE,
    Case,
    Place,
    image_of,
    label_of,
    truncated,
    write_label,
)


def bomb(path: Path) -> None:
    """An image whose header promises 50,000 x 50,000 pixels."""
    image = io.BytesIO()
    Image.new("L", SIZE).save(image, format="PNG")
    content = bytearray(image.getvalue())
    header = b"IHDR" + struct.pack(">II", 50000, 50000) + content[24:29]
    content[12:33] = header + struct.pack(">I", zlib.crc32(header))
    path.unlink()
    path.with_suffix(".png").write_bytes(content)


def as_folder(path: Path) -> None:
    """A folder with the name of a file."""
    path.unlink()
    path.mkdir()


def colour_labels(root: Path) -> None:
    """Labels as colours, one of them unknown."""
    for split in ("train", "val", "test"):
        shutil.rmtree(root / f"{split}annot")
        (root / f"{split}_labels").mkdir()
        for image in (root / split).iterdir():
            pixels = np.full((*SIZE, 3), (1, 2, 3), np.uint8)
            Image.fromarray(pixels).save(root / f"{split}_labels" / f"{image.stem}_L.png")


OWN = """labels: colours
ignore: [0, 0, 0]
classes:
- {name: a, colour: [200, 0, 0]}
- {name: b, colour: [0, 200, 0]}
- {name: c, colour: [10, 20, 30]}
"""
"""What `colour_set` draws."""


def void(*splits: str) -> Callable[[Path], None]:
    """Nothing but void in some splits."""

    def change(root: Path) -> None:
        for split in splits:
            for label in (root / f"{split}annot").glob("*.png"):
                write_label(label, np.full(SIZE, 11, np.uint8))

    return change


def data() -> Iterator[Case]:
    """Data sets with something wrong in them."""
    wide = (SIZE[0], SIZE[1] + 1)
    for split, scripts in (("test", ("eval.py", "prune.py")), ("train", ("train.py", "finetune_batch.py"))):
        changes: dict[str, Callable[[Path], Any]] = {
            "an image that is cut off": lambda root, split=split: truncated(image_of(root, split)),
            "an empty image": lambda root, split=split: image_of(root, split).write_bytes(b""),
            "an image that is text": lambda root, split=split: image_of(root, split).write_text("not an image"),
            "an image that is a folder": lambda root, split=split: as_folder(image_of(root, split)),
            "a label that is cut off": lambda root, split=split: truncated(label_of(root, split)),
            "a missing label": lambda root, split=split: label_of(root, split).unlink(),
            "a label of another size": lambda root, split=split: write_label(
                label_of(root, split), np.zeros(wide, np.uint8)
            ),
            "a label with id 200": lambda root, split=split: write_label(
                label_of(root, split), np.full(SIZE, 200, np.uint8)
            ),
            "a label in colours": lambda root, split=split: write_label(
                label_of(root, split), np.zeros((*SIZE, 3), np.uint8)
            ),
            "a label of 16 bits": lambda root, split=split: write_label(
                label_of(root, split), np.full(SIZE, 300, np.uint16)
            ),
            "no images": lambda root, split=split: [path.unlink() for path in (root / split).iterdir()],
            "no folder of labels": lambda root, split=split: shutil.rmtree(root / f"{split}annot"),
        }
        for number, (name, change) in enumerate(changes.items()):
            words = lambda place, change=change: place.spoilt(change)  # noqa: E731
            yield Case("data", f"{name} in {split}", scripts[number % 2], words)
    yield Case("data", "a broken link", "eval.py", lambda place: place.spoilt(broken_link))
    yield Case("data", "an image of 2.5 gigapixels", "eval.py", lambda place: place.spoilt(
        lambda root: bomb(image_of(root))))  # fmt: skip
    yield Case("data", "unknown colours", "train.py", lambda place: place.spoilt(colour_labels))
    yield Case("data", "nothing but void to score", "eval.py", lambda place: place.spoilt(void("test")))
    yield Case("data", "nothing but void to validate", "train.py", lambda place: place.spoilt(void("val")))
    yield Case("data", "nothing but void to learn from", "train.py", lambda place: place.spoilt(void("train")))
    yield Case("data", "no folder", "benchmark.py", lambda place: ["--data-root", place.folder / "none"])
    yield Case("data", "a file for a folder", "prune.py", lambda place: ["--data-root", place.file("data", "x")])
    yield Case("data", "an empty folder", "train.py", lambda place: ["--data-root", place.store.folder / "benchmark"])
    yield Case("data", "a name that is too long", "eval.py", lambda _: ["--data-root", "x" * 300])
    yield Case("data", "CamVid taken for Cityscapes", "eval.py", lambda _: ["--dataset", "cityscapes"])
    yield from own_images()


def own_images() -> Iterator[Case]:
    """Folders of the user's own with something wrong in them."""

    def case(name: str, change: Callable[[Path], Any], *flags: str, script: str = "train.py") -> Case:
        def words(place: Place) -> list[Any]:
            root = colour_set(place.folder / "own", each=2)
            (root / "classes.yaml").write_text(OWN)
            change(root)
            return ["--dataset", "folder", "--data-root", root, *flags]

        return Case("data", f"own images: {name}", script, words, without=("--ckpt",) if script == "train.py" else ())

    def mask(root: Path) -> Path:
        return root / "masks" / "train" / "train0.PNG"

    def described(text: str) -> Callable[[Path], Any]:
        return lambda root: (root / "classes.yaml").write_text(text)

    yield case("no description", lambda root: (root / "classes.yaml").unlink())
    yield case("a description that is none", described("classes: [a, b"))
    yield case("a description of other masks", described("classes: [a, b, c]"))
    yield case("a colour that is not described", described(OWN.replace("30", "31")))
    yield case("a size that is none", described(OWN + "input-size: [0, 32]"))
    yield case("a description that is a folder", lambda root: as_folder(root / "classes.yaml"))
    yield case("an image without a mask", lambda root: mask(root).unlink())
    yield case("a mask that is no image", lambda root: mask(root).write_bytes(b"\xff\xd8\xff"))
    yield case("a mask that is cut off", lambda root: truncated(mask(root)))
    yield case("two masks of an image", lambda root: shutil.copy(mask(root), mask(root).with_name("train0_mask.PNG")))
    yield case("two folders of masks", lambda root: shutil.copytree(root / "masks", root / "labels"))
    yield case("no folder of masks", lambda root: shutil.rmtree(root / "masks"))
    yield case("no images at all", lambda root: [path.unlink() for path in (root / "images").rglob("*.png")])
    yield case("a list of pairs that is none", lambda root: (root / "pairs.csv").write_bytes(b"\xff\xfe,\x00"))
    yield case("a seed of a split that is not drawn", lambda _: None, "--split-seed", "1")
    yield case("another network's images", lambda _: None, script="eval.py")
    yield Case("data", "own images: a description for CamVid", "prune.py", lambda place: ["--classes-file", place.file(
        "classes.yaml", OWN)])  # fmt: skip


def broken_link(root: Path) -> None:
    """An image that is a link to nowhere."""
    image = image_of(root)
    image.unlink()
    image.symlink_to("nowhere")
