"""Each corruption by hand, and what all of them have in common."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bench.data import SegmentationData
from bench.datasets.corruptions import SEVERITIES, Corruption, brighter, defocused, disk, in_fog, plasma
from bench.datasets.options import DataOptions
from bench.datasets.transforms import network_input

ALL = [(name, severity) for name, levels in SEVERITIES.items() for severity in range(1, len(levels) + 1)]


@pytest.fixture(scope="module")
def image() -> Tensor:
    """A picture of smooth colours and some detail, uint8 [3, 40, 56]."""
    generator = torch.Generator().manual_seed(3)
    coarse = F.interpolate(torch.rand(1, 3, 5, 7, generator=generator), size=(40, 56), mode="bilinear")[0]
    return (20 + 180 * coarse + 30 * torch.rand(3, 40, 56, generator=generator)).byte()


@pytest.mark.parametrize(("name", "severity"), ALL)
def test_an_image_is_always_corrupted_alike(name, severity, image):
    before, corrupt = image.clone(), Corruption(name, severity)
    first = corrupt(image, 4)
    assert (first.dtype, first.shape, first.is_contiguous()) == (torch.uint8, image.shape, True)
    assert torch.equal(image, before)
    other = corrupt(image, 5)
    np.random.seed(7)
    torch.manual_seed(7)
    assert torch.equal(corrupt(image, 4), first)
    assert torch.equal(other, first) == (name not in ("noise", "fog")), "what is drawn is drawn for each image"


@pytest.mark.parametrize("name", SEVERITIES)
def test_severities_are_ordered(name, image):
    def damage(severity: int) -> float:
        found = torch.stack([Corruption(name, severity)(image, number) for number in range(6)]).float()
        if name != "fog":
            return (found - image).abs().mean().item()
        # It makes some parts lighter and others darker: what goes is the likeness.
        pairs = (torch.stack([one.flatten(), image.flatten().float()]) for one in found)
        return 100 * (1 - torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs]).mean().item())

    apart = [damage(severity) for severity in (1, 2, 3)]
    assert 1 < apart[0] < apart[1] < apart[2]


def test_noise_has_its_deviation():
    grey = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    noise = Corruption("noise", 1)(grey, 0).float() - 128
    assert noise.std().item() == pytest.approx(0.08 * 255, rel=0.03)
    assert noise.mean().abs() < 1
    assert not torch.equal(noise[0], noise[1])


def test_blur_makes_a_disk_of_a_point():
    flat = disk(3, 0.1)
    # 29 whole points lie within 3 of one.
    assert sorted(set(flat.round(9).ravel())) == [0.0, pytest.approx(1 / 29)]
    soft = disk(6, 0.5)
    assert soft.sum() == pytest.approx(1) and 0 < soft[8, 15] < soft[8, 14] < soft[8, 8]
    pixels = np.random.default_rng(0).random((3, 9, 12))
    padded = F.pad(torch.from_numpy(pixels)[:, None], [8] * 4, "replicate")
    by_hand = F.conv2d(padded, torch.from_numpy(soft)[None, None])[:, 0]
    np.testing.assert_allclose(defocused(pixels, 6, 0.5), by_hand.numpy(), atol=1e-12)


def test_fog_is_a_cloud_over_the_image():
    cloud = plasma(64, 2.0, np.random.default_rng(1))
    assert (cloud.min(), cloud.max(), cloud.shape) == (0, 1, (64, 64))
    # Neighbours are alike, across the border too; what is far away is not.
    steps = [np.abs(cloud - np.roll(cloud, shift, axis)).mean() for axis in (0, 1) for shift in (1, 32)]
    assert max(steps[0], steps[2]) < 0.2 * min(steps[1], steps[3])
    assert np.abs(cloud[0] - cloud[-1]).mean() < 2 * steps[0]
    rough = plasma(64, 1.4, np.random.default_rng(1))
    assert np.abs(rough - np.roll(rough, 1, 0)).mean() > 2 * steps[0]
    pixels = np.full((3, 40, 64), 0.25)
    fog = in_fog(pixels, 2.0, 2.0, np.random.default_rng(1))
    np.testing.assert_allclose(fog, (0.25 + 2.0 * cloud[None, :40]) * 0.25 / 2.25 * np.ones((3, 1, 1)))
    assert not in_fog(np.zeros((3, 1, 1)), 2.0, 2.0, np.random.default_rng(1)).any()


def test_brightness_changes_the_value_alone():
    pixels = np.random.default_rng(2).random((3, 4, 5))
    pixels[:, 0, 0] = 0
    found = brighter(pixels, 0.3)
    for place in np.ndindex(4, 5):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixels[(slice(None), *place)])
        expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1))
        np.testing.assert_allclose(found[(slice(None), *place)], expected, atol=1e-12)


def test_contrast_is_taken_about_the_mean_colour():
    image = torch.tensor([0, 100, 200], dtype=torch.uint8).reshape(1, 1, 3).repeat(3, 2, 1)
    assert Corruption("contrast", 1)(image, 0)[0, 0].tolist() == [60, 100, 140]
    assert Corruption("contrast", 3)(image, 0)[2, 1].tolist() == [95, 100, 105]


def test_jpeg_is_what_a_file_would_hold(image):
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=15)
    expected = np.array(Image.open(file)).transpose(2, 0, 1)
    assert np.array_equal(Corruption("jpeg", 2)(image, 0).numpy(), expected)


def test_images_are_corrupted_at_the_size_that_the_network_sees(tiny_camvid):
    data = SegmentationData(DataOptions("camvid", str(tiny_camvid), input_size=(24, 32), num_workers=0))
    noise, number = Corruption("noise", 2), 0
    for (images, labels), (_, plain) in zip(
        data.eval_loader("val", 3, change=noise), data.eval_loader("val", 3), strict=True
    ):
        assert torch.equal(labels, plain)
        for image in images:
            loaded, _ = data.load("val", number)
            wanted = network_input(loaded, (24, 32), change=lambda shown, number=number: noise(shown, number))
            assert torch.equal(image, wanted) and image.shape == (3, 24, 32)
            number += 1
    assert number == 4
