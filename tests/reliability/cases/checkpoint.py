"""Files of networks that are damaged, foreign or of another network."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.reliability.place import (
    Case,
    Place,
    done,
    truncated,
)


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
