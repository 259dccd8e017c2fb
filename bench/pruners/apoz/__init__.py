"""APoZ and PAPM: the share of a channel's activations that are zero, by itself and with the norm of its filter."""

METHODS = {
    "apoz": ("bench.pruners.apoz.pruner", "APoZ", "share of activations that are not zero (Hu et al., 2016)"),
    "papm": ("bench.pruners.apoz.papm", "PAPM", "alpha * norm of the filter + (1 - alpha) * (1 - APoZ)"),
}
