"""Cuts networks drawn at random and says of how many a cut that was called possible is wrong.

    PYTHONPATH=tests python -m tests.reliability.random_cuts [--networks 200]

The exit status is 1 where one is.
"""

from __future__ import annotations

import argparse
import sys

from random_networks import fault_of


def main() -> int:
    """Goes through the seeds from 0 and prints what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=200)
    arguments = parser.parse_args()
    faults = {seed: fault for seed in range(arguments.networks) if (fault := fault_of(seed)) is not None}
    for seed, fault in faults.items():
        print(f"network {seed}: {fault}")
    print(f"{len(faults)} of {arguments.networks} networks are cut wrongly")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
