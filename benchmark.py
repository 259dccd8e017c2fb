"""Compares pruning methods: every method at every target with every seed, on the same baseline and data.

    python benchmark.py --config configs/quick.yaml
    python benchmark.py --dataset camvid --data-root ./datasets/camvid --model resnet50_seg \
        --baseline ./runs/camvid_resnet50_seg/best.pt --methods taylor,fpgm,fgp,sirfp --ratios 0.1 \
        --out-dir ./runs/camvid_benchmark
"""

from __future__ import annotations

from bench.cli.entry import run
from bench.commands.benchmark import main

if __name__ == "__main__":
    run(main)
