"""Predictions as files: what an evaluation server is handed scores what the report says."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from bench.datasets.options import DataOptions
from bench.errors import BenchError
from bench.jobs.evaluation import write_predictions
from bench.measure.baseline import Baseline
from bench.measure.options import ScoringOptions, TimingOptions
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, save_model


def reference(checkpoint, dataset: str, root, **scoring) -> Baseline:
    data = DataOptions(dataset, str(root), input_size=(48, 64), num_workers=0)
    how = ScoringOptions(**scoring), TimingOptions(latency=False)
    return Baseline(checkpoint, data, *how, device=torch.device("cpu"))


def test_label_ids_are_what_the_cityscapes_scripts_read(cityscapes_root, tmp_path):
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
    from cityscapesscripts.helpers.labels import trainId2label

    spec = ModelSpec("unet_small", 19)
    save_model(tmp_path / "net.pt", SavedModel(build_model(spec), spec))
    opened = reference(tmp_path / "net.pt", "cityscapes", cityscapes_root, split="val", flip=True)
    (name,) = opened.data.names("val")
    assert write_predictions(opened, None, tmp_path / "ids", label_ids=True) == 1
    assert write_predictions(opened, None, tmp_path / "train") == 1

    path = tmp_path / "ids" / f"{name}.png"
    ids, numbers = (np.array(Image.open(tmp_path / folder / f"{name}.png")) for folder in ("ids", "train"))
    assert Image.open(path).mode == "L" and ids.shape == (128, 256)
    assert ids.tolist() == np.vectorize(lambda number: trainId2label[number].id)(numbers).tolist()
    settings = copy.copy(official.args)
    settings.evalInstLevelScore = False
    matrix = official.generateMatrix(settings)
    official.evaluatePair(str(path), str(opened.data.dataset.pairs("val")[0].label), matrix, {}, {}, settings)
    scores = {
        trainId2label[number].name: official.getIouScoreForLabel(trainId2label[number].id, matrix, settings)
        for number in range(19)
    }
    found = [np.nan if value is None else value for value in opened.quality["iou"].values()]
    np.testing.assert_allclose(found, list(scores.values()), atol=1e-6, rtol=0)


def test_two_images_of_one_name_are_refused(tiny_camvid, tiny_baseline, tmp_path):
    root = shutil.copytree(tiny_camvid, tmp_path / "camvid")
    first = min((root / "test").iterdir())
    Image.open(first).convert("RGB").save(first.with_suffix(".jpg"))
    with pytest.raises(BenchError, match=f"two images of test are called {first.stem}"):
        write_predictions(reference(tiny_baseline, "camvid", root), None, tmp_path / "predictions")
    assert not (tmp_path / "predictions").exists()
