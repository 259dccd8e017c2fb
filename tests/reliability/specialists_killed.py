"""Kills each step of `python -m bench.specialists` in the middle, goes on, and compares with a run that was let be.

    python -m tests.reliability.specialists_killed [--out DIR] [--signal KILL|INT|TERM]

Each step runs as a process of its own on a tiny drawn set. When it has said a line that shows it in the middle of its
work, it is sent the signal; then it is given again. In the end every tensor of every file is that of the other run, the
logits of the fused specialists are, too, no process is left and no file is half-written. Prints one line a check; the
exit status is 1 where one fails.
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

import torch

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


def leftovers(folder: Path) -> list[str]:
    """Files that a killed writer leaves until the next comes by, and unfinished trainings."""
    return [path.name for path in folder.rglob("*") if path.name in ("last.pt", "fusion_last.pt", "fusion_best.pt")]


def main() -> None:
    """Runs both and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--signal", choices=("KILL", "INT", "TERM"), default="KILL")
    asked = parser.parse_args()
    root = (asked.out or Path(tempfile.mkdtemp())) / "killed"
    number = signal.Signals[f"SIG{asked.signal}"]
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

    quiet, broken = root / "quiet", root / "broken"
    for step, flags in dict.fromkeys((step, tuple(flags)) for step, flags, _ in STEPS):
        for until in (until for other, _, until in STEPS if other == step):
            code, said = run(words_of(step, list(flags), root, broken), until, number)
            stopped = -9 if asked.signal == "KILL" else 130
            check(f"{step} is stopped ({until})", code == stopped, f"exit code {code}, {said}")
            if asked.signal != "KILL":
                last = said.strip().splitlines()[-1]
                check(f"{step} says so in one line", last.endswith("interrupted") and "Traceback" not in said, said)
        for out in (quiet, broken):
            code, said = run(words_of(step, list(flags), root, out))
            check(f"{step} ends well in {out.name}", code == 0, said)
    names = sorted(
        path.relative_to(quiet).as_posix()
        for path in quiet.rglob("*.pt")
        if "work" not in path.relative_to(quiet).parts
    )
    check("two specialists, a head and a single network", len(names) == 4, str(names))
    for name in names:
        one, other = tensors(quiet / name), tensors(broken / name)
        same = one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        check(f"{name} is the same", same)
    records = [json.loads((out / "devices2_th77" / "inference.json").read_text()) for out in (quiet, broken)]
    check("the logits are the same", records[0]["logits_sha256"] == records[1]["logits_sha256"])
    check("the quality is the same", records[0]["quality"] == records[1]["quality"])
    check("no unfinished training is left", leftovers(broken) == [], str(leftovers(broken)))
    for path in broken.rglob("*.json"):
        json.loads(path.read_text())
    check("every record is whole", True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
