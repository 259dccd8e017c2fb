"""MEASURE: quality, cost and latency of a network, and the baseline it is compared with."""
