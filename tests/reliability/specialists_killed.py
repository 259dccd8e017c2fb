"""Stops each step of `python -m bench.specialists` in the middle, goes on, and compares with a run that was let be.

    python -m tests.reliability.specialists_killed [--out DIR] [--signals KILL,INT,TERM]

Each step runs as a process of its own on a tiny drawn set. When it has said a line that shows it in the middle of its
work, it is sent a signal (INT is Ctrl-C); then it is given again. In the end every tensor of every file is that of the
other run, the logits of the fused specialists are, too, and no file is half-written. Prints one line a check; the exit
status is 1 where one fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.config.values import list_of
from bench.datasets.synthetic import draw_dataset
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, save_model
from bench.models.state_dict_file import read_file

# Step, its flags, and what it says when it is in the middle.
STEPS = (
    ("group", [], r"responses to each class"),
    ("prune", ["--finetune-epochs", "3"], r"fine-tuning class\S+ 2/3: loss"),
    ("prune", ["--finetune-epochs", "3"], r"scoring on test|specialist 2 of 2"),
    ("fuse", ["--epochs", "3", "--head-width", "8"], r"fusion head 2/3: loss"),
    ("fuse", ["--epochs", "3", "--head-width", "8"], r"fine-tuning the single network 4/6: loss"),
    ("infer", ["--split"], r"scoring the fused specialists"),
)


def words_of(step: str, flags: list[str], root: Path, out: Path) -> list[str]:
    """The command line of a step."""
    data = ["--dataset", "camvid", "--data-root", str(root / "camvid"), "--input-size", "48,64", "--num-workers", "0"]
    words = [sys.executable, "-u", "-m", "bench.specialists", step, "--out-dir", str(out), *data]
    words += ["--device", "cpu", "--threads", "1", *flags]
    words += ["--baseline", str(root / "best.pt")] if step == "group" else ["--device-counts", "2"]
    words += ["--batch-size", "4"] if step in ("prune", "fuse") else []
    words += ["--calib-images", "8", "--recalibration-images", "8"] if step == "prune" else []
    return words + (["--no-latency"] if step == "infer" else [])


def run(words: list[str], until: str | None = None, number: signal.Signals = signal.SIGKILL) -> tuple[int, str]:
    """Runs a command to its end, or until it has said something and was sent a signal: exit code and what it said."""
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if until and re.search(until, line):
            until = None
            # As a terminal does it, to the whole group; a kill meets one process alone.
            if number == signal.SIGINT:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
    return process.wait(), "".join(said)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Those of a file's network."""
    return read_file(path)["state_dict"]


def inference(out: Path) -> dict[str, Any]:
    """What the last step found."""
    return json.loads((out / "devices2_th77" / "inference.json").read_text())


def leftovers(folder: Path) -> list[str]:
    """Files that a killed writer leaves until the next comes by, and unfinished trainings."""
    return [path.name for path in folder.rglob("*") if path.name in ("best.pt", "last.pt")]


def main() -> None:
    """Runs all and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--signals", type=list_of(str), default=["KILL", "INT"])
    asked = parser.parse_args()
    # What runs in the background of a shell leaves Ctrl-C unheard, and so would the steps.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = (asked.out or Path(tempfile.mkdtemp())) / "killed"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    draw_dataset(root / "camvid", images={"train": 12, "val": 4, "test": 4}, size=(48, 64))
    torch.manual_seed(0)
    spec = ModelSpec("unet_small", 12, {"width": 8, "depth": 1})
    meta = {"dataset": "camvid", "input_size": [48, 64]}
    save_model(root / "best.pt", SavedModel(build_model(spec), spec, meta=meta))
    failed = []

    def check(name: str, holds: bool, why: str = "") -> None:
        print(f"{'holds' if holds else 'FAILS'}  {name}{'' if holds else f': {why[-400:]}'}", flush=True)
        failed.extend([] if holds else [name])

    quiet, broken = root / "quiet", {name: root / name for name in asked.signals}
    for step, flags in dict.fromkeys((step, tuple(flags)) for step, flags, _ in STEPS):
        for name, out in broken.items():
            for until in (until for other, _, until in STEPS if other == step):
                code, said = run(words_of(step, list(flags), root, out), until, signal.Signals[f"SIG{name}"])
                stopped = -signal.SIGKILL if name == "KILL" else 130
                check(f"{name}: {step} is stopped ({until})", code == stopped, f"exit code {code}, {said}")
                if name != "KILL":
                    last = said.strip().splitlines()[-1]
                    is_said = last == "python -m bench.specialists: interrupted" and "Traceback" not in said
                    check(f"{name}: {step} says so in one line", is_said, said)
        for out in (quiet, *broken.values()):
            code, said = run(words_of(step, list(flags), root, out))
            check(f"{out.name}: {step} ends well", code == 0, said)
    names = sorted(
        path.relative_to(quiet).as_posix()
        for path in quiet.rglob("*.pt")
        if "work" not in path.relative_to(quiet).parts
    )
    check("two specialists, a head and a single network", len(names) == 4, str(names))
    expected = inference(quiet)
    for signalled, out in broken.items():
        for name in names:
            one, other = tensors(quiet / name), tensors(out / name)
            same = one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
            check(f"{signalled}: {name} is the same", same)
        found = inference(out)
        check(f"{signalled}: the logits are the same", found["logits_sha256"] == expected["logits_sha256"])
        check(f"{signalled}: the quality is the same", found["quality"] == expected["quality"])
        check(f"{signalled}: no unfinished training is left", leftovers(out) == [], str(leftovers(out)))
        for path in out.rglob("*.json"):
            json.loads(path.read_text())
        check(f"{signalled}: every record is whole", True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
