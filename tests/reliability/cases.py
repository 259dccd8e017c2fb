"""The bad inputs, by kind. Each spoils a command that would succeed."""

from __future__ import annotations

import io
import os
import pickle
import resource
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.own_images import colour_set
from tests.reliability.place import SCRIPTS, SIZE, Case, Place, Surroundings, image_of, label_of, write_label

SAVES = {"train.py": "--save", "prune.py": "--save", "benchmark.py": "--out-dir"}

# Script, flags separated by spaces. A value with a space in it is no bad input of these.
FLAGS = """
    train.py --epochs 0
    train.py --epochs -3
    train.py --epochs many
    train.py --batch-size 0
    train.py --batch-size 1.5
    train.py --lr nan
    train.py --lr inf
    train.py --lr -0.1
    train.py --momentum -1
    train.py --weight-decay nan
    train.py --ema 1
    train.py --milestones 0.5,2
    train.py --optimizer adam
    train.py --schedule cosine
    train.py --amp fp16
    train.py --amp int4
    train.py --accumulate 0
    train.py --eval-every 0
    train.py --crop-size 0,32
    train.py --aux-weight nan
    train.py --sparsity-lambda -1
    train.py --resume --overwrite
    train.py --pretrained-backbone none.pth
    train.py --sliding-window 8,8 --stride 9,9
    train.py --lr 1e30 --amp bf16
    train.py --distill-weight 1
    prune.py --global-ratio 1
    prune.py --global-ratio nan
    prune.py --global-ratio 30%
    prune.py --target-macs 0.5
    prune.py --method tailor
    prune.py --method taylor,l1
    prune.py --opt term
    prune.py --opt term=gamma
    prune.py --method taylor --opt term=[
    prune.py --method taylor --opt trem=gamma
    prune.py --method taylor --opt term=3
    prune.py --method papm --classes 99
    prune.py --method papm --alpha 7
    prune.py --method papm --norm-scale most
    prune.py --method magnitude --opt rules=none.yaml
    prune.py --method magnitude --round-to 8
    prune.py --method slimming --iterations 2
    prune.py --scope everywhere
    prune.py --min-keep 2
    prune.py --max-ratio nan
    prune.py --min-keep 0.9
    prune.py --round-to 0
    prune.py --ratio-of nothing*=0.5
    prune.py --ratio-of downs*
    prune.py --ratio-of downs*=1.5
    prune.py --ignore nothing*
    prune.py --reconstruction-layers nothing*
    prune.py --calib-images 0
    prune.py --calib-batch-size -1
    prune.py --recalibration-images 0
    prune.py --iterations 0
    prune.py --finetune-between 5
    prune.py --sensitivity
    prune.py --auto-search
    prune.py --list-groups --ckpt none.pt
    eval.py --split everything
    eval.py --picture p.png --picture-index 99
    eval.py --predict p --predict-ids label
    eval.py --stride 8,8
    eval.py --sliding-window 0,8
    eval.py --scales 1,0
    eval.py --scales inf
    eval.py --boundary-width 1.5
    eval.py --html-images -1
    eval.py --int8 --int8-images 0
    eval.py --latency --latency-runs 0
    eval.py --latency --latency-amp fp8
    eval.py --latency --latency-seconds 0
    eval.py --eval-batch-size 0
    eval.py --input-size 360
    eval.py --input-size 0,0
    eval.py --input-size -24,32
    benchmark.py --methods tailor,l1
    benchmark.py --methods ,
    benchmark.py --ratios 0.1,1.5
    benchmark.py --ratios a
    benchmark.py --seeds x
    benchmark.py --seeds -1
    benchmark.py --target-size 10MB
    benchmark.py --opt term=gamma
    benchmark.py --opt taylor.term=gamma
    benchmark.py --oracle --oracle-images 0
    benchmark.py --oracle --oracle-ratios 2
    benchmark.py --train-baseline --baseline x.pt
    benchmark.py --finetune-epochs -1
    benchmark.py --iterations 2 --methods magnitude
    benchmark.py --distill-weight 1
    finetune_batch.py --finetune-epochs 0
    finetune_batch.py --finetune-lr 0
    finetune_batch.py --distill-temperature 0
    finetune_batch.py --distill-weight -1
    finetune_batch.py --batch-size 0
"""
ON_EVERY_COMMAND = """
    --dataset camvd
    --model resnet50seg
    --device cuda:99
    --device tpu
    --threads 0
    --num-workers -1
    --seed 1.5
    --no-such-flag
"""
MISSING = (
    ("train.py", "--save"),
    ("prune.py", "--ckpt"),
    ("prune.py", "--method"),
    ("prune.py", "--global-ratio"),
    ("prune.py", "--save"),
    ("eval.py", "--baseline"),
    ("eval.py", "--report"),
    ("benchmark.py", "--out-dir"),
    ("benchmark.py", "--ratios"),
    ("benchmark.py", "--baseline"),
    ("finetune_batch.py", "--benchmark-dir"),
    ("finetune_batch.py", "--baseline"),
)


