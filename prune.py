"""Prunes a trained network by one method.

    python prune.py --dataset camvid --data-root ./datasets/camvid --model resnet50_seg \
        --ckpt ./runs/camvid_resnet50_seg/best.pt --method taylor --global-ratio 0.1 \
        --save ./runs/taylor_pruned --input-size 360,480
"""

from __future__ import annotations

from bench.cli.entry import run
from bench.commands.prune import main

if __name__ == "__main__":
    run(main)
