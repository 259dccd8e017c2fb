"""From what a network says to each class to groups of classes: covariance, distances, a tree, its cuts and the best.

Everything is float64 and a pure function of the class responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.specialists.deployment import Group, Grouping


def class_covariance(means: Tensor, spread: Tensor) -> Tensor:
    """Covariance of the classes' responses over the features: float64 [K, D], [D] -> [K, K].

    Each feature is measured from its mean over the classes, in units of its spread: classes are alike that move the
    same features away from that mean in the same direction, and features of a large scale do not decide alone.

    Args:
        means: mean response of each class.
        spread: standard deviation of each feature over all pixels; a feature that never changes says nothing.
    """
    useful = spread > 0
    scaled = (means - means.mean(dim=0))[:, useful] / spread[useful]
    scaled = scaled - scaled.mean(dim=1, keepdim=True)
    return scaled @ scaled.T / max(1, scaled.shape[1] - 1)


def class_distances(covariance: Tensor) -> Tensor:
    """1 - correlation, in [0, 2], 0 on the diagonal: float64 [K, K].

    A class whose responses do not vary is uncorrelated with every other: distance 1.
    """
    deviation = covariance.diagonal().clamp_min(0).sqrt()
    product = deviation[:, None] * deviation[None]
    correlation = torch.where(product > 0, covariance / product.where(product > 0, 1), 0.0)
    # Symmetric to the last bit, which scipy insists on.
    distances = (1 - (correlation + correlation.T) / 2).clamp(0, 2)
    return distances.fill_diagonal_(0)


def silhouette(distances: Tensor, groups: Sequence[Sequence[int]]) -> float:
    """Mean silhouette of the classes (Rousseeuw, J. Comput. Appl. Math. 1987), in [-1, 1].

    Of a class with mean distance a to the others of its group and b to the nearest other group it is
    (b - a) / max(a, b); of a class that is alone, and where both are 0, it is 0.

    Args:
        distances: [K, K].
        groups: at least two, of positions in it; together all of them.
    """
    values = []
    for group in groups:
        for member in group:
            others = [number for number in group if number != member]
            if not others:
                values.append(0.0)
                continue
            inside = distances[member, others].mean().item()
            outside = min(distances[member, list(other)].mean().item() for other in groups if other is not group)
            largest = max(inside, outside)
            values.append((outside - inside) / largest if largest > 0 else 0.0)
    return sum(values) / len(values)


@dataclass(frozen=True)
class ClassTree:
    """The tree of an agglomerative clustering, and what is cut from it.

    Attributes:
        classes: the class ids at its leaves, in the order of `distances`.
        distances: [K, K].
        linkage: float64 [K - 1, 4], as scipy gives it: the two that are joined, their distance, how many it makes.
        cophenetic: correlation of the distances with the heights at which classes meet in the tree; None where one of
            the two does not vary.
        groupings: one for each number of groups from 2 to K; the one of largest silhouette is the best, of equal ones
            that of fewer groups.
    """

    classes: Group
    distances: Tensor
    linkage: np.ndarray
    cophenetic: float | None
    groupings: list[Grouping]

    @property
    def best(self) -> Grouping:
        """The grouping to deploy."""
        return next(grouping for grouping in self.groupings if grouping.is_best)


def cluster(distances: Tensor, classes: Sequence[int]) -> ClassTree:
    """Joins the two nearest groups of classes, by the mean distance of their members, until one is left.

    Args:
        distances: float64 [K, K], symmetric, 0 on the diagonal; K at least 2.
        classes: ids, in that order, ascending.
    """
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    condensed = squareform(distances.numpy(), checks=True)
    linkage = hierarchy.linkage(condensed, method="average")
    varies = len(condensed) > 1 and condensed.std() > 0
    cophenetic = float(hierarchy.cophenet(linkage, condensed)[0]) if varies else None
    found = []
    for number in range(2, len(classes) + 1):
        members = hierarchy.cut_tree(linkage, n_clusters=number)[:, 0]
        positions = [np.flatnonzero(members == group).tolist() for group in range(number)]
        groups = sorted(tuple(classes[place] for place in group) for group in positions)
        found.append((tuple(groups), silhouette(distances, positions)))
    best = max(range(len(found)), key=lambda place: (round(found[place][1], 12), -place))
    groupings = [Grouping(groups, quality, place == best) for place, (groups, quality) in enumerate(found)]
    return ClassTree(tuple(classes), distances, linkage, cophenetic, groupings)
