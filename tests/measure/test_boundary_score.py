"""The boundary F-score on shapes drawn by hand, and against a loop over pixels."""

from __future__ import annotations

import math

import pytest
import torch

from bench.datasets.base import Classes
from bench.errors import BenchError
from bench.measure import boundary_score as boundary
from bench.measure.boundary_score import BoundaryCounts, dilated
from bench.measure.evaluation import evaluate
from bench.measure.inference import Scoring
from bench.metrics import BoundaryScore

VOID = 3
CLASSES = Classes(("ground", "box", "never"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), outputs=4, ignore_index=VOID)


def drawn(top: int = 10, left: int = 10, side: int = 12, size: tuple[int, int] = (32, 40)) -> torch.Tensor:
    """A box on the ground, [1, H, W]."""
    ids = torch.zeros(1, *size, dtype=torch.int64)
    ids[0, top : top + side, left : left + side] = 1
    return ids


def score(prediction: torch.Tensor, label: torch.Tensor, width: float = 2) -> BoundaryScore:
    counts = BoundaryCounts(CLASSES, width)
    counts.update(prediction, label)
    return counts.score()


def slow_counts(prediction: torch.Tensor, label: torch.Tensor, radius: int) -> list[list[list[int]]]:
    """The definition, pixel by pixel, of one image."""
    rows, columns = label.shape
    pixels = [(row, column) for row in range(rows) for column in range(columns)]
    void = {pixel for pixel in pixels if label[pixel] == VOID}

    def outline(ids: torch.Tensor) -> list[set[tuple[int, int]]]:
        found = [set() for _ in range(4)]
        for row, column in set(pixels) - void:
            around = ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1))
            inside = [pixel for pixel in around if 0 <= pixel[0] < rows and 0 <= pixel[1] < columns]
            if any(pixel not in void and ids[pixel] != ids[row, column] for pixel in inside):
                found[ids[row, column]].add((row, column))
        return found[:3]

    def near(pixel: tuple[int, int], others: set[tuple[int, int]]) -> bool:
        return any((pixel[0] - row) ** 2 + (pixel[1] - column) ** 2 <= radius**2 for row, column in others)

    outlines = [outline(ids) for ids in (prediction, label)]
    judged = [[{pixel for pixel in part if not near(pixel, void)} for part in side] for side in outlines]
    matched = [
        [{pixel for pixel in part if near(pixel, others)} for part, others in zip(side, other, strict=True)]
        for side, other in zip(judged, outlines[::-1], strict=True)
    ]
    return [[[len(part) for part in side] for side in pair] for pair in zip(judged, matched, strict=True)]


def test_identical_maps_score_one_and_a_class_without_outline_nothing():
    found = score(drawn(), drawn())
    assert found.by_class["ground"] == found.by_class["box"] == found.f_score == 1.0
    assert math.isnan(found.by_class["never"])
    assert found.width == 2


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_a_shift_within_the_tolerance_costs_nothing(shift):
    assert score(drawn(left=10 + shift), drawn(), 2).f_score == 1.0


def test_a_shift_beyond_the_tolerance_costs_what_it_moves():
    # A box of 12 has an outline of 44. Moved by 3, of its two moved sides the 8 pixels each that are further than 1
    # from the top and bottom rows of the other box are not found again, and neither are the rows' 2 ends.
    counts = BoundaryCounts(CLASSES, 1)
    counts.update(drawn(left=13), drawn())
    everything, matched = counts.counts[:, :, 1].tolist(), slow_counts(drawn(left=13)[0], drawn()[0], 1)
    assert [side[0] for side in everything] == [44, 44]
    assert everything == [[row[1] for row in side] for side in matched]
    assert score(drawn(left=13), drawn(), 1).by_class["box"] == pytest.approx(everything[0][1] / 44)
    assert score(drawn(left=24), drawn(left=2), 2).by_class["box"] == 0


def test_the_tolerance_is_euclidean():
    bits = torch.zeros(1, 21, 21, dtype=torch.int64)
    bits[0, 10, 10] = 1
    rows, columns = torch.meshgrid(torch.arange(21), torch.arange(21), indexing="ij")
    for radius in (1, 2, 3, 5, 8):
        disk = (rows - 10) ** 2 + (columns - 10) ** 2 <= radius**2
        assert torch.equal(dilated(bits, radius)[0], disk.long())
    assert (dilated(bits, 30) == 1).all()