def flags() -> Iterator[Case]:
    """Values that are no values, names that are none, and flags that contradict each other."""
    lines = [line.split() for line in FLAGS.strip().splitlines()]
    for number, line in enumerate(ON_EVERY_COMMAND.strip().splitlines()):
        lines += [[script, *line.split()] for script in (SCRIPTS[number % 5], SCRIPTS[(number + 2) % 5])]
    for script, *words in lines:
        yield Case("flags", " ".join(words), script, lambda _, words=words: words)
    for script, flag in MISSING:
        yield Case("flags", f"no {flag}", script, lambda _: [], without=(flag,))


def config() -> Iterator[Case]:
    """Files of defaults that are none."""
    contents = {
        "an unknown key": b"data-rot: x\n",
        "a value of another type": b"epochs: many\nratios: many\nseed: many\n",
        "a list": b"- l1\n- l2\n",
        "a mapping for a value": b"model: {name: unet}\n",
        "not YAML": b"a: b\nmethods: [l1, l2\n",
        "a control character": b"a: \0\n",
        "not text": b"PK\x03\x04\xff\xfe\x80",
        "a Python object": b"seed: !!python/object/apply:os.getcwd []\n",
        "an alias that is not there": b"seed: *other\n",
        "a tab": b"seed:\n\t1\n",
        "a date": b"seed: 2020-01-01\n",
        "a value that contains itself": b"opt: &a {b: *a}\nratio-of: &c {d: *c}\n",
        "deep nesting": b"seed: " + b"[" * 3000 + b"]" * 3000,
    }
    for number, (name, content) in enumerate(contents.items()):
        script = "prune.py" if "itself" in name else SCRIPTS[number % 5]
        yield Case("config", name, script, lambda place, content=content: ["--config", place.file("c.yaml", content)])
    yield Case("config", "a file that is not there", "train.py", lambda _: ["--config", "none.yaml"])
    yield Case("config", "a folder", "eval.py", lambda place: ["--config", place.folder])
    yield Case("config", "a name that is too long", "prune.py", lambda _: ["--config", "x" * 300])
    yield Case("config", "no file behind --config", "benchmark.py", lambda _: ["--config"])


def done(*_: Any) -> list[Any]:
    """No further flags, when that was done."""
    return []


def truncated(path: Path) -> None:
    """Cuts a file in half."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


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


class Pickled:
    """An object that no checkpoint may hold: opening it would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def first_weight(content: dict[str, Any]) -> str:
    return next(name for name, tensor in content["state_dict"].items() if tensor.dim() == 4)


def set_weight(value: float) -> Callable[[dict[str, Any]], None]:
    """One weight becomes a value."""

    def change(content: dict[str, Any]) -> None:
        content["state_dict"][first_weight(content)].view(-1)[0] = value

    return change


