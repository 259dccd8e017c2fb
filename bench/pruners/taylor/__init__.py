"""Taylor: the first-order change of the loss when a channel goes."""

METHODS = {
    "taylor": (
        "bench.pruners.taylor.pruner",
        "Taylor",
        "loss change of a closing gate (Molchanov et al., CVPR 2019)",
    ),
}
