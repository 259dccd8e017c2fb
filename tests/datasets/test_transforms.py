"""Augmentation and normalisation: geometry against what it claims to equal, colours against hand-made numbers."""

from __future__ import annotations

import pytest
import torch

from bench.datasets.base import IMAGENET, Augmentation, Normalization
from bench.datasets.transforms import augment, choose_window, jitter, network_input, network_label, normalize

IGNORED = 255


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coded_pair(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image whose grey value is 10 times its label, in four quarters: what is seen tells the label."""
    label = torch.ones(height, width, dtype=torch.uint8)
    label[: height // 2, width // 2 :] = 2
    label[height // 2 :, : width // 2] = 3
    label[height // 2 :, width // 2 :] = 4
    return (label * 10).expand(3, -1, -1), label


def undo_normalize(image: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET.mean, IMAGENET.std))
    return image * 255 * std + 255 * mean


def without_jitter(image, label, seed, size, crop):
    settings = {"ignore_index": IGNORED, "augmentation": Augmentation(jitter=0.0)}
    return augment(image, label, generator(seed), input_size=size, crop_size=crop, **settings)


@pytest.mark.parametrize("seed", range(12))
def test_augmented_image_and_label_stay_aligned(seed):
    image, label = coded_pair(60, 80)
    out, ids = without_jitter(image, label, seed, (60, 80), (48, 64))
    assert out.shape == (3, 48, 64) and out.dtype == torch.float32 and out.is_contiguous()
    assert ids.shape == (48, 64) and ids.dtype == torch.int64
    assert set(ids.unique().tolist()) <= {1, 2, 3, 4, IGNORED}
    grey = undo_normalize(out).mean(dim=0)
    real = ids != IGNORED
    # Only pixels at the seams between quarters may be mixed.
    agree = (grey / 10 - ids).abs()[real] < 0.1
    assert agree.float().mean() > 0.9
    assert (out[:, ~real] == 0).all()


def test_flip_turns_image_and_label_together():
    image, label = coded_pair(40, 40)
    seen = set()
    for seed in range(20):
        out, ids = without_jitter(image, label, seed, (40, 40), (80, 80))
        real = ids != IGNORED
        rows, columns = real.any(dim=1).nonzero(), real.any(dim=0).nonzero()
        corner = int(ids[rows[0], columns[0]])
        shown = float(undo_normalize(out)[0, rows[0], columns[0]])
        assert shown == pytest.approx(10 * corner, abs=0.01)
        seen.add(corner)
    assert seen == {1, 2}


def test_augment_depends_on_the_generator_only():
    image, label = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8), torch.zeros(30, 40, dtype=torch.uint8)
    sizes = {"input_size": (30, 40), "crop_size": (20, 30), "ignore_index": IGNORED}
    first, again, other = (augment(image, label, generator(seed), **sizes)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(augment(image, label, generator(3), **sizes)[0], first)
    finally:
        torch.set_num_threads(threads)


def test_augment_leaves_its_inputs_alone():
    image, label = coded_pair(30, 40)
    image = image.clone()
    before = image.clone(), label.clone()
    augment(image, label, generator(0), input_size=(30, 40), crop_size=(30, 40), ignore_index=IGNORED)
    assert torch.equal(image, before[0]) and torch.equal(label, before[1])


@pytest.mark.parametrize(
    ("size", "scaled", "crop", "where", "place", "expected"),
    [
        # Twice as large: half of the image fills the crop.
        (100, 200, 100, 0.0, 0.0, (0, 50, 0, 100)),
        (100, 200, 100, 0.9999, 0.0, (50, 50, 0, 100)),
        # Half as large: the whole image takes half of the crop.
        (100, 50, 100, 0.5, 0.9999, (0, 100, 50, 50)),
        # Exactly fitting.
        (100, 80, 80, 0.99, 0.99, (0, 100, 0, 80)),
        (1, 1, 5, 0.5, 0.0, (0, 1, 0, 1)),
    ],
)
def test_window(size, scaled, crop, where, place, expected):
    assert tuple(choose_window(size, scaled, crop, where, place)) == expected


def test_window_shows_every_part_of_the_image_equally_often():
    starts = [choose_window(10, 20, 10, number / 600, 0.0).start for number in range(600)]
    assert [starts.count(start) for start in range(6)] == [100] * 6


def test_scale_covers_its_range():
    image, label = coded_pair(50, 50)
    shares = []
    for seed in range(200):
        _, ids = without_jitter(image, label, seed, (50, 50), (100, 100))
        shares.append(float((ids != IGNORED).float().mean()) ** 0.5)
    # The image's side over the crop's: factor / 2.
    assert 0.25 <= min(shares) < 0.27 and 0.96 < max(shares) <= 1.0


def test_jitter_by_hand():
    image = torch.tensor([[[100, 200]], [[100, 100]], [[100, 0]]], dtype=torch.uint8)
    assert torch.equal(jitter(image, 1, 1, 1), image.float())
    assert torch.allclose(jitter(image, 0.5, 1, 1), image * 0.5)
    assert torch.equal(jitter(image, 2, 1, 1).flatten(), torch.tensor([200.0, 255, 200, 200, 200, 0]))
    greys = torch.tensor([100.0, 0.299 * 200 + 0.587 * 100])
    assert torch.allclose(jitter(image, 1, 1, 0), greys.expand(3, 1, 2))
    # Without contrast everything is the mean grey.
    assert torch.allclose(jitter(image, 1, 0, 1), greys.mean().expand(3, 1, 2))
    # All three, in order: brightness, contrast about the mean, saturation.
    bright = image * 0.9
    contrasted = 1.2 * bright + (1 - 1.2) * 0.9 * greys.mean()
    grey = (contrasted * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=0)
    expected = (0.8 * contrasted + 0.2 * grey).clamp(0, 255)
    assert torch.allclose(jitter(image, 0.9, 1.2, 0.8), expected, atol=1e-3)


def test_normalize_by_hand():
    image = torch.full((3, 1, 1), 255.0)
    expected = torch.tensor([(1 - mean) / std for mean, std in zip(IMAGENET.mean, IMAGENET.std, strict=True)])
    assert torch.allclose(normalize(image).flatten(), expected)
    other = Normalization((0.5, 0.25, 0.0), (0.5, 0.25, 2.0))
    assert normalize(image, other).flatten().tolist() == pytest.approx([1.0, 3.0, 0.5])
    assert torch.equal(network_input(image.byte(), (1, 1), other), normalize(image, other))


def test_augmentation_is_as_strong_as_asked():
    image, label = coded_pair(40, 40)
    still = Augmentation(scales=(1.0, 1.0), jitter=0.0, flip=False)
    sizes = {"input_size": (40, 40), "crop_size": (40, 40), "ignore_index": IGNORED}
    for seed in range(6):
        out, ids = augment(image, label, generator(seed), **sizes, augmentation=still)
        assert torch.equal(ids, label.long()) and torch.equal(out, normalize(image.float()))


def test_prepare_resizes_only_when_sizes_differ():
    image = torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8)
    assert torch.equal(network_input(image, (24, 32)), normalize(image.float()))
    halved = undo_normalize(network_input(torch.full((3, 24, 32), 77, dtype=torch.uint8), (12, 16)))
    assert halved.shape == (3, 12, 16)
    assert torch.allclose(halved, torch.tensor(77.0), atol=1e-3)


def test_prepared_label_takes_the_pixel_at_the_centre():
    label = torch.arange(9, dtype=torch.uint8).expand(9, 9)
    assert network_label(label, (3, 3)).tolist() == [[1, 4, 7]] * 3
    assert network_label(label, (9, 9)).dtype == torch.int64
