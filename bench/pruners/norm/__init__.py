"""L1 and L2 norms of filters, and the random control."""

METHODS = {
    "l1": ("bench.pruners.norm.pruner", "L1", "L1 norm of the filter (Li et al., ICLR 2017)"),
    "l2": ("bench.pruners.norm.pruner", "L2", "L2 norm of the filter (He et al., IJCAI 2018)"),
    "random": ("bench.pruners.norm.pruner", "Random", "control: a random score, exactly as many channels as asked"),
}
