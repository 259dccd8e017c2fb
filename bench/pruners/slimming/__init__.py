"""Network Slimming."""

METHODS = {
    "slimming": ("bench.pruners.slimming.pruner", "Slimming", "BatchNorm scale |gamma| (Liu et al., ICCV 2017)"),
}
