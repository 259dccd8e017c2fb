"""SIRFP: spatially aware redundancy between channels."""

METHODS = {
    "sirfp": (
        "bench.pruners.sirfp.pruner",
        "Sirfp",
        "spatial redundancy among the channels of a layer (Wu et al., AAAI 2025)",
    ),
}
