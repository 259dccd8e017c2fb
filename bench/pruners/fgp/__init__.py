"""Feature-gradient support of a channel for the classes."""

METHODS = {
    "fgp": (
        "bench.pruners.fgp.pruner",
        "Fgp",
        "support of the classes by gradient-weighted features (Lv et al., 2024)",
    ),
}
