"""Data sets on disk and the loaders over them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data import SegmentationData, log_frequency, median_frequency
from bench.datasets import split as split_module
from bench.datasets import transforms
from bench.datasets.camvid import COLOURS, NAMES, VOID, CamVid
from bench.datasets.cityscapes import IGNORED, TRAIN_ID_TO_ID, Cityscapes
from bench.datasets.options import DataOptions
from bench.errors import BenchError, UsageError

SIZE = (24, 32)
COUNTS = {"train": 7, "val": 5, "test": 3}

# Pixels of each id over all splits of the real CamVid, from its provider.
CAMVID_PIXELS = [
    19155369, 29187991, 1195743, 35520717, 8098693, 13548782, 1306195, 1728599, 5623717, 774148, 648197, 4344649,
]  # fmt: skip


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """A tiny CamVid: image i of a split is noise, its label is random ids and void."""
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for index in range(count):
            save(tmp_path / split / f"{split}{index}.png", rng.integers(0, 256, (*SIZE, 3)))
            save(tmp_path / f"{split}annot" / f"{split}{index}.png", rng.integers(0, VOID + 1, SIZE))
    return tmp_path


def opened(root: Path, **options) -> SegmentationData:
    settings = {"dataset": "camvid", "data_root": str(root), "input_size": SIZE, "num_workers": 0, **options}
    return SegmentationData(DataOptions(**settings))


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def failure_of(loader) -> str:
    """What iterating over a loader says; unlike pytest.raises it does not keep the workers alive."""
    try:
        list(loader)
    except BenchError as error:
        assert "\n" not in str(error)
        return str(error)
    raise AssertionError("no error")


def epoch_of(loader, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    loader.set_epoch(epoch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


class TestCamVid:
    def test_index_labels(self, root):
        pairs = CamVid(root).pairs("train")
        assert [pair.image.name for pair in pairs] == [f"train{index}.png" for index in range(7)]
        assert all(pair.label.parent.name == "trainannot" and pair.label.stem == pair.image.stem for pair in pairs)
        ids = CamVid(root).decode_label(pairs[0].label)
        assert ids.dtype == np.uint8 and np.array_equal(ids, np.array(Image.open(pairs[0].label)))

    def test_palette_labels_are_read_by_index(self, root):
        path = root / "trainannot" / "train0.png"
        image = Image.fromarray(np.full(SIZE, 4, np.uint8), "P")
        image.putpalette([9] * 768)
        image.save(path)
        assert (CamVid(root).decode_label(path) == 4).all()

    @pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".JPG"])
    def test_jpeg_images_match_png_labels(self, root, ending):
        (root / "val" / "val0.png").unlink()
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / "val" / f"val0{ending}", "jpeg")
        first = CamVid(root).pairs("val")[0]
        assert (first.image.name, first.label.name) == (f"val0{ending}", "val0.png")

    @pytest.mark.parametrize("ending", ["_L.png", ".png"])
    def test_colour_labels(self, tmp_path, ending):
        colours = np.array(list(COLOURS), np.uint8).reshape(4, 8, 3)
        save(tmp_path / "val" / "frame.png", np.zeros((4, 8, 3)))
        label = save(tmp_path / "val_labels" / f"frame{ending}", colours)
        dataset = CamVid(tmp_path)
        assert dataset.pairs("val")[0].label == label
        expected = [class_id for _, class_id in COLOURS.values()]
        assert dataset.decode_label(label).ravel().tolist() == expected

    def test_colour_table(self):
        assert len(COLOURS) == 32 and len({name for name, _ in COLOURS.values()}) == 32
        members = {class_id: set() for class_id in range(12)}
        for name, class_id in COLOURS.values():
            members[class_id].add(name)
        assert members[NAMES.index("building")] == {"Archway", "Bridge", "Building", "Tunnel", "Wall"}
        assert members[NAMES.index("road")] == {"Road", "LaneMkgsDriv", "LaneMkgsNonDriv"}
        assert members[NAMES.index("bicyclist")] == {"Bicyclist", "MotorcycleScooter"}
        assert members[VOID] == {"Void"}
        # The colour a class is shown in is one of its own colours.
        for class_id, colour in enumerate(CamVid.classes.palette):
            assert COLOURS[colour][1] == class_id

    def test_index_labels_win_where_both_are(self, root):
        (root / "train_labels").mkdir()
        assert CamVid(root).pairs("train")[0].label.parent.name == "trainannot"

    def test_real_camvid(self, camvid_root):
        dataset = CamVid(camvid_root)
        total = np.zeros(VOID + 1, np.int64)
        for split, count in (("train", 367), ("val", 101), ("test", 233)):
            pairs = dataset.pairs(split)
            assert len(pairs) == count
            for pair in pairs:
                total += np.bincount(dataset.decode_label(pair.label).ravel(), minlength=VOID + 1)
        assert total.tolist() == CAMVID_PIXELS
        assert dataset.classes.outputs == 12 and len(dataset.classes.names) == 11
        assert opened(camvid_root).load("train", 0)[0].shape == (3, *CamVid.native_size)


class TestCamVidErrors:
    def test_missing_root(self, tmp_path):
        with pytest.raises(BenchError) as error:
            CamVid(tmp_path / "nowhere").pairs("train")
        text = one_line(error)
        assert str(tmp_path / "nowhere") in text and "trainannot/" in text and "train_labels/" in text

    def test_missing_labels_folder(self, root):
        (root / "valannot").rename(root / "labels")
        with pytest.raises(BenchError, match="no labels of camvid's val split"):
            CamVid(root).pairs("val")

    def test_image_without_label(self, root):
        (root / "valannot" / "val3.png").unlink()
        with pytest.raises(BenchError) as error:
            CamVid(root).pairs("val")
        assert str(root / "val" / "val3.png") in one_line(error)

    def test_label_without_image_is_fine(self, root):
        (root / "val" / "val3.png").unlink()
        assert len(CamVid(root).pairs("val")) == 4

    def test_empty_split(self, root):
        for path in (root / "test").iterdir():
            path.unlink()
        (root / "test" / ".hidden.png").write_text("")
        with pytest.raises(BenchError, match=r"no images in .*test"):
            CamVid(root).pairs("test")

    def test_id_out_of_range(self, root):
        path = save(root / "trainannot" / "train1.png", np.full(SIZE, 12))
        with pytest.raises(BenchError) as error:
            opened(root).load("train", 1)
        assert str(path) in one_line(error) and "12" in str(error.value)

    def test_colours_among_the_index_labels(self, root):
        path = save(root / "trainannot" / "train1.png", np.zeros((*SIZE, 3)))
        with pytest.raises(BenchError, match="not an 8-bit map"):
            CamVid(root).decode_label(path)

    @pytest.mark.parametrize("colour", [(1, 0, 0), (64, 64, 64), (255, 0, 0)])
    def test_unknown_colour(self, tmp_path, colour):
        pixels = np.zeros((2, 2, 3), np.uint8)
        pixels[1, 1] = colour
        path = save(tmp_path / "val_labels" / "a_L.png", pixels)
        with pytest.raises(BenchError) as error:
            CamVid(tmp_path).decode_label(path)
        assert str(colour) in one_line(error) and str(path) in str(error.value)

    def test_size_mismatch(self, root):
        path = save(root / "trainannot" / "train0.png", np.zeros((24, 31)))
        with pytest.raises(BenchError) as error:
            opened(root).load("train", 0)
        text = one_line(error)
        assert str(path) in text and "24x32" in text and "24x31" in text

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.95])
    def test_truncated_image(self, root, share):
        path = root / "train" / "train2.png"
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(BenchError) as error:
            opened(root).load("train", 2)
        assert f"cannot read image {path}" in one_line(error)

    def test_damaged_bytes_never_escape_as_another_error(self, root):
        path = root / "train" / "train2.png"
        content = bytearray(path.read_bytes())
        rng = np.random.default_rng(0)
        failures = 0
        for _ in range(60):
            damaged = content.copy()
            for position in rng.integers(0, len(content), 4):
                damaged[position] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                opened(root).load("train", 2)
            except BenchError:
                failures += 1
        assert failures > 30


class TestCityscapes:
    def test_table_is_the_official_one(self, tmp_path):
        labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
        ids = [label for label in labels if label.id >= 0]
        path = save(tmp_path / "a_gtFine_labelIds.png", np.array([[label.id for label in ids]]))
        mapped = Cityscapes(tmp_path).decode_label(path)[0].tolist()
        assert mapped == [label.trainId for label in ids]
        scored = sorted((label for label in ids if label.trainId != IGNORED), key=lambda label: label.trainId)
        assert tuple(label.id for label in scored) == TRAIN_ID_TO_ID
        assert tuple(label.name for label in scored) == Cityscapes.classes.names
        assert tuple(label.color for label in scored) == Cityscapes.classes.palette

    def test_licence_plate_is_ignored(self, tmp_path):
        path = save(tmp_path / "a_gtFine_labelIds.png", np.full((2, 2), 255))
        assert (Cityscapes(tmp_path).decode_label(path) == IGNORED).all()

    @pytest.mark.parametrize(("ending", "wrong"), [("labelIds", 34), ("labelTrainIds", 19)])
    def test_unknown_id(self, tmp_path, ending, wrong):
        path = save(tmp_path / f"a_gtFine_{ending}.png", np.array([[0, wrong]]))
        with pytest.raises(BenchError) as error:
            Cityscapes(tmp_path).decode_label(path)
        assert str(path) in one_line(error) and f"id {wrong}" in str(error.value)

    def test_real_frame(self, cityscapes_root):
        dataset = Cityscapes(cityscapes_root)
        (pair,) = dataset.pairs("val")
        assert pair.label.name.endswith("_gtFine_labelIds.png")
        mapped = dataset.decode_label(pair.label)
        shipped = dataset.decode_label(Path(str(pair.label).replace("labelIds", "labelTrainIds")))
        assert mapped.size == 32768
        # The shipped train ids were scaled on their own.
        assert (mapped != shipped).sum() == 77

    def test_train_ids_only_where_there_is_nothing_else(self, tmp_path):
        frame = "gtFine/val/city/a_gtFine_"
        save(tmp_path / "leftImg8bit/val/city/a_leftImg8bit.png", np.zeros((2, 2, 3)))
        train_ids = save(tmp_path / f"{frame}labelTrainIds.png", np.full((2, 2), 18))
        dataset = Cityscapes(tmp_path)
        assert dataset.pairs("val")[0].label == train_ids
        assert (dataset.decode_label(train_ids) == 18).all()
        ids = save(tmp_path / f"{frame}labelIds.png", np.full((2, 2), 7))
        assert dataset.pairs("val")[0].label == ids

    def test_missing_label_is_an_error(self, tmp_path):
        image = save(tmp_path / "leftImg8bit/val/city/a_leftImg8bit.png", np.zeros((2, 2, 3)))
        (tmp_path / "gtFine/val").mkdir(parents=True)
        with pytest.raises(BenchError) as error:
            Cityscapes(tmp_path).pairs("val")
        assert str(image) in one_line(error) and "a_gtFine_labelIds.png" in str(error.value)

    def test_missing_folder_and_empty_split(self, tmp_path):
        with pytest.raises(BenchError, match=r"leftImg8bit/train/CITY/\*_leftImg8bit.png"):
            Cityscapes(tmp_path).pairs("train")
        for folder in ("leftImg8bit/train/city", "gtFine/train"):
            (tmp_path / folder).mkdir(parents=True)
        with pytest.raises(BenchError, match="no images"):
            Cityscapes(tmp_path).pairs("train")

    def test_scored_at_the_labels_own_size(self, cityscapes_root):
        data = opened(cityscapes_root, dataset="cityscapes", input_size=(64, 128))
        ((images, labels),) = data.eval_loader("val", 4)
        assert images.shape == (1, 3, 64, 128) and labels.shape == (1, 128, 256)


class TestSizes:
    def test_input_size_comes_from_the_flag_then_the_checkpoint_then_the_data_set(self, root):
        flag = DataOptions(dataset="camvid", data_root=str(root), input_size=(10, 20))
        silent = DataOptions(dataset="camvid", data_root=str(root))
        assert SegmentationData(flag, input_size=(30, 40)).input_size == (10, 20)
        assert SegmentationData(silent, input_size=(30, 40)).input_size == (30, 40)
        assert SegmentationData(silent).input_size == (360, 480)

    def test_unknown_data_set(self):
        with pytest.raises(UsageError, match="did you mean camvid"):
            SegmentationData(DataOptions(dataset="camvit"))

    def test_crop_defaults_to_the_input_size(self, root):
        assert next(iter(opened(root).train_loader(2)))[0].shape[2:] == SIZE
        assert next(iter(opened(root).train_loader(2, crop_size=(8, 12))))[0].shape[2:] == (8, 12)


class TestTraining:
    def test_batches(self, root):
        loader = opened(root).train_loader(3)
        assert len(loader) == 2
        batches = list(loader)
        assert [tuple(images.shape) for images, _ in batches] == [(3, 3, *SIZE)] * 2
        images, labels = batches[0]
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        assert labels.min() >= 0 and labels.max() <= VOID

    def test_a_lone_incomplete_batch_is_kept(self, root):
        loader = opened(root).train_loader(16)
        assert len(loader) == 1
        assert next(iter(loader))[0].shape[0] == 7

    def test_workers_and_history_change_nothing(self, root):
        fresh = epoch_of(opened(root).train_loader(2), 3)
        alone = opened(root).train_loader(2)
        shared = opened(root, num_workers=2).train_loader(2)
        for loader in (alone, shared):
            for epoch in (1, 2):
                assert not torch.equal(epoch_of(loader, epoch)[0], fresh[0])
            later = epoch_of(loader, 3)
            assert torch.equal(later[0], fresh[0]) and torch.equal(later[1], fresh[1])

    def test_cache_changes_nothing(self, root):
        plain, cached = (opened(root, cache=cache) for cache in (False, True))
        for one, other in zip(epoch_of(plain.train_loader(2), 1), epoch_of(cached.train_loader(2), 1), strict=True):
            assert torch.equal(one, other)
        for (image, label), (cached_image, cached_label) in (
            (plain.load("train", index), cached.load("train", index)) for index in range(7)
        ):
            assert torch.equal(image, cached_image) and torch.equal(label, cached_label)
        assert torch.equal(plain.class_weights(), cached.class_weights())

    def test_cache_decodes_once(self, root, monkeypatch):
        data = opened(root, cache=True, num_workers=2)
        loader = data.train_loader(2)

        def never(_path):
            raise AssertionError("decoded again")

        monkeypatch.setattr(split_module, "read_image", never)
        assert epoch_of(loader, 0)[0].shape[0] == 6
        data.train_loader(2)

    def test_cache_may_be_filled_in_inference_mode(self, root):
        data = opened(root, cache=True)
        with torch.inference_mode():
            scored = torch.cat([images for images, _ in data.eval_loader("train", 7)])
        assert scored.shape[0] == 7
        assert not next(iter(data.train_loader(7)))[0].is_inference()

    def test_cache_holds_images_of_different_sizes(self, root):
        save(root / "val" / "val1.png", np.full((10, 12, 3), 9))
        save(root / "valannot" / "val1.png", np.full((10, 12), 3))
        data = opened(root, cache=True)
        data.eval_loader("val", 1)
        image, label = data.load("val", 1)
        assert image.shape == (3, 10, 12) and (image == 9).all() and (label == 3).all()
        assert data.load("val", 2)[0].shape == (3, *SIZE)

    def test_seed_changes_order_and_augmentation(self, root):
        options = DataOptions(dataset="camvid", data_root=str(root), input_size=SIZE, num_workers=0)
        one, two = (epoch_of(SegmentationData(options, seed=seed).train_loader(2), 0)[0] for seed in (0, 1))
        assert not torch.equal(one, two)

    def test_ranks_share_an_epoch_without_overlap(self, root, monkeypatch):
        seen = []
        monkeypatch.setattr(
            transforms, "augment", lambda image, label, _generator, **_sizes: (image.float(), label.long())
        )
        for rank in (0, 1):
            loader = opened(root).train_loader(4, rank=rank, world=2)
            assert len(loader) == 1
            seen.append(epoch_of(loader, 4)[0])
        both, (whole, _) = torch.stack(seen, dim=1).flatten(0, 1), epoch_of(opened(root).train_loader(4), 4)
        assert torch.equal(both, whole) and whole.flatten(1).unique(dim=0).shape[0] == 4

    def test_every_image_is_seen_once_an_epoch(self, root, monkeypatch):
        monkeypatch.setattr(
            transforms, "augment", lambda image, label, _generator, **_sizes: (image.float(), label.long())
        )
        images, _ = epoch_of(opened(root).train_loader(7), 0)
        assert images.flatten(1).unique(dim=0).shape[0] == 7

    def test_more_processes_than_images(self, root):
        with pytest.raises(BenchError, match="7 training images for 8 processes"):
            opened(root).train_loader(8, rank=0, world=8)
        with pytest.raises(BenchError, match="batch of 2 has no image for some of 3 processes"):
            opened(root).train_loader(2, rank=0, world=3)


class TestScoring:
    def test_images_at_input_size_labels_as_they_are(self, root):
        data = opened(root, input_size=(12, 16))
        images, labels = next(iter(data.eval_loader("val", 2)))
        assert images.shape == (2, 3, 12, 16)
        for index in range(2):
            image, label = data.load("val", index)
            assert torch.equal(labels[index], label.long())
            assert torch.equal(images[index], transforms.network_input(image, (12, 16)))

    @pytest.mark.parametrize("workers", [0, 2])
    def test_ranks_cover_every_image_once(self, root, workers):
        data = opened(root, num_workers=workers)
        whole = torch.cat([labels for _, labels in data.eval_loader("val", 2)])
        assert whole.shape[0] == 5
        parts = [torch.cat([labels for _, labels in data.eval_loader("val", 2, rank=r, world=2)]) for r in (0, 1)]
        assert torch.equal(parts[0], whole[0::2]) and torch.equal(parts[1], whole[1::2])

    def test_a_rank_without_images_has_no_batches(self, root):
        loader = opened(root).eval_loader("test", 2, rank=3, world=4)
        assert len(loader) == 0 and list(loader) == []

    @pytest.mark.parametrize("workers", [0, 1])
    def test_labels_of_different_size(self, root, workers):
        save(root / "val" / "val1.png", np.zeros((10, 12, 3)))
        save(root / "valannot" / "val1.png", np.zeros((10, 12)))
        data = opened(root, num_workers=workers)
        batches = list(data.eval_loader("val", 2))
        # One batch never holds two sizes, and the order stays that of the names.
        assert [tuple(labels.shape) for _, labels in batches] == [(1, 24, 32), (1, 10, 12), (2, 24, 32), (1, 24, 32)]
        assert len(list(data.eval_loader("val", 1))) == 5

    def test_an_error_in_a_worker_is_the_same_line(self, root):
        path = save(root / "valannot" / "val4.png", np.full(SIZE, 200))
        alone, shared = (failure_of(opened(root, num_workers=workers).eval_loader("val", 2)) for workers in (0, 2))
        assert alone == shared and str(path) in alone

    def test_an_error_while_caching_is_the_same_line(self, root):
        (root / "val" / "val4.png").write_bytes(b"no image")
        with pytest.raises(BenchError) as error:
            opened(root, cache=True, num_workers=2).eval_loader("val", 2)
        assert str(root / "val" / "val4.png") in one_line(error)

    def test_names(self, root):
        assert opened(root).names("test") == ["test0", "test1", "test2"]


class TestCalibration:
    def test_batches_at_network_size(self, root):
        batches = opened(root, input_size=(12, 16)).calibration(5, 2, seed=0)
        assert [images.shape[0] for images, _ in batches] == [2, 3]
        for images, labels in batches:
            assert images.shape[1:] == (3, 12, 16) and labels.shape[1:] == (12, 16)
            assert images.dtype == torch.float32 and labels.dtype == torch.int64

    def test_choice_depends_on_the_seed_only(self, root):
        one = opened(root).calibration(4, 4, seed=1)[0][0]
        assert torch.equal(one, opened(root, num_workers=2, cache=True).calibration(4, 4, seed=1)[0][0])
        assert not torch.equal(one, opened(root).calibration(4, 4, seed=2)[0][0])

    def test_without_replacement_from_the_training_split(self, root):
        data = opened(root)
        images = torch.cat([images for images, _ in data.calibration(100, 3, seed=0)])
        assert images.shape[0] == 7
        expected = torch.stack([transforms.network_input(data.load("train", index)[0], SIZE) for index in range(7)])
        order = [image.sum() for image in images], [image.sum() for image in expected]
        assert torch.allclose(torch.stack(order[0]).sort().values, torch.stack(order[1]).sort().values)


class TestClassWeights:
    def test_by_hand(self):
        # Class 0 in both images: 6 of 12; class 1 in the first only: 2 of 4; class 2 in the second: 4 of 8.
        counts = np.array([[2, 2, 0, 0], [4, 0, 4, 0]])
        assert median_frequency(counts).tolist() == [1, 1, 1, 0]
        # Frequencies 9/10, 1/10 and 5/5 (alone in the second image): the median is 0.9.
        weights = median_frequency(np.array([[9, 1, 0, 0], [0, 0, 5, 0]]))
        assert weights.tolist() == pytest.approx([1, 9, 0.9, 0])
        assert weights.dtype == np.float32

    def test_by_logarithm(self):
        weights = log_frequency(np.array([[6, 1, 0], [2, 1, 0]]))
        assert weights.tolist() == pytest.approx([1 / math.log(1.02 + 0.8), 1 / math.log(1.02 + 0.2), 0])
        assert weights.dtype == np.float32

    def test_over_the_training_labels(self, tmp_path):
        for index, ids in enumerate(([[0, 0], [0, 1]], [[VOID, 1], [VOID, 1]])):
            save(tmp_path / "train" / f"{index}.png", np.zeros((2, 2, 3)))
            save(tmp_path / "trainannot" / f"{index}.png", np.array(ids))
        by_logarithm = opened(tmp_path).class_weights("log")
        assert by_logarithm.tolist() == pytest.approx([1 / math.log(1.52), 1 / math.log(1.52), *[0] * 10])
        weights = opened(tmp_path).class_weights()
        # Frequencies: class 0 is 3 of 4; class 1 is 1 + 2 of 4 + 2, because void does not count.
        assert weights.shape == (12,)
        assert weights[:2].tolist() == pytest.approx([0.625 / 0.75, 0.625 / 0.5])
        assert weights[2:].sum() == 0

    def test_of_the_real_camvid(self, camvid_root):
        weights = opened(camvid_root, num_workers=2).class_weights()
        # Pavement is the median class; SegNet's published weights order the frequent classes the same way.
        assert weights[NAMES.index("pavement")] == 1
        frequent = [NAMES.index(name) for name in ("road", "building", "sky", "tree", "car", "pavement")]
        assert weights[frequent].tolist() == sorted(weights[frequent].tolist())
        assert weights[VOID] == 0
