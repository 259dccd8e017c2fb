"""The backbone of each network: which layers it is, and where its ImageNet weights come from."""

from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bench.torch_utils.torchvision_compat  # noqa: F401

# isort: split
import torchvision

from bench.errors import BenchError, UsageError
from bench.models import MODELS, ModelSpec, build_model
from bench.models.backbone import HasBackbone, in_backbone, load_backbone

OUTPUTS = 12


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: build_model(ModelSpec(name, OUTPUTS)) for name in ("resnet18_seg", "fcn_resnet50", "segnet")}


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, **_: object) -> dict[str, Tensor]:
        raise urllib.error.URLError(f"unexpected download of {url}")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)


def on_meta(name: str, outputs: int = OUTPUTS) -> nn.Module:
    with torch.device("meta"):
        return build_model(ModelSpec(name, outputs))


@pytest.mark.parametrize("name", MODELS)
def test_the_backbone_is_a_part_of_the_network(name: str) -> None:
    model = on_meta(name)
    inside = {layer for layer, _ in model.named_modules() if in_backbone(model, layer)}
    outside = {layer for layer, module in model.named_modules() if not (layer in inside or list(module.children()))}
    assert {layer.split(".")[0].rstrip("12345") for layer in inside} in (
        {"backbone"}, {"backbone_net"}, {"downs", "bottleneck"}, {"enc"},
    )  # fmt: skip
    assert any(layer.startswith(("classifier", "final_conv")) for layer in outside)
    if isinstance(model, HasBackbone):
        names = {module: layer for layer, module in model.named_modules()}
        assert {names[module] for module in model.backbone_layers().values()} <= inside
    assert not in_backbone(nn.Sequential(nn.Conv2d(3, 4, 1)), "0")


def resnet18_file(tmp_path: Path, **changes: Tensor | None) -> tuple[Path, nn.Module]:
    torch.manual_seed(3)
    net = torchvision.models.resnet18(weights=None)
    state = net.state_dict()
    for name, tensor in changes.items():
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    path = tmp_path / "resnet18.pth"
    torch.save(state, path)
    return path, net


def test_backbone_from_a_file(tmp_path: Path, networks: dict[str, nn.Module]) -> None:
    path, net = resnet18_file(tmp_path)
    model = networks["resnet18_seg"].eval()
    head = {name: tensor.clone() for name, tensor in model.classifier.state_dict().items()}
    load_backbone(model, str(path))
    net.fc, net.avgpool = nn.Identity(), nn.Identity()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model.backbone_net(images).flatten(1), net.eval()(images))
    assert all(torch.equal(head[name], tensor) for name, tensor in model.classifier.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_backbone_of_torchvisions_networks(tmp_path: Path, networks: dict[str, nn.Module]) -> None:
    net = torchvision.models.resnet50(weights=None)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in net.state_dict().items()}}, tmp_path / "r")
    model = networks["fcn_resnet50"]
    load_backbone(model, str(tmp_path / "r"))
    given = net.state_dict()
    loaded = model.backbone.state_dict()
    assert set(given) - set(loaded) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(given[name], tensor) for name, tensor in loaded.items())


def test_segnets_encoder_takes_vgg16(tmp_path: Path, networks: dict[str, nn.Module]) -> None:
    torch.manual_seed(4)
    vgg = torchvision.models.vgg
    features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True).eval()
    state = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    # The published file is older than the norms' counters, and has a classifier.
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg16_bn.pth")
    model = networks["segnet"].eval()
    load_backbone(model, str(tmp_path / "vgg16_bn.pth"))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        ours = images
        for stage, pool in enumerate(model.pools):
            ours, _ = pool(getattr(model, f"enc{stage + 1}")(ours))
        assert torch.equal(ours, features(images))


def test_backbone_that_does_not_fit(tmp_path: Path, networks: dict[str, nn.Module]) -> None:
    model = networks["resnet18_seg"]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for changes, message in [
        ({"layer3.0.conv2.weight": None}, r"tensor layer3\.0\.conv2\.weight is missing"),
        ({"conv1.weight": torch.zeros(64, 3, 3, 3)}, r"conv1\.weight is \[64, 3, 3, 3\], the network has \[64, 3, 7"),
        ({"layer5.weight": torch.zeros(1)}, r"the network has no tensor layer5\.weight"),
    ]:
        path, _ = resnet18_file(tmp_path, **changes)
        with pytest.raises(
            BenchError, match=r"resnet18\.pth does not fit the backbone resnet18: .*" + message
        ) as caught:
            load_backbone(model, str(path))
        assert "\n" not in str(caught.value)
    with pytest.raises(BenchError, match="does not exist"):
        load_backbone(model, str(tmp_path / "none.pth"))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["unet", "unet_small", "simple_segnet"])
def test_networks_without_a_published_backbone(name: str) -> None:
    with pytest.raises(UsageError, match=r"no backbone .* leave out `pretrained_backbone`"):
        load_backbone(on_meta(name), "imagenet")


def test_download_only_when_asked(monkeypatch: pytest.MonkeyPatch, networks: dict[str, nn.Module]) -> None:
    with pytest.raises(
        BenchError, match=r"cannot download https://.*/resnet18-\w+\.pth .* pass `pretrained_backbone="
    ) as caught:
        load_backbone(networks["resnet18_seg"], "imagenet")
    assert "\n" not in str(caught.value)
    net = torchvision.models.resnet18(weights=None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **_: net.state_dict())
    load_backbone(networks["resnet18_seg"], "imagenet")
    assert torch.equal(networks["resnet18_seg"].backbone_net[0].weight, net.conv1.weight)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet101_seg", "resnet101-"),
        ("deeplabv3_resnet50", "resnet50-"),
        ("fcn_resnet101", "resnet101-"),
        ("segnet", "vgg16_bn-"),
    ],
)
def test_download_of_the_right_backbone(name: str, file: str) -> None:
    with pytest.raises(BenchError, match=rf"cannot download https://download\.pytorch\.org/models/{file}"):
        load_backbone(on_meta(name), "imagenet")
