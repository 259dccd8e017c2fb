"""Benchmark framework for structured pruning of semantic-segmentation networks."""

__version__ = "0.1.0"
