"""Weights of classes in the loss, by how rare they are."""

from __future__ import annotations

import numpy as np


def median_frequency(counts: np.ndarray) -> np.ndarray:
    """Median-frequency class weights (Eigen and Fergus 2015).

    Args:
        counts: int64 [images, classes], pixels of each class in each image.

    Returns:
        float32 [classes]; 0 for a class without pixels.
    """
    labelled = counts.sum(axis=1, keepdims=True)
    pixels = counts.sum(axis=0)
    present = pixels > 0
    frequency = pixels[present] / np.where(counts > 0, labelled, 0).sum(axis=0)[present]
    weights = np.zeros(counts.shape[1], np.float32)
    if present.any():
        weights[present] = np.median(frequency) / frequency
    return weights
