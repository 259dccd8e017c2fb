"""A folder of the user's own: what its masks mean, how its splits are drawn, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import colour_set, deep_set, image_of, numbers, save, voc_palette, voc_set
from PIL import Image

from bench.data import SegmentationData
from bench.datasets.base import Normalization
from bench.datasets.options import DataOptions
from bench.datasets.transforms import network_input, normalize
from bench.errors import BenchError, UsageError
from bench.training.options import TrainOptions
from bench.training.step import TrainingLoss

FIVE = "classes: [sky, wall, road, car, tree]\nignore: [255]\n"
DEEP = "classes: [{name: a, id: 1000}, {name: b, id: 2000}, {name: c, id: 3000}]\nignore: [65535]\n"
RGB = "labels: colours\nignore: [0, 0, 0]\nclasses:\n- {name: a, colour: [200, 0, 0]}\n- {name: b, colour: [0, 200, 0]}\n- {name: c, colour: [10, 20, 30]}\n"  # noqa: E501


def described(root: Path, text: str) -> Path:
    (root / "classes.yaml").write_text(text, encoding="utf-8")
    return root


def opened(root: Path, **options: object) -> SegmentationData:
    settings = {"dataset": "folder", "data_root": str(root), "input_size": (24, 32), "num_workers": 0, **options}
    return SegmentationData(DataOptions(**settings))


def failure_of(root: Path, **options: object) -> str:
    with pytest.raises(BenchError) as caught:
        data = opened(root, **options)
        for split in ("train", "val"):
            list(data.eval_loader(split))
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestMasks:
    def test_indices_with_a_palette_and_three_sizes(self, tmp_path):
        data = opened(described(voc_set(tmp_path), FIVE))
        for index in range(6):
            assert np.array_equal(data.load("train", index)[1], numbers(index, data.load("train", index)[1].shape))
        # The order of the names, batches of one size, labels at their own.
        shapes = [tuple(labels.shape) for _, labels in data.eval_loader("train")]
        assert shapes == [(1, 24, 32), (1, 32, 24), (1, 40, 40)] * 2
        assert data.train_loader(2).__iter__().__next__()[0].shape == (2, 3, 24, 32)
        assert data.headline_split == "val"

    def test_ids_of_sixteen_bits(self, tmp_path):
        data = opened(described(deep_set(tmp_path), DEEP))
        for index, name in enumerate(data.names("train")):
            label = data.load("train", index)[1]
            assert label.dtype == torch.uint8 and np.array_equal(label, numbers(int(name), (24, 32), 3))
        assert data.dataset.label_ids == (1000, 2000, 3000)

    def test_colours(self, tmp_path):
        data = opened(described(colour_set(tmp_path), RGB))
        for index in range(4):
            assert np.array_equal(data.load("test", index)[1], numbers(index, (24, 32), 3))
        assert data.headline_split == "test" and data.dataset.label_ids is None
        assert data.classes.palette == ((200, 0, 0), (0, 200, 0), (10, 20, 30))

    def test_grey_and_colours_in_a_palette_are_read_as_described(self, tmp_path):
        found = numbers(0, (24, 32))
        for name in ("a", "b", "c"):
            save(tmp_path / "images" / f"{name}.bmp", image_of(found, 0))
        save(tmp_path / "masks" / "a.png", found)
        save(tmp_path / "masks" / "b.tif", found)
        save(tmp_path / "masks" / "c.PNG", found, voc_palette())
        data = opened(described(tmp_path, FIVE))
        for split in ("train", "val", "test"):
            assert np.array_equal(data.load(split, 0)[1], found)

    def test_several_ids_are_one_class(self, tmp_path):
        text = "classes: [{name: a, id: [1000, 2000]}, {name: b, id: 3000}]\nignore: [65535]\n"
        data = opened(described(deep_set(tmp_path), text))
        assert set(np.unique(data.load("val", 0)[1])) == {0, 1, 255}

    def test_an_image_that_lies_on_its_side_is_turned(self, tmp_path):
        found, exif = numbers(0, (24, 32)), Image.Exif()
        exif[0x0112] = 6
        for name in "abc":
            path = tmp_path / "images" / f"{name}.jpeg"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.rot90(image_of(found, 0)).copy()).save(path, exif=exif)
            save(tmp_path / "masks" / f"{name}.png", found)
        image, label = opened(described(tmp_path, FIVE)).load("train", 0)
        assert image.shape == (3, 24, 32) and np.array_equal(label, found)
        # Brightness follows the classes.
        assert np.abs(image.float().mean(0)[1:].numpy() - (10 + 40.0 * found[1:])).mean() < 10

    @pytest.mark.parametrize(
        ("make", "text", "says"),
        [
            (voc_set, "classes: [sky, wall, road, car]\nignore: [255]\n", "holds id 4, which"),
            (voc_set, "classes: [sky, wall, road, car, tree]\n", "holds id 255, which"),
            (deep_set, DEEP.replace("2000", "2001"), "holds id 2000, which"),
            (colour_set, RGB.replace("30", "31"), "holds colour (10, 20, 30), which"),
            (colour_set, FIVE, "holds colours, "),
        ],
    )
    def test_what_is_not_described_is_named_with_its_file(self, make, text, says, tmp_path):
        message = failure_of(described(make(tmp_path), text))
        assert says in message and str(tmp_path) in message and "label " in message
        if says.endswith("which"):
            assert f"{tmp_path / 'classes.yaml'} does not know; give it a class there, or list it under" in message

    def test_a_palette_in_another_order_is_refused_where_colours_are_described(self, tmp_path):
        text = "classes: [{name: a, colour: [0, 128, 0]}, {name: b, colour: [128, 0, 0]}]"
        for name in "abc":
            save(tmp_path / "images" / f"{name}.png", np.zeros((2, 2, 3), np.uint8))
            save(tmp_path / "masks" / f"{name}.png", np.ones((2, 2), np.uint8), [128, 0, 0, 0, 128, 0])
        assert "shows palette index 1 in the colour of class 0" in failure_of(described(tmp_path, text))
        # Without colours of its own a description says nothing of them.
        assert opened(described(tmp_path, "classes: [a, b]")).load("train", 0)[1].unique().tolist() == [1]


class TestSplits:
    def test_are_drawn_by_seed_and_by_name(self, tmp_path):
        described(deep_set(tmp_path, images=20), DEEP)
        first, again, other = (opened(tmp_path, split_seed=seed) for seed in (None, 0, 1))
        names = {split: first.names(split) for split in ("train", "val", "test")}
        assert [len(names[split]) for split in names] == [14, 3, 3]
        assert sorted(name for of_split in names.values() for name in of_split) == sorted(
            str(number) for number in range(20)
        )
        assert {split: again.names(split) for split in names} == names
        assert other.names("val") != names["val"]
        assert (first.identity["split_seed"], other.identity["split_seed"]) == (0, 1)
        # Files of another split are other files.
        assert other.files("val").changed_since(first.files("val").record()) == ["val"]
        assert first.dataset.written_split()[0]["split"] == "train"

    def test_val_alone_is_drawn_from_train(self, tmp_path):
        described(colour_set(tmp_path), RGB + "split: {val: 0.25}\n")
        (tmp_path / "images" / "val").rename(tmp_path / "unused")
        data = opened(tmp_path)
        assert [len(data.names(split)) for split in ("train", "val", "test")] == [3, 1, 4]
        assert data.headline_split == "test"

    def test_a_seed_where_nothing_is_drawn_is_refused(self, tmp_path):
        described(colour_set(tmp_path), RGB)
        with pytest.raises(UsageError, match=r"are its own .* none is drawn; leave `split_seed` out"):
            opened(tmp_path, split_seed=1)
        assert opened(tmp_path).dataset.written_split() is None and "split_seed" not in opened(tmp_path).identity

    def test_what_is_missing_is_named(self, tmp_path):
        described(colour_set(tmp_path), RGB)
        (tmp_path / "masks" / "train" / "train2.PNG").unlink()
        assert "train2.png has no mask; add it, or take the image out of train" in failure_of(tmp_path)
        (tmp_path / "pairs.csv").write_text("image,mask,split\nno.png,no.png,train\n")
        assert "there is no image" in failure_of(tmp_path) and "which pairs.csv names" in failure_of(tmp_path)
        (tmp_path / "pairs.csv").unlink()
        (tmp_path / "images" / "train").rename(tmp_path / "images" / "unused")
        assert "has no train split" in failure_of(tmp_path)


class TestDescription:
    def test_decides_how_images_become_numbers(self, tmp_path):
        normal = "normalize: {mean: [0.5, 0.25, 0], std: [0.5, 0.25, 1]}\n"
        still = "augment: {scales: [1, 1], jitter: 0, flip: false}\n"
        data = opened(described(colour_set(tmp_path), RGB + normal + still))
        expected = Normalization((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
        image = data.load("val", 0)[0]
        assert torch.equal(data.network_input(image), network_input(image, (24, 32), expected))
        ((images, _),) = data.eval_loader("val")
        assert torch.equal(images[0], normalize(image.float(), expected))
        assert torch.equal(data.calibration(4, 4, 0, "val")[0][0].sort(0)[0], images.sort(0)[0])
        loader = data.train_loader(4)
        loader.set_epoch(1)
        ((augmented, _),) = loader
        whole = torch.stack([normalize(data.load("train", index)[0].float(), expected) for index in range(4)])
        assert torch.equal(augmented.sort(0)[0], whole.sort(0)[0])

    def test_decides_what_the_loss_weighs(self, tmp_path):
        weighted = (
            RGB.replace("]}\n", "], weight: 3}\n", 1)
            .replace("0, 200, 0]", "0, 200, 0], weight: 1")
            .replace("20, 30]", "20, 30], weight: 0.5")
        )
        data = opened(described(colour_set(tmp_path), weighted))
        loss = TrainingLoss(data, TrainOptions(), torch.device("cpu"), None)
        logits = torch.randn(1, 3, 24, 32)
        ((_, labels),) = data.eval_loader("val", 4)
        expected = torch.nn.functional.cross_entropy(
            logits, labels[:1], torch.tensor([3.0, 1.0, 0.5]), ignore_index=255
        )
        assert torch.allclose(loss(lambda _: logits, torch.zeros(1), labels[:1]), expected)

    def test_is_part_of_what_tells_that_data_changed(self, tmp_path):
        before = opened(described(colour_set(tmp_path), RGB)).files("val").record()
        assert opened(described(tmp_path, RGB + "input-size: [8, 8]\n")).files("val").changed_since(before) == []
        other = RGB.replace("ignore: [0, 0, 0]", "ignore: []").replace("[200, 0, 0]", "[[200, 0, 0], [0, 0, 0]]")
        assert opened(described(tmp_path, other)).files("val").changed_since(before) == ["val"]

    def test_says_the_size_or_a_flag_does(self, tmp_path):
        described(colour_set(tmp_path), RGB)
        with pytest.raises(UsageError, match="pass `input_size=H,W`, or write input-size"):
            opened(tmp_path, input_size=None)
        described(tmp_path, RGB + "input-size: [16, 24]\ncrop-size: [8, 16]\n")
        data = opened(tmp_path, input_size=None)
        assert (data.input_size, data.crop_size) == ((16, 24), (8, 16))

    def test_is_missing(self, tmp_path):
        colour_set(tmp_path)
        assert f"has no classes.yaml, which names the classes; python -m bench.datasets.scan {tmp_path} writes" in (
            failure_of(tmp_path)
        )
        assert "there is no folder" in failure_of(tmp_path / "none")

    def test_is_said_in_a_line(self, tmp_path, capsys):
        opened(described(deep_set(tmp_path), DEEP))
        assert capsys.readouterr().out == (
            f"{tmp_path}: images/ with masks/; train 6, val 2, test 2, val and test drawn with seed 0; 3 classes\n"
        )


def test_images_cached_are_the_same(tmp_path):
    data, cached = (opened(described(voc_set(tmp_path / str(c)), FIVE), cache=c) for c in (False, True))
    for (images, labels), (others, other_labels) in zip(
        data.eval_loader("val"), cached.eval_loader("val"), strict=True
    ):
        assert torch.equal(images, others) and torch.equal(labels, other_labels)
