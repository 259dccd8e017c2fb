"""What specialists are made of: class responses, last features, outputs and labels of a group, the head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench.data import SegmentationData
from bench.datasets.options import DataOptions
from bench.errors import BenchError
from bench.models import ModelSpec, build_model
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.specialists.features import LastFeatures, output_layer
from bench.specialists.fusion import Fused, FusionHead, HeadSpec
from bench.specialists.group_labels import data_of_group, with_group_outputs
from bench.specialists.responses import class_responses

CPU = torch.device("cpu")
VOID = 11


def network(name="unet_small", **kwargs):
    spec = ModelSpec(name, 12, kwargs)
    return SavedModel(build_model(spec).eval(), spec)


def small():
    return network(width=8, depth=1)


def images(count=2, size=(16, 24)):
    return torch.rand(count, 3, *size)


def test_responses_are_means_over_the_pixels_of_each_class():
    pictures, labels = images(5), torch.randint(0, 5, (5, 32, 48))
    labels[labels == 4] = VOID
    found = class_responses(nn.Identity(), [(pictures[:2], labels[:2]), (pictures[2:], labels[2:])], 6, CPU)
    # A response stands for the pixel at the middle of its four, the lower right one by torch's nearest-exact.
    nearest = labels[:, 1::2, 1::2]
    values = pictures.double().movedim(1, -1)
    assert found.present == [0, 1, 2, 3] and found.pixels[4:].tolist() == [0, 0]
    for row, number in enumerate(found.present):
        assert torch.allclose(found.means[row], values[nearest == number].mean(dim=0), atol=1e-12)
    assert torch.allclose(found.spread, values[nearest < 4].std(dim=0, correction=0), atol=1e-12)


def test_responses_that_are_no_numbers_are_refused():
    labels = torch.zeros(1, 16, 24, dtype=torch.long)
    with pytest.raises(BenchError, match="nan or inf"):
        class_responses(nn.Identity(), [(images(1) * float("nan"), labels)], 2, CPU)


@pytest.mark.parametrize("name", ["unet_small", "resnet18_seg", "segformer_b0"])
def test_last_features_are_what_the_output_layer_reads(name):
    saved = network(name)
    layer = output_layer(saved)
    features = LastFeatures(saved.model, layer)
    pictures = images(1, (64, 64))
    with torch.no_grad():
        found, logits = features(pictures), saved.model(pictures)
        again = saved.model.get_submodule(layer)(found)
        if again.shape != logits.shape:
            again = nn.functional.interpolate(again, logits.shape[-2:], mode="bilinear", align_corners=False)
    assert found.shape[1] == features.channels
    assert torch.allclose(again, logits, atol=1e-5)


def test_an_auxiliary_head_is_not_the_output_layer():
    with torch.device("meta"):
        model = build_model(ModelSpec("fcn_resnet50", 12)).eval()
    assert output_layer(SavedModel(model, ModelSpec("fcn_resnet50", 12))) == "classifier.4"


def test_the_outputs_of_a_group_are_its_own_and_one_for_the_rest(tmp_path):
    saved, pictures = small(), images()
    with torch.no_grad():
        before = saved.model(pictures)
        narrow = with_group_outputs(saved, (1, 4, 5))
        after = narrow.model(pictures)
    others = [number for number in range(12) if number not in (1, 4, 5)]
    assert torch.allclose(after[:, :3], before[:, [1, 4, 5]], atol=1e-6)
    assert torch.allclose(after[:, 3], before[:, others].mean(dim=1), atol=1e-6)
    save_model(tmp_path / "narrow.pt", narrow)
    again = load_model(tmp_path / "narrow.pt")
    assert again.spec.outputs == 4
    with torch.no_grad():
        assert torch.equal(again.model(pictures), after)


def test_labels_of_a_group_keep_void_and_put_the_rest_behind(tiny_camvid):
    data = SegmentationData(DataOptions("camvid", str(tiny_camvid), num_workers=0), input_size=(48, 64))
    view = data_of_group(data, (3, 8))
    assert view.classes.names == ("road", "car", "background") and view.classes.outputs == 3
    (_, before), (_, after) = data.load("train", 0), view.load("train", 0)
    table = {3: 0, 8: 1, data.classes.ignore_index: view.classes.ignore_index}
    expected = np.vectorize(lambda number: table.get(number, 2))(before.numpy())
    assert {0, 1, 2} <= set(np.unique(expected)) and np.array_equal(after.numpy(), expected)
    # The data set that was viewed is as it was.
    assert torch.equal(data.load("train", 0)[1], before) and data.classes.outputs == 12
    assert view.files("train").record() == data.files("train").record()


def test_only_the_head_of_fused_specialists_learns():
    parts = [small() for _ in range(2)]
    extractors = [LastFeatures(part.model, output_layer(part)) for part in parts]
    fused = Fused(extractors, FusionHead(HeadSpec((8, 8), 4, 12))).train()
    assert not any(module.training for part in parts for module in part.model.modules()) and fused.head.training
    before = {name: tensor.clone() for name, tensor in fused.specialists.state_dict().items()}
    logits = fused(images())
    assert logits.shape == (2, 12, 16, 24)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in fused.head.parameters())
    assert all(parameter.grad is None for parameter in fused.specialists.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in fused.specialists.state_dict().items())


def test_features_of_other_sizes_are_brought_to_the_largest():
    head = FusionHead(HeadSpec((2, 3), 4, 5)).eval()
    with torch.no_grad():
        assert head([torch.rand(1, 2, 4, 6), torch.rand(1, 3, 8, 12)]).shape == (1, 5, 8, 12)