def checkpoint() -> Iterator[Case]:
    """Files that are no networks, or not the one that is wanted."""
    files: dict[str, Callable[[Place], Any]] = {
        "a file that is not there": lambda place: place.ckpt(place.folder / "none.pt"),
        "an empty file": lambda place: place.ckpt(place.file("x.pt", b"")),
        "text": lambda place: place.ckpt(place.file("x.pt", "not a checkpoint")),
        "a file that is cut off": lambda place: place.ckpt(
            place.file("x.pt", place.store.baseline.read_bytes()[:20000])
        ),
        "a file with changed bytes": lambda place: place.ckpt(place.file("x.pt", flipped(place.store.baseline))),
        "a folder": lambda place: place.ckpt(place.folder),
        "a pickled object": lambda place: place.ckpt(place.file("x.pt", pickle.dumps(Pickled()))),
        "an object in an archive": lambda place: saved(place, Pickled()),
        "a whole pickled module": lambda place: saved(place, torch.nn.Conv2d(3, 4, 1)),
        "a list": lambda place: saved(place, [1, 2]),
        "an empty mapping": lambda place: saved(place, {}),
        "a name that is too long": lambda place: place.ckpt("x" * 300),
        "a format of the future": lambda place: place.changed(lambda content: content.update(format="bench/9")),
        "no format": lambda place: place.changed(lambda content: content.pop("format") and {"x": 1}),
        "no tensors": lambda place: place.changed(lambda content: {k: content[k] for k in ("format", "model")}),
        "no network": lambda place: place.changed(lambda content: {k: v for k, v in content.items() if k != "model"}),
        "no meta": lambda place: place.changed(lambda content: {k: v for k, v in content.items() if k != "meta"}),
        "an unknown network": lambda place: place.changed(lambda content: content["model"].update(name="resnext")),
        "an unknown argument": lambda place: place.changed(lambda content: content["model"].update(kwargs={"a": 1})),
        "an impossible argument": lambda place: place.changed(
            lambda content: content["model"].update(kwargs={"width": "wide"})
        ),
        "no outputs": lambda place: place.changed(lambda content: content["model"].update(outputs=-1)),
        "outputs in words": lambda place: place.changed(lambda content: content["model"].update(outputs="twelve")),
        "a missing tensor": lambda place: place.changed(lambda content: without_first(content)),
        "a tensor too many": lambda place: place.changed(
            lambda content: content["state_dict"].update(extra=torch.zeros(1))
        ),
        "a tensor of another shape": lambda place: place.changed(
            lambda content: content["state_dict"].update({first_weight(content): torch.zeros(2, 2)})
        ),
        "a number for a tensor": lambda place: place.changed(
            lambda content: content["state_dict"].update({first_weight(content): 3})
        ),
        "a list for the tensors": lambda place: place.changed(lambda content: content.update(state_dict=[1])),
        "an input size in words": lambda place: place.changed(lambda content: content.update(meta={"input_size": "x"})),
        "an input size of one number": lambda place: place.changed(
            lambda content: content.update(meta={"input_size": [24]})
        ),
        "a nan": lambda place: place.changed(set_weight(float("nan"))),
        "an infinity": lambda place: place.changed(set_weight(float("inf"))),
        "layers that do not fit together": lambda place: place.changed(narrow_one, place.store.pruned),
        "channels that are no mapping": lambda place: place.changed(lambda content: content.update(channels=[1])),
        "a plain state dict of another network": lambda place: saved(place, torch.nn.Conv2d(3, 4, 1).state_dict()),
    }
    takers = ("prune.py", "eval.py", "benchmark.py", "finetune_batch.py", "train.py")
    for number, (name, words) in enumerate(files.items()):
        yield Case("checkpoint", name, takers[number % 5], words)
    yield Case("checkpoint", "a nan", "prune.py", files["a nan"])
    yield Case("checkpoint", "layers that do not fit together", "train.py", files["layers that do not fit together"])
    yield Case("checkpoint", "another network", "train.py", lambda _: ["--model", "unet"])
    yield Case("checkpoint", "other classes", "prune.py", lambda place: place.changed(nineteen_outputs))
    candidates: dict[str, Callable[[Place], Any]] = {
        "a candidate that is not there": lambda _: ["--candidate", "none.pt"],
        "a candidate of other classes": lambda place: ["--candidate", place.changed(nineteen_outputs)[1]],
        "a candidate that is cut off": lambda place: ["--candidate", place.file("x.pt", b"PK\x03\x04")],
        "a candidate with a nan": lambda place: ["--candidate", place.changed(set_weight(float("nan")))[1]],
    }
    for name, words in candidates.items():
        yield Case("checkpoint", name, "eval.py", words)
    for name, damage in {"cut off": lambda path: truncated(path), "empty": lambda path: path.write_bytes(b"")}.items():
        yield Case("checkpoint", f"a pruned network of the benchmark that is {name}", "finetune_batch.py",
                   lambda place, damage=damage: done(damage(place.job / "pruned_model.pt")))  # fmt: skip


