"""Quality metrics against hand-made numbers, torchmetrics and cityscapesScripts."""

from __future__ import annotations

import copy
import itertools
import math
import time

import numpy as np
import pytest
import torch
from PIL import Image

from bench import metrics
from bench.datasets.base import Classes
from bench.errors import BenchError
from bench.metrics import ConfusionMatrix, Quality, miou_change_interval, miou_interval

VOID = 11
TWELVE = Classes(
    names=tuple(f"class{number}" for number in range(11)),
    palette=tuple((20 * number, 0, 0) for number in range(11)),
    outputs=12,
    ignore_index=VOID,
)
THREE = Classes(names=("a", "b", "c"), palette=((0, 0, 0), (1, 1, 1), (2, 2, 2)), outputs=3, ignore_index=255)


def score(classes: Classes, prediction: torch.Tensor, label: torch.Tensor) -> Quality:
    confusion = ConfusionMatrix(classes)
    confusion.update(prediction, label)
    return confusion.quality()


def random_maps(seed: int, size: tuple[int, ...] = (3, 37, 53)) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions that are right at about half of the pixels, labels with void; both with all 12 ids."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 12, size, generator=generator)
    other = torch.randint(0, 12, size, generator=generator)
    return torch.where(torch.rand(size, generator=generator) < 0.5, label, other), label


def camvid(root, split: str, step: int) -> list[torch.Tensor]:
    from bench.datasets.camvid import CamVid

    dataset = CamVid(root)
    return [torch.from_numpy(dataset.decode_label(pair.label))[None] for pair in dataset.pairs(split)[::step]]


def jaccard(batches) -> np.ndarray:
    from torchmetrics import JaccardIndex

    oracle = JaccardIndex(task="multiclass", num_classes=12, ignore_index=VOID, average=None)
    for prediction, label in batches:
        oracle.update(prediction.long(), label.long())
    return oracle.compute().numpy()[:11]


def test_by_hand():
    #                      a  a  b  b  b  void
    label = torch.tensor([[0, 0, 1, 1, 1, 255]])[None]
    prediction = torch.tensor([[0, 1, 1, 1, 0, 2]])[None]
    quality = score(THREE, prediction, label)
    assert quality.iou["a"] == pytest.approx(1 / 3)
    assert quality.iou["b"] == pytest.approx(2 / 4)
    assert math.isnan(quality.iou["c"])
    assert quality.miou == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert quality.pixel_accuracy == pytest.approx(3 / 5)
    assert quality.class_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert quality.frequency_weighted_iou == pytest.approx(2 / 5 * 1 / 3 + 3 / 5 * 1 / 2)
    assert quality.classes_present == 2


def test_counts_are_truth_by_prediction():
    confusion = ConfusionMatrix(TWELVE)
    confusion.update(torch.tensor([[[3, 3, 11]]]), torch.tensor([[[2, 2, 4]]]))
    assert confusion.counts.dtype == torch.int64
    assert confusion.counts.shape == (11, 12)
    assert confusion.counts[2, 3] == 2
    assert confusion.counts[4, 11] == 1
    assert confusion.counts.sum() == 3


def test_class_predicted_but_never_true_scores_zero():
    quality = score(THREE, torch.tensor([[[0, 2]]]), torch.tensor([[[0, 0]]]))
    assert quality.iou["c"] == 0
    assert quality.miou == pytest.approx((1 / 2 + 0) / 2)
    assert quality.class_accuracy == pytest.approx(1 / 2)


def test_void_output_on_a_scored_pixel_is_a_miss():
    label = torch.tensor([[[0, 0, 0, 0]]])
    quality = score(TWELVE, torch.tensor([[[0, 0, 0, VOID]]]), label)
    assert quality.miou == quality.iou["class0"] == 3 / 4
    assert quality.pixel_accuracy == 3 / 4


def test_nothing_scored_is_nan_not_zero():
    quality = score(THREE, torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 2, 2), 255))
    assert math.isnan(quality.miou)
    assert math.isnan(quality.pixel_accuracy)
    assert quality.classes_present == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_small_integer_types_do_not_overflow(dtype):
    prediction, label = random_maps(0)
    expected = ConfusionMatrix(TWELVE)
    expected.update(prediction, label)
    confusion = ConfusionMatrix(TWELVE)
    confusion.update(prediction.to(dtype), label.to(dtype))
    assert torch.equal(confusion.counts, expected.counts)