def test_outlines_that_only_one_side_has_score_zero():
    flat = torch.zeros_like(drawn())
    for pair in ((drawn(), flat), (flat, drawn())):
        assert score(*pair).by_class["box"] == score(*pair).by_class["ground"] == 0
    assert math.isnan(score(flat, flat).f_score)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_agrees_with_a_loop_over_pixels(width):
    generator = torch.Generator().manual_seed(width)

    def blots() -> torch.Tensor:
        coarse = torch.randint(0, 4, (1, 4, 5), generator=generator)
        return coarse.repeat_interleave(5, dim=1).repeat_interleave(5, dim=2)[..., :19, :23]

    prediction, label = blots(), blots()
    # Mostly alike, so that a good part of the outlines has a counterpart.
    prediction = torch.where(torch.rand(label.shape, generator=generator) < 0.9, label.roll(1, 2), prediction)
    label[:, :12] = label[:, :12].clamp(max=2)
    counts = BoundaryCounts(CLASSES, width)
    counts.update(prediction, label)
    assert counts.counts.tolist() == slow_counts(prediction[0], label[0], width)
    assert counts.counts[:, 1].sum() > 0


def test_void_is_no_outline_and_hides_what_is_near_it():
    label = drawn()
    label[..., 20:] = VOID
    # Beneath the void anything may be predicted, and what is not judged near it may be wrong.
    prediction = label.clone()
    prediction[..., 20:] = torch.arange(20) % 2
    assert score(prediction, label).f_score == 1.0
    prediction[..., 19] = 2
    assert score(prediction, label).f_score == 1.0
    prediction[..., 18] = 2
    assert score(prediction, label).f_score < 1.0
    assert math.isnan(score(drawn(), torch.full_like(label, VOID)).f_score)


def test_pixels_are_summed_over_the_split():
    """One image with a long outline that is right, one with a short one that is wrong."""
    right, label = drawn(4, 4, 24), drawn(4, 4, 24)
    small, missed = drawn(5, 5, 2), torch.zeros_like(label)
    counts = BoundaryCounts(CLASSES, 1)
    counts.update(torch.cat((right, missed)), torch.cat((label, small)))
    whole = counts.score().by_class["box"]
    precision, recall = 1.0, 92 / 96
    assert whole == pytest.approx(2 * precision * recall / (precision + recall))


def test_a_share_is_one_of_the_labels_diagonal():
    # The diagonal of 30x40 is 50.
    label, prediction = drawn(size=(30, 40)), drawn(left=13, size=(30, 40))
    assert score(prediction, label, 0.06).f_score == 1.0 > score(prediction, label, 0.04).f_score
    assert score(drawn(left=11), drawn(), 1e-6).f_score == 1.0


def test_many_classes_are_refused():
    names = tuple(map(str, range(63)))
    with pytest.raises(BenchError, match="at most 62 classes, not 63; set `boundary_width=0`"):
        BoundaryCounts(Classes(names, ((0, 0, 0),) * 63, 63, 255), 1)


def test_the_last_of_many_classes_does_not_count_as_void():
    many = Classes(tuple(map(str, range(62))), ((0, 0, 0),) * 62, 63, 255)
    label = 60 + drawn()
    counts = BoundaryCounts(many, 1)
    counts.update(label, label)
    assert counts.score().by_class["60"] == counts.score().by_class["61"] == 1.0


def test_evaluation_measures_it_where_it_is_asked_for(monkeypatch):
    def network(images):
        return torch.nn.functional.one_hot(images[:, 0].long(), 4).permute(0, 3, 1, 2).float()

    class Told(torch.nn.Module):
        def forward(self, images):
            return network(images)

    images = torch.cat([drawn(), drawn(left=13)]).float()[:, None].expand(-1, 3, -1, -1)
    loader = [(images[:1], drawn()), (images[1:], drawn())]
    settings = {"device": torch.device("cpu")}
    quality = evaluate(Told(), loader, CLASSES, scoring=Scoring(boundary_width=1), **settings)
    counts = BoundaryCounts(CLASSES, 1)
    for image, label in loader:
        counts.update(image[:, 0].long(), label)
    assert quality.boundary.f_score == counts.score().f_score
    assert 0 < quality.boundary.f_score < 1
    monkeypatch.setattr(boundary, "dilated", None)
    assert evaluate(Told(), loader, CLASSES, **settings).boundary is None
