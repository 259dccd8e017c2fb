"""One L1 ranking over the whole network."""

METHODS = {
    "l1_global": ("bench.pruners.l1_global.pruner", "L1Global", "L1 norm of the filter, ranked over the whole network"),
}