def counted(*batches) -> ConfusionMatrix:
    confusion = ConfusionMatrix(TWELVE)
    for prediction, label in batches:
        confusion.update(prediction, label)
    return confusion


def test_images_are_counted_one_by_one_and_add_up():
    prediction, label = random_maps(1)
    whole = counted((prediction, label))
    parts = counted((prediction[:1], label[:1]), (prediction[1:], label[1:]))
    assert whole.per_image.shape == (3, 11, 12) and whole.per_image.dtype == torch.int64
    assert torch.equal(whole.per_image, parts.per_image)
    for image in range(3):
        one = slice(image, image + 1)
        assert torch.equal(whole.per_image[image], counted((prediction[one], label[one])).counts)
    assert torch.equal(whole.counts, whole.per_image.sum(dim=0))
    assert whole.counts.sum() == (label != VOID).sum()


def test_a_perfect_camvid_prediction_scores_one_although_the_network_has_twelve_outputs():
    """Void is an output but no class: dividing by 12 would give 0.917."""
    from bench.datasets.camvid import CamVid

    label = torch.arange(12).repeat(2, 5, 3)
    quality = score(CamVid.classes, label.clone(), label)
    assert (CamVid.classes.outputs, len(quality.iou), quality.classes_present) == (12, 11, 11)
    assert quality.miou == 1.0


def test_counting_does_not_loop_over_pixels():
    """The same as such a loop, in a small part of its time."""
    prediction, label = random_maps(5, (2, 600, 800))
    seconds = []

    def loop() -> list[list[int]]:
        counts = [[0] * 12 for _ in range(12)]
        for true, found in zip(label.flatten().tolist(), prediction.flatten().tolist(), strict=True):
            counts[true][found] += 1
        return counts[:VOID]

    def timed(work):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
        return result

    assert timed(lambda: counted((prediction, label))).counts.tolist() == timed(loop)
    assert seconds[0] < 0.4 * seconds[1]


