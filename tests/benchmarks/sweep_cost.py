"""What a sweep costs beside the same cells as separate commands: 5 ratios by 6 methods, measured side by side.

    python -m tests.benchmarks.sweep_cost [--commands N]

One `benchmark.py` of 30 cells against 30 times `prune.py` and `eval.py`, each a process of its own on one thread: first
the sweep, then the commands. Seconds are those of the clock and, which other work on the machine changes less, the
processor's. `--commands N` runs only N of the 30 pairs, spread over the methods, and takes the others to be like them.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench.datasets.synthetic import draw_dataset
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, save_model

METHODS = ("l1", "l2", "fpgm", "random", "taylor", "apoz")
RATIOS = ("0.1", "0.2", "0.3", "0.4", "0.5")
SIZE = (96, 128)
ROOT = Path(__file__).resolve().parents[2]


def spent(words: list[str]) -> tuple[float, float]:
    """Seconds by the clock and of the processor that a script takes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, processor


def main() -> None:
    """Measures both and prints them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commands", type=int, default=len(METHODS) * len(RATIOS), metavar="N")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), arguments.commands)


def measure(folder: Path, count: int) -> None:
    """Runs the sweep and so many pairs of commands in a folder."""
    draw_dataset(folder / "camvid", images={"train": 16, "val": 4, "test": 8}, size=SIZE)
    torch.manual_seed(0)
    spec = ModelSpec("unet_small", 12, {})
    baseline = str(folder / "best.pt")
    save_model(baseline, SavedModel(build_model(spec), spec, meta={"input_size": list(SIZE)}))
    data = ["--dataset", "camvid", "--data-root", str(folder / "camvid"), "--num-workers", "0", "--threads", "1"]
    data += ["--no-latency", "--device", "cpu"]
    grid = ["--methods", ",".join(METHODS), "--ratios", ",".join(RATIOS)]
    sweep = spent(["benchmark.py", *data, "--baseline", baseline, *grid, "--out-dir", str(folder / "sweep")])
    cells = [(method, ratio) for ratio in RATIOS for method in METHODS]
    chosen, alone = cells[:: max(1, len(cells) // count)][:count], [0.0, 0.0]
    for method, ratio in chosen:
        out = folder / f"{method}_{ratio}"
        pruned = ["--ckpt", baseline, "--method", method, "--global-ratio", ratio, "--save", str(out)]
        scored = ["--baseline", baseline, "--candidate", str(out / "pruned_model.pt"), "--report"]
        for words in (
            ["prune.py", *data, *pruned],
            ["eval.py", *data, *scored, str(out / "eval.json"), "--no-html"],
        ):
            alone = [total + part for total, part in zip(alone, spent(words), strict=True)]
    whole = [len(cells) / len(chosen) * seconds for seconds in alone]
    said = f"{len(cells)} times prune.py and eval.py"
    said += f" (from {len(chosen)} of them)" if len(chosen) < len(cells) else ""
    print(f"{'':44} {'clock':>9} {'processor':>10}")
    print(f"{f'benchmark.py, {len(cells)} cells':44} {sweep[0]:7.1f} s {sweep[1]:8.1f} s")
    print(f"{said:44} {whole[0]:7.1f} s {whole[1]:8.1f} s")
    print(f"{'share':44} {sweep[0] / whole[0]:9.3f} {sweep[1] / whole[1]:10.3f}")


if __name__ == "__main__":
    main()
