"""A dense network on CamVid, as many epochs as there is time for; the next call goes on with it.

Two epochs tell how long one takes; then the run is extended to as many as fit, so that the learning rate is at its end
when the time is. `baseline/` in the folder of the records holds the run, which `train.py --resume` goes on with, too,
and `best_half.pt`, the best network in half precision, which takes half as long to carry away.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.commands import train
from bench.models.checkpoint import load_model, save_model
from bench.system.files import read_json
from bench.system.run_folder import BEST, CONFIG, REPORT, is_done
from bench.training.state import finished_epochs
from tests.device_day.day import NotHere, Part, Row, Setting, Step

TRIAL, HALF = 2, "best_half.pt"
# Of the time that is left: the last scoring, and epochs that take longer than the first ones, need the rest.
SAFE = 0.85


def trained(setting: Setting, deadline: float) -> list[Row]:
    """Trains, and says how far that got.

    Raises:
        NotHere: there is no CamVid.
    """
    root, folder, name = setting.data_root, setting.out / "baseline", setting.baseline
    if root is None or not (root / "train").is_dir():
        raise NotHere("no CamVid here: pass --data-root DIR")
    size = ",".join(map(str, setting.input_size))
    words = ["--recipe", f"camvid/{name}", "--data-root", str(root), "--save", str(folder), "--resume", "--cache",
             "--input-size", size, "--crop-size", size, "--eval-every", "5", "--num-workers", str(setting.workers),
             "--device", str(setting.device), "--amp", "bf16", "--channels-last"]  # fmt: skip

    def train_to(epochs: int) -> float:
        """Trains to a number of epochs; returns the seconds an epoch."""
        before, began = finished_epochs(folder) or 0, time.monotonic()
        train.main([*words, "--epochs", str(epochs)])
        return (time.monotonic() - began) / max(1, epochs - before)

    is_new = finished_epochs(folder) is None
    if not is_new and not is_done(folder, BEST, REPORT):
        # It was stopped; only a finished run may be given another number of epochs.
        train_to(read_json(folder / CONFIG)["epochs"])
    done = finished_epochs(folder) or 0
    if done < setting.most_epochs:
        seconds = train_to(min(done + TRIAL, setting.most_epochs))
        more = int(SAFE * (deadline - time.monotonic()) / seconds)
        if more > 0:
            train_to(min(done + TRIAL + more, setting.most_epochs))
    report, best = read_json(folder / REPORT), load_model(folder / BEST)
    best.model.half()
    save_model(folder / HALF, best)
    row = {"model": name, "epochs": report["epochs"], "best_epoch": report["best_epoch"]}
    return [{**row, "val_miou": report["val"]["miou"], "test_miou": report["test"]["miou"]}]


def steps(setting: Setting) -> Iterator[Step]:
    """One."""
    yield Step(setting.baseline, lambda deadline: trained(setting, deadline), goes_on=True)


COLUMNS = {"model": "", "epochs": "d", "best_epoch": "d", "val_miou": ".2%", "test_miou": ".2%"}
PART = Part("baseline", "A dense network on CamVid", 1.0, steps, COLUMNS)