def saved(place: Place, content: Any) -> list[Any]:
    """The flags for a file of `torch.save`."""
    torch.save(content, place.folder / "x.pt")
    return place.ckpt(place.folder / "x.pt")


def flipped(path: Path) -> bytes:
    """The bytes of a file, with some in the middle of its records turned round."""
    content = bytearray(path.read_bytes())
    for position in range(500, 700):
        content[position] ^= 0xFF
    return bytes(content)


def without_first(content: dict[str, Any]) -> None:
    del content["state_dict"][first_weight(content)]


def narrow_one(content: dict[str, Any]) -> None:
    """One layer of a pruned network gives fewer channels than the next one takes."""
    name = first_weight(content)
    content["state_dict"][name] = content["state_dict"][name][:-1].clone()


def nineteen_outputs(content: dict[str, Any]) -> None:
    """The same network for another data set."""
    content["model"]["outputs"] = 19
    for name, tensor in content["state_dict"].items():
        if tensor.shape and tensor.shape[0] == 12:
            content["state_dict"][name] = tensor.new_zeros(19, *tensor.shape[1:])


def out_of(script: str, folder: Path | str) -> list[Any]:
    """The flags that make a folder the command's output."""
    return [SAVES[script], folder] if script in SAVES else ["--report", f"{folder}/report.json"]


def folder() -> Iterator[Case]:
    """Places that cannot be written, and what earlier runs left there."""
    for script in (*SAVES, "eval.py"):
        yield Case("folder", "an output below a file", script,
                   lambda place, script=script: out_of(script, place.file("file", "mine") / "below"))  # fmt: skip
        yield Case("folder", "an output that is not to be written", script,
                   lambda _, script=script: out_of(script, "/proc/none"))  # fmt: skip
        yield Case("folder", "a name that is too long", script,
                   lambda place, script=script: out_of(script, place.folder / ("x" * 300)))  # fmt: skip
    yield Case("folder", "an output that is a file", "train.py", lambda place: ["--save", place.file("file", "mine")])
    yield Case("folder", "a report that is a folder", "eval.py", lambda place: ["--report", place.folder])
    yield Case("folder", "a picture that is a folder", "eval.py", lambda place: ["--picture", place.folder])
    yield Case("folder", "predictions below a file", "eval.py", lambda place: ["--predict", place.file("f", "x") / "b"])
    yield Case("folder", "a network that is a folder", "train.py", lambda place: done(made(place.out / "best.pt")))
    yield Case("folder", "no benchmark", "finetune_batch.py", lambda place: ["--benchmark-dir", place.folder / "none"])
    yield Case("folder", "an empty benchmark", "finetune_batch.py", lambda place: [
        "--benchmark-dir", made(place.folder / "empty")])  # fmt: skip
    yield Case("folder", "a benchmark that is a file", "finetune_batch.py", lambda place: [
        "--benchmark-dir", place.file("file", "x")])  # fmt: skip
    yield Case("folder", "a benchmark of another baseline", "finetune_batch.py", lambda place: place.changed(
        set_weight(0.5)))  # fmt: skip
    records = {"cut off": '{"format": "pruning', "empty": "", "a list": "[1]", "of another format": '{"format": "x/1"}'}
    for name, text in records.items():
        for record in ("pruning_info.json", "report.json"):
            yield Case("folder", f"a {record} that is {name}", "finetune_batch.py",
                       lambda place, record=record, text=text: done((place.job / record).write_text(text)))  # fmt: skip
    yield Case("folder", "nothing but a state to resume", "train.py",
               lambda place: [*done(place.file("out/last.pt", b"x")), "--resume"])  # fmt: skip
    yield Case("folder", "a finished run", "train.py", lambda place: done(
        place.file("out/done", ""), place.file("out/report.json", "{}"),
        place.file("out/best.pt", place.store.baseline.read_bytes())))  # fmt: skip


def made(path: Path) -> Path:
    """A folder, made now."""
    path.mkdir(parents=True)
    return path


def limited(what: int, amount: int) -> Callable[[], None]:
    """Sets a limit on the process."""
    return lambda: resource.setrlimit(what, (amount, amount))


def gone() -> None:
    """The working folder is removed."""
    place = Path.cwd() / "gone"
    place.mkdir()
    os.chdir(place)
    place.rmdir()


