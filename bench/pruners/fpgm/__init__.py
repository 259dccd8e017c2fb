"""FPGM: filter pruning via geometric median."""

METHODS = {
    "fpgm": ("bench.pruners.fpgm.pruner", "FPGM", "distance of the filter to all others (He et al., CVPR 2019)"),
}
