"""Looks through a folder of images and masks: which ids or colours there are, how many pixels of each, what is missing.

    python -m bench.datasets.scan DIR

prints the counts, and writes a draft of the `classes.yaml` that the data set `folder` needs.
"""