def environment() -> Iterator[Case]:
    """What a process finds, each in one of its own."""

    def case(name: str, script: str, words: Callable[[Place], list[Any]] | None = None, **settings: Any) -> Case:
        may_succeed = settings.pop("may_succeed", False)
        process = Surroundings(**settings)
        return Case("environment", name, script, words or (lambda _: []), (), process, may_succeed)

    for script in SCRIPTS:
        yield case("no more than 8 KiB in a file", script, before=limited(resource.RLIMIT_FSIZE, 8192))
    yield case("a full stdout", "prune.py", stdout="/dev/full")
    yield case("a full stdout for a listing", "prune.py", lambda _: ["--list-models"], stdout="/dev/full")
    yield case("a full stdout for help", "eval.py", lambda _: ["--help"], stdout="/dev/full")
    yield case("a closed stdout", "eval.py", closed=(1,), may_succeed=True)
    yield case("a closed stdout and a bad flag", "train.py", lambda _: ["--epochs", 0], closed=(1,))
    yield case("a closed stderr and a bad flag", "train.py", lambda _: ["--epochs", 0], closed=(2,), silent=True)
    yield case("all closed and a bad flag", "eval.py", lambda _: ["--split", "x"], closed=(0, 1, 2), silent=True)
    yield case("no HOME", "benchmark.py", unset=("HOME",), may_succeed=True)
    yield case("no HOME and a bad flag", "benchmark.py", lambda _: ["--ratios", "2"], unset=("HOME",))
    yield case("a HOME and TMPDIR below a file", "benchmark.py", set={"HOME": "/dev/null/x", "TMPDIR": "/dev/null/x"},
               may_succeed=True)  # fmt: skip
    yield case("ASCII alone and a path that is not", "prune.py", lambda _: ["--ckpt", "straße.pt"],
               set={"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})  # fmt: skip
    yield case("ASCII alone", "eval.py", set={"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
               may_succeed=True)  # fmt: skip
    yield case("bytes that are no text in a path", "eval.py", lambda _: ["--data-root", os.fsdecode(b"/tmp/\xff\xfe")])
    yield case("bytes that are no text in an output", "prune.py",
               lambda place: ["--save", place.folder / os.fsdecode(b"\xff")], may_succeed=True)  # fmt: skip
    yield case("no working folder", "prune.py", lambda _: ["--ckpt", "none.pt"], before=gone)
    yield case("no working folder, and data beside it", "eval.py", lambda _: ["--dataset", "synthetic", "--data-root",
               "data"], before=gone)  # fmt: skip
    yield case("12 open files", "eval.py", before=limited(resource.RLIMIT_NOFILE, 12), may_succeed=True)
    yield case("an image size of terabytes", "eval.py", lambda _: ["--input-size", "900000,900000"],
               before=limited(resource.RLIMIT_AS, 6 << 30))  # fmt: skip
    yield case("a crop of terabytes", "train.py", lambda _: ["--crop-size", "900000,900000"],
               before=limited(resource.RLIMIT_AS, 6 << 30))  # fmt: skip
    yield case("a rank outside the world", "train.py", set={"RANK": "5", "WORLD_SIZE": "2", "LOCAL_RANK": "5",
               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"})  # fmt: skip
    yield case("a rank in words", "train.py", set={"RANK": "first", "WORLD_SIZE": "two", "LOCAL_RANK": "x"})
    yield case("threads in words", "prune.py", lambda _: ["--ckpt", "none.pt"], set={"OMP_NUM_THREADS": "many"})
    yield case("loader processes without open files", "train.py", lambda _: ["--num-workers", 2],
               before=limited(resource.RLIMIT_NOFILE, 16))  # fmt: skip
    for script in ("train.py", "prune.py", "eval.py", "benchmark.py"):
        yield case("a full disk", script, lambda place, script=script: out_of(script, full_disk(place)))


def full_disk(place: Place) -> Path:
    """A file system of 16 KiB, where that may be made; else it raises, and the case is left out."""
    folder = made(place.folder / "disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        raise PermissionError("file systems cannot be mounted here")
    return folder / "out"


KINDS = (flags, config, data, checkpoint, folder, environment)
CASES = [case for kind in KINDS for case in kind()]