def test_cityscapes_is_scored_from_label_ids_on_every_image_at_full_size(tmp_path):
    """No file of train ids is needed, no image goes missing, and the label is not scaled to the network's input."""
    from bench.data import SegmentationData
    from bench.datasets.cityscapes import TRAIN_ID_TO_ID
    from bench.datasets.options import DataOptions

    ids = np.random.default_rng(0).choice([*TRAIN_ID_TO_ID, 0], (3, 17, 33)).astype(np.uint8)
    for frame, label in enumerate(ids):
        for kind, ending, pixels in (
            ("leftImg8bit", "leftImg8bit", np.zeros((17, 33, 3), np.uint8)),
            ("gtFine", "gtFine_labelIds", label),
        ):
            path = tmp_path / kind / "val" / "ulm" / f"ulm_00000{frame}_000019_{ending}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    options = DataOptions("cityscapes", str(tmp_path), input_size=(8, 16), num_workers=0)
    data = SegmentationData(options)
    confusion = ConfusionMatrix(data.classes)
    for images, labels in data.eval_loader("val", 2):
        assert images.shape[-2:] == (8, 16)
        confusion.update(labels.where(labels != 255, 0), labels)
    scored = [np.bincount(label[label > 0], minlength=34)[list(TRAIN_ID_TO_ID)].tolist() for label in ids]
    assert confusion.per_image.sum(dim=2).tolist() == scored
    assert confusion.quality().miou == 1.0
    (tmp_path / "gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(BenchError, match=r"ulm_000001_000019_leftImg8bit\.png has no label"):
        SegmentationData(options).eval_loader("val", 2)


# ---- intervals ----------------------------------------------------------------------------------------


def per_image(*shares: float, pixels: int = 100) -> torch.Tensor:
    """Counts of images of one class, that share of whose pixels is right; the rest is void to the network."""
    counts = torch.zeros(len(shares), 11, 12, dtype=torch.int64)
    for row, share in zip(counts, shares, strict=True):
        row[0, 0] = round(share * pixels)
        row[0, VOID] = pixels - row[0, 0]
    return counts


def test_interval_is_that_of_a_mean_where_the_score_is_one():
    """Of images with one class and as many pixels each, the IoU is the mean of the shares that are right."""
    shares = np.random.default_rng(0).choice(101, 200) / 100
    low, high = miou_interval(per_image(*shares))
    error = 1.96 * shares.std() / len(shares) ** 0.5
    assert low == pytest.approx(shares.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(shares.mean() + error, abs=0.1 * error)
    assert (low, high) == miou_interval(per_image(*shares))


def test_interval_resamples_counts_and_not_scores():
    """Two images of which one is empty but for a pixel: the mean of the images' IoUs would be 0.5."""
    counts = per_image(1.0, 0.0)
    counts[1] //= 100
    low, high = miou_interval(counts)
    # One draw in four is the small image twice, one in two holds both.
    assert (low, high) == (0.0, 1.0)
    resampled = metrics.resampled_miou(counts)
    assert sorted(set(resampled.tolist())) == pytest.approx([0, 100 / 101, 1])
    assert (resampled == 0).double().mean() == pytest.approx(0.25, abs=0.03)


def test_resamples_agree_with_a_loop_over_them():
    prediction, label = random_maps(3, (6, 9, 11))
    confusion = counted((prediction, label))
    drawn = torch.randint(6, (metrics.RESAMPLES, 6), generator=torch.Generator().manual_seed(0))
    expected = []
    for draw in drawn[:50]:
        expected.append(counted((prediction[draw], label[draw])).quality().miou)
    np.testing.assert_allclose(metrics.resampled_miou(confusion.per_image)[:50], expected, atol=1e-12)


def test_change_is_measured_on_the_same_resamples():
    shares = np.random.default_rng(1).choice(90, 50) / 100
    before, after = per_image(*shares), per_image(*(shares + 0.1))
    low, high = miou_change_interval(before, after)
    # Ten points on every image are ten points on every choice of images, however much they differ in difficulty.
    assert low == pytest.approx(0.1) and high == pytest.approx(0.1)
    assert miou_interval(before)[1] - miou_interval(before)[0] > 0.1
    assert miou_change_interval(after, before) == pytest.approx((-0.1, -0.1))
    assert miou_change_interval(before, before) == (0, 0)


def test_change_between_different_images_is_refused():
    with pytest.raises(ValueError, match="not scored on the same images"):
        miou_change_interval(per_image(0.5, 0.5), per_image(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="not scored on the same images"):
        miou_change_interval(per_image(0.5, 0.5), per_image(0.5, 0.5, pixels=99))


def test_one_image_has_no_interval():
    assert counted(random_maps(0, (1, 5, 5))).quality().miou_interval is None
    assert miou_change_interval(per_image(0.5), per_image(0.6)) is None


def test_interval_is_part_of_the_quality():
    confusion = counted(random_maps(2))
    quality = confusion.quality()
    assert quality.miou_interval == miou_interval(confusion.per_image)
    assert quality.miou_interval[0] < quality.miou < quality.miou_interval[1]


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"\[1, 4, 4\].*\[1, 1, 4, 4\]"):
        score(THREE, torch.zeros(1, 4, 4, dtype=torch.int64), torch.zeros(1, 1, 4, 4, dtype=torch.int64))


def test_label_id_that_means_nothing_is_refused():
    with pytest.raises(BenchError, match="neither one of the 3 classes nor 255"):
        score(THREE, torch.zeros(1, 1, 1, dtype=torch.int64), torch.full((1, 1, 1), 3))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [(1, 1, 101), (2, 33, 47)])
def test_agrees_with_torchmetrics_on_random_maps(seed, size):
    prediction, label = random_maps(seed, size)
    quality = score(TWELVE, prediction, label)
    # torchmetrics calls an absent class 0; here all 11 occur.
    assert quality.classes_present == 11
    expected = jaccard([(prediction, label)])
    np.testing.assert_allclose(list(quality.iou.values()), expected, atol=1e-6, rtol=0)
    assert quality.miou == pytest.approx(expected.mean(), abs=1e-6)


def test_accuracies_agree_with_torchmetrics():
    from torchmetrics.classification import MulticlassAccuracy

    prediction, label = random_maps(9)
    quality = score(TWELVE, prediction, label)
    micro = MulticlassAccuracy(12, average="micro", ignore_index=VOID)(prediction, label)
    by_class = MulticlassAccuracy(12, average="none", ignore_index=VOID)(prediction, label)[:11]
    assert quality.pixel_accuracy == pytest.approx(micro.item(), abs=1e-6)
    assert quality.class_accuracy == pytest.approx(by_class.mean().item(), abs=1e-6)


def test_perfect_prediction_on_camvid_scores_one(camvid_root):
    from bench.datasets.camvid import CamVid

    confusion = ConfusionMatrix(CamVid.classes)
    for label in camvid(camvid_root, "val", 3):
        confusion.update(label.clone(), label)
    quality = confusion.quality()
    assert quality.classes_present == 11
    assert quality.miou == quality.pixel_accuracy == quality.class_accuracy == quality.frequency_weighted_iou == 1.0


def test_agrees_with_torchmetrics_on_camvid(camvid_root):
    """The label of one scene as the prediction of the next: real shapes, real void, many mistakes."""
    labels = camvid(camvid_root, "test", 12)
    batches = list(itertools.pairwise(labels))
    confusion = ConfusionMatrix(TWELVE)
    for prediction, label in batches:
        confusion.update(prediction, label)
    quality = confusion.quality()
    assert quality.classes_present == 11
    assert 0.1 < quality.miou < 0.9
    np.testing.assert_allclose(list(quality.iou.values()), jaccard(batches), atol=1e-6, rtol=0)


def test_agrees_with_cityscapes_scripts(cityscapes_root, tmp_path):
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
    from cityscapesscripts.helpers.labels import trainId2label

    from bench.datasets.cityscapes import Cityscapes

    dataset = Cityscapes(cityscapes_root)
    (pair,) = dataset.pairs("val")
    label = dataset.decode_label(pair.label)
    random = np.random.default_rng(0)
    # Shifted borders and salt, the latter putting classes there that the frame lacks.
    salt = random.integers(0, 19, label.shape, dtype=np.uint8)
    prediction = np.where(random.random(label.shape) < 0.05, salt, np.roll(label, (2, 5), (0, 1)))
    prediction = np.where(prediction == 255, salt, prediction)
    ids = np.array([trainId2label[number].id for number in range(19)], dtype=np.uint8)
    Image.fromarray(ids[prediction]).save(tmp_path / "prediction.png")

    # Their settings are a module's global; instance scores call a function numpy 2.4 no longer has.
    settings = copy.copy(official.args)
    settings.evalInstLevelScore = False
    matrix = official.generateMatrix(settings)
    official.evaluatePair(str(tmp_path / "prediction.png"), str(pair.label), matrix, {}, {}, settings)
    scores = {
        trainId2label[number].name: official.getIouScoreForLabel(trainId2label[number].id, matrix, settings)
        for number in range(19)
    }

    quality = score(Cityscapes.classes, torch.from_numpy(prediction)[None], torch.from_numpy(label)[None])
    assert list(quality.iou) == list(scores)
    np.testing.assert_allclose(list(quality.iou.values()), list(scores.values()), atol=1e-6, rtol=0)
    assert quality.miou == pytest.approx(official.getScoreAverage(scores, settings), abs=1e-6)
    assert 0 in scores.values(), "the frame should lack a class that is predicted"

    # The frame by itself: classes that occur nowhere have no IoU there either.
    Image.fromarray(ids[np.where(label == 255, 0, label)]).save(tmp_path / "perfect.png")
    matrix = official.generateMatrix(settings)
    official.evaluatePair(str(tmp_path / "perfect.png"), str(pair.label), matrix, {}, {}, settings)
    absent = {
        trainId2label[number].name
        for number in range(19)
        if math.isnan(official.getIouScoreForLabel(trainId2label[number].id, matrix, settings))
    }
    perfect = score(Cityscapes.classes, torch.from_numpy(label)[None].clamp(max=18), torch.from_numpy(label)[None])
    assert absent
    assert {name for name, value in perfect.iou.items() if math.isnan(value)} == absent
    assert perfect.miou == 1.0
