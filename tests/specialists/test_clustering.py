"""From class responses to groups of classes, on numbers made by hand."""

from __future__ import annotations

import pytest
import torch

from bench.specialists.clustering import class_covariance, class_distances, cluster, silhouette
from bench.specialists.dendrogram import draw_dendrogram

# Classes 0 and 1 move the features one way, 2 and 3 the other; 4 moves others.
MEANS = torch.tensor(
    [[5.0, 1.0, 3.0, 0.0], [4.8, 1.1, 3.1, 0.1], [1.0, 5.0, 3.0, 0.2], [1.1, 5.2, 2.9, 0.0], [3.0, 3.0, 0.0, 4.0]],
    dtype=torch.float64,
)


def on_a_line(*places):
    points = torch.tensor(places, dtype=torch.float64)
    return (points[:, None] - points[None]).abs()


def test_covariance_is_that_of_scaled_responses_over_the_features():
    spread = torch.tensor([2.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    scaled = (MEANS - MEANS.mean(dim=0))[:, :3] / spread[:3]
    # A feature that never changes says nothing.
    assert torch.allclose(class_covariance(MEANS, spread), torch.cov(scaled))


def test_a_features_scale_makes_no_difference():
    scale = torch.tensor([1.0, 100.0, 1e-3, 7.0], dtype=torch.float64)
    spread = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    expected = class_covariance(MEANS, spread)
    assert torch.allclose(class_covariance(MEANS * scale, spread * scale), expected)


def test_distances_are_one_minus_the_correlation():
    covariance = torch.tensor([[4.0, 3.0, 0.0], [3.0, 9.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = class_distances(covariance)
    assert found[0, 1].item() == found[1, 0].item() == pytest.approx(0.5)
    # A class that never varies is like none.
    assert found.diagonal().tolist() == [0, 0, 0] and found[2, :2].tolist() == [1, 1]
    assert class_distances(torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64))[0, 1] == 2


def test_silhouette_of_points_on_a_line():
    found = silhouette(on_a_line(0, 1, 10), [[0, 1], [2]])
    assert found == pytest.approx(((10 - 1) / 10 + (9 - 1) / 9 + 0) / 3)
    assert silhouette(on_a_line(0, 1, 10), [[0, 2], [1]]) == pytest.approx(((1 - 10) / 10 + (9 - 10) / 10 + 0) / 3)
    assert silhouette(on_a_line(0, 1, 10), [[0], [1], [2]]) == 0
    assert silhouette(on_a_line(3, 3, 3), [[0, 1], [2]]) == 0


def test_a_tree_is_cut_at_every_number_and_the_best_one_marked():
    tree = cluster(on_a_line(0, 1, 10, 11.5, 30), [0, 1, 3, 4, 6])
    groups = {grouping.devices: grouping.groups for grouping in tree.groupings}
    assert groups == {
        2: ((0, 1, 3, 4), (6,)),
        3: ((0, 1), (3, 4), (6,)),
        4: ((0, 1), (3,), (4,), (6,)),
        5: ((0,), (1,), (3,), (4,), (6,)),
    }
    assert tree.best.devices == 3 and [grouping.is_best for grouping in tree.groupings].count(True) == 1
    assert tree.best.quality == max(grouping.quality for grouping in tree.groupings)
    assert tree.groupings[-1].quality == 0
    # Heights are mean distances of the members: of {0, 1} and {3, 4} those of 10, 11.5, 9 and 10.5.
    assert tree.linkage[:, 2].tolist() == pytest.approx([1, 1.5, 10.25, 24.375])
    assert 0.9 < tree.cophenetic <= 1


def test_equal_distances_still_give_every_number():
    tree = cluster(torch.ones(4, 4, dtype=torch.float64).fill_diagonal_(0), [0, 1, 2, 3])
    assert [grouping.devices for grouping in tree.groupings] == [2, 3, 4]
    assert tree.best.devices == 2 and tree.cophenetic is None


def test_classes_that_respond_alike_are_together():
    spread = torch.ones(4, dtype=torch.float64)
    tree = cluster(class_distances(class_covariance(MEANS, spread)), range(5))
    assert tree.best.groups == ((0, 1), (2, 3), (4,))


def test_the_picture_is_the_same_each_time(tmp_path):
    tree = cluster(on_a_line(0, 1, 10, 11.5, 30), [0, 1, 3, 4, 6])
    for name in ("a.png", "b.png"):
        draw_dendrogram(tmp_path / name, tree, ["sky", "tree", "road", "car", "sign"])
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes() and content.startswith(b"\x89PNG")
