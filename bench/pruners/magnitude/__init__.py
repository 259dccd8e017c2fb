"""Magnitude of single weights, by a table of categories (unstructured)."""

METHODS = {
    "magnitude": (
        "bench.pruners.magnitude.pruner",
        "Magnitude",
        "unstructured: zeroes single weights by a rule table; removes no channel and is no speed-up",
    )
}
