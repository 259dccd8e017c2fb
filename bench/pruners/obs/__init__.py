"""OBS: structured optimal brain surgeon on the covariance of what layers read."""

METHODS = {
    "obs": (
        "bench.pruners.obs.pruner",
        "OBS",
        "what its readers lose once they are repaired (Hassibi and Stork 1993; structured)",
    ),
}
