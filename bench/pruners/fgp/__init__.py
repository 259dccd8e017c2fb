"""FGP: how much a channel's features support the classes, by their gradients."""

METHODS = {
    "fgp": (
        "bench.pruners.fgp.pruner",
        "Fgp",
        "support of the classes by gradient-weighted features (Lv et al., 2024)",
    ),
}
