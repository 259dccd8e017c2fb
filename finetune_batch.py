"""Fine-tunes every pruned network of a benchmark by the same recipe.

    python finetune_batch.py --benchmark-dir ./runs/camvid_benchmark --dataset camvid \
        --data-root ./datasets/camvid --model resnet50_seg --baseline ./runs/camvid_resnet50_seg/best.pt \
        --finetune-epochs 20
"""

from __future__ import annotations

from bench.cli.entry import run
from bench.commands.finetune_batch import main

if __name__ == "__main__":
    run(main)
