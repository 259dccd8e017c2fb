"""Cutting into batches: a lone last image goes with the batch before it."""

from __future__ import annotations

import pytest
import torch

from bench.torch_utils.batches import lone_joined, parts


@pytest.mark.parametrize(
    ("count", "size", "lengths"),
    [(5, 4, [5]), (9, 4, [4, 5]), (6, 4, [4, 2]), (8, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 1, 1]), (0, 4, [])],
)
def test_no_part_is_a_single_item_unless_all_are(count, size, lengths):
    cut = parts(list(range(count)), size)
    assert [len(part) for part in cut] == lengths
    assert [item for part in cut for item in part] == list(range(count))


def test_batches_of_any_origin():
    def batch(count, side=4):
        return torch.rand(count, 3, side, side), torch.zeros(count, side, side)

    def sizes(batches):
        return [len(images) for images, _ in lone_joined(batches)]

    assert sizes([batch(4), batch(4), batch(1)]) == [4, 5]
    assert sizes([batch(4), batch(2)]) == [4, 2]
    assert sizes([batch(1), batch(1)]) == [1, 1]
    assert sizes([batch(4), batch(1, side=5)]) == [4, 1]
    assert sizes([batch(1)]) == [1]
