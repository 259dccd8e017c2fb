"""First-order Taylor importance."""

METHODS = {
    "taylor": (
        "bench.pruners.taylor.pruner",
        "Taylor",
        "loss change of a closing gate (Molchanov et al., CVPR 2019)",
    ),
}
