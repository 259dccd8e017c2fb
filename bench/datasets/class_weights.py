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


def log_frequency(counts: np.ndarray) -> np.ndarray:
    """Class weights `1 / log(1.02 + p)` (ENet, Paszke et al. 2016), p a class's share of all labelled pixels.

    They lie between 1.4 and 50, so that no rare class drowns the others.

    Args:
        counts: int64 [images, classes], pixels of each class in each image.

    Returns:
        float32 [classes]; 0 for a class without pixels.
    """
    pixels = counts.sum(axis=0)
    weights = 1 / np.log(1.02 + pixels / max(1, pixels.sum()))
    return np.where(pixels > 0, weights, 0).astype(np.float32)
