"""L1 over the whole network: one ranking of all channels."""

METHODS = {
    "l1_global": ("bench.pruners.l1_global.pruner", "L1Global", "L1 norm of the filter, ranked over the whole network"),
}
