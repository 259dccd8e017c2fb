"""Network Slimming: BatchNorm scales, after training with a penalty on them."""

METHODS = {
    "slimming": ("bench.pruners.slimming.pruner", "Slimming", "BatchNorm scale |gamma| (Liu et al., ICCV 2017)"),
}
