"""Measures a network beside its baseline, or a baseline alone: quality, cost, latency.

    python eval.py --dataset camvid --data-root ./datasets/camvid --model resnet50_seg \
        --baseline ./runs/camvid_resnet50_seg/best.pt --candidate ./runs/taylor_pruned/pruned_model.pt \
        --report ./runs/taylor_pruned/report.json
"""

from __future__ import annotations

from bench.cli.entry import run
from bench.commands.eval import main

if __name__ == "__main__":
    run(main)
