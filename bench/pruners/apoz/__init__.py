"""Average percentage of zeros, by itself and with the norm of the filter."""

METHODS = {
    "apoz": ("bench.pruners.apoz.pruner", "APoZ", "share of activations that are not zero (Hu et al., 2016)"),
    "papm": ("bench.pruners.apoz.papm", "PAPM", "alpha * norm of the filter + (1 - alpha) * (1 - APoZ)"),
}
