"""Prunes every network by every method through prune.py on drawn scenes, and evaluates each file through eval.py.

    python -m tests.benchmarks.methods_matrix [--models unet_small,segnet] [--methods l1,taylor] [--ratio 0.3]

Random weights, 64x64 pixels, few images and the shortest searches (`SHORT`): it shows that every pair works, not how
well. A pair that fails is named with its error, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

import eval as eval_script
import prune as prune_script
from bench.datasets.synthetic import draw_dataset
from bench.errors import BenchError
from bench.models import MODELS, ModelSpec, build_model
from bench.models.checkpoint import SavedModel, save_model
from bench.pruners import methods

SIZE = (64, 64)
SHORT = {"dmcp": "steps=2", "slimming": "sparse_epochs=1"}
"""Options that make a method's own training short."""


def prune_and_evaluate(model: str, method: str, ratio: float, checkpoint: Path, folder: Path, data: list[str]) -> str:
    """Runs both scripts on one pair; returns what came of it."""
    out = folder / f"{model}_{method}"
    words = ["--ckpt", str(checkpoint), "--method", method, "--global-ratio", str(ratio), "--save", str(out), *data]
    words += ["--calib-images", "2", "--calib-batch-size", "2", "--recalibration-images", "4"]
    words += ["--opt", SHORT[method]] if method in SHORT else []
    prune_script.main([*words, "--model", model])
    report = out / "eval.json"
    candidate = str(out / "pruned_model.pt")
    eval_script.main(["--baseline", str(checkpoint), "--candidate", candidate, "--report", str(report), *data])
    measured = json.loads(report.read_text(encoding="utf-8"))["change"]
    return f"{measured['macs_percent']:+.0f}%"


def main() -> None:
    """Runs the matrix."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--methods", default=",".join(methods()))
    parser.add_argument("--ratio", type=float, default=0.3)
    arguments = parser.parse_args()
    names = arguments.methods.split(",")
    failures: list[str] = []
    done = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw_dataset(folder / "scenes", images={"train": 4, "val": 2, "test": 2}, size=SIZE)
        data = ["--dataset", "camvid", "--data-root", str(folder / "scenes"), "--input-size", "64,64"]
        data += ["--num-workers", "0", "--no-latency", "--threads", str(torch.get_num_threads())]
        print("MACs after removing the same share of channels by each method")
        for model in arguments.models.split(","):
            began = time.perf_counter()
            torch.manual_seed(0)
            spec = ModelSpec(model, 12)
            checkpoint = folder / f"{model}.pt"
            save_model(checkpoint, SavedModel(build_model(spec), spec, meta={"input_size": list(SIZE)}))
            cells = []
            for method in names:
                try:
                    with contextlib.redirect_stdout(io.StringIO()):
                        macs = prune_and_evaluate(model, method, arguments.ratio, checkpoint, folder, data)
                    cells.append(f"{method} {macs}")
                    done += 1
                except BenchError as error:
                    failures.append(f"{model} x {method}: {error}")
            print(f"{model:20} {', '.join(cells)}  ({time.perf_counter() - began:.0f} s)", flush=True)
            checkpoint.unlink()
    print(f"{done} of {done + len(failures)} pairs pruned by prune.py and evaluated by eval.py")
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
