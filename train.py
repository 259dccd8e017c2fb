"""Trains a segmentation network.

    python train.py --dataset camvid --data-root ./datasets/camvid --model resnet50_seg --epochs 300 \
        --batch-size 16 --save ./runs/camvid_resnet50_seg

Several processes: torchrun --nproc_per_node N train.py ...
"""

from __future__ import annotations

from bench.cli.entry import run
from bench.commands.train import main

if __name__ == "__main__":
    run(main)
